"""Work in parallel processes, in order, with progress."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_order(
    work: Callable[..., Result],
    arguments: Iterable[tuple[Any, ...]],
    *,
    names: Iterable[int],
    workers: int,
    ahead: int,
) -> Generator[Result]:
    """Yield `work(*arguments[i])` for every i in order, from processes that run a few of them ahead.

    Args:
        work: a function of a module, called in a worker.
        arguments: of each call.
        names: number of each call's episode, for the error message.
        workers: processes.
        ahead: calls that are under way or done and not yet taken.

    Raises:
        RuntimeError: a call failed or a worker died; the results before have been yielded.
    """
    # Never fork: a process that has used threads (torch's among them) may not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)
    try:
        waiting: deque[tuple[int, Future[Result]]] = deque()
        rest = zip(names, arguments, strict=True)
        while True:
            while len(waiting) < ahead and (following := next(rest, None)) is not None:
                waiting.append((following[0], pool.submit(work, *following[1])))
            if not waiting:
                return
            name, future = waiting.popleft()
            if (error := future.exception()) is not None:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise RuntimeError(
                    f"episode={name}: a worker failed ({reason}); the episodes before are stored, run again to go on"
                ) from error
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def frame_counter(total: int, title: str, *, show: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts finished frames, on a progress bar on the error stream if wanted."""
    if not show or total == 0:
        yield lambda frames: None
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    from lewm.progress import progress_bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} frames, {task.fields[rate]} frames/s,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    start = time.perf_counter()
    with progress_bars(*columns, show=True) as bar:
        row = bar.add_task(title, total=total, rate="-")
        done = 0

        def count(frames: int) -> None:
            nonlocal done
            done += frames
            bar.update(row, completed=done, rate=f"{done / (time.perf_counter() - start):,.0f}")

        yield count
