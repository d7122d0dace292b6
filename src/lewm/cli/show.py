"""How results and progress are shown."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lewm.data import Store


def print_result(as_json: bool, result: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Print a result as one line of JSON, or as it is shown to people."""
    if as_json:
        print(json.dumps(result))
    else:
        show()


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*heads, title=escape(title), title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))  # names of the data may hold brackets
    Console().print(table)


def announce(stage: str) -> None:
    print(stage, file=sys.stderr, flush=True)


def content(store: "Store") -> str:
    return f"{store.path}: {counted(store.num_episodes, 'episode')}, {counted(store.num_frames, 'frame')}"


def control(mode: str, evidence: str) -> str:
    return f"control mode: {mode} ({evidence})"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def number_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def short_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def rate_text(rate: float, interval: Sequence[float]) -> str:
    return f"{rate:.0%} ({interval[0]:.0%} to {interval[1]:.0%})"
