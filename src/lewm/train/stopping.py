"""Ctrl-C and SIGTERM: the step under way is finished, and a checkpoint saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that tells which of SIGTERM and Ctrl-C has come; the step under way is finished first.

    A second Ctrl-C does not wait for it.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python lets no handler be set
        yield lambda: None
        return

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    numbers = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before: dict[int, Any] = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(number: int | None, message: str) -> NoReturn:
    """End by what came; on another process of the same run nothing may have come."""
    raise KeyboardInterrupt(message) if number == signal.SIGINT else SystemExit(message)
