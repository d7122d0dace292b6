"""How results and progress are shown."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lewm.data import Store

_ENDLESS = 10_000  # columns of a pipe or a file
_NARROW = 18  # columns that names are folded to


def print_result(as_json: bool, result: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Print a result as one line of JSON, or as it is shown to people."""
    if as_json:
        print(json.dumps(result))
    else:
        show()


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows whose first cell is a name and whose others are values, every one of them in full.

    In a narrow terminal names are folded, and where even that leaves too little room, each row becomes lines. A pipe or
    a file has no width, unless COLUMNS says one.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=_ENDLESS)
    name, *values = heads
    table = Table(Column(name, overflow="fold"), *(Column(head, no_wrap=True) for head in values))
    for row in rows:
        table.add_row(*map(Text, row))  # names of the data may hold brackets, which are no markup here
    console.print(Text(title, style="italic"), soft_wrap=True)
    names = [row[0] for row in (heads, *rows)]
    longest_word = max(cell_len(word) for text in names for word in (text.split() or [""]))
    needed = min(max(map(cell_len, names)), max(longest_word, _NARROW)) + sum(
        max(map(cell_len, cells)) for cells in list(zip(heads, *rows, strict=True))[1:]
    )
    if needed + 3 * len(heads) + 1 <= console.width:  # and the frame
        console.print(table)
        return
    for label, *cells in rows:
        if label:  # else the row goes on with the one before
            console.print(Text(label), soft_wrap=True)
        for head, cell in zip(values, cells, strict=True):
            if cell:
                console.print(Text(f"  {head}: {cell}"), soft_wrap=True)


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
