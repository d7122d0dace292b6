"""Progress on the error stream: bars in a terminal, words in a narrow one, a plain line now and then where none is."""

import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

EVERY = 30.0  # seconds between two lines
_SPEED_OVER = 600.0  # seconds: some steps take a minute each
ROOM = 80  # columns that a bar and its numbers need


def progress_bars(*columns: ProgressColumn, show: bool) -> Progress:
    """Return what shows tasks by columns: bars, or in a log file a line every 30 seconds and one at a task's end.

    Args:
        columns: What is shown of a task; bars are left out of lines.
        show: Whether anything is shown at all.
    """
    console = Console(stderr=True)
    if console.is_interactive or console.is_jupyter:
        fitting = columns if console.width >= ROOM else (_Words(*columns),)
        return Progress(*fitting, console=console, disable=not show, speed_estimate_period=_SPEED_OVER)
    return _Lines(*columns, console=console, show=show)


class _Words(ProgressColumn):
    """All that columns say of a task but bars, folded where the terminal ends; columns side by side would be cut."""

    def __init__(self, *columns: ProgressColumn) -> None:
        super().__init__(table_column=Column(overflow="fold"))
        self._columns = columns

    def render(self, task: Task) -> Text:
        return Text(_words(self._columns, task))


def _words(columns: Iterable[ProgressColumn | str], task: Task) -> str:
    shown = (column for column in columns if not isinstance(column, str | BarColumn))
    words = [text.plain if isinstance(text := column(task), Text) else str(text) for column in shown]
    return " ".join(word for word in words if word)


class _Lines(Progress):
    """Print a task in a line instead of drawing it again and again."""

    def __init__(self, *columns: ProgressColumn, console: Console, show: bool) -> None:
        super().__init__(*columns, console=console, disable=True, speed_estimate_period=_SPEED_OVER)  # of drawing
        self._show, self._last, self._ended = show, time.monotonic(), set[TaskID]()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        ends = task.finished and task_id not in self._ended
        if not self._show or not (ends or time.monotonic() - self._last >= EVERY):
            return
        if task.finished:
            self._ended.add(task_id)
        self._last = time.monotonic()
        print(_words(self.columns, task), file=self.console.file, flush=True)
