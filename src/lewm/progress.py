"""Progress on the error stream: bars in a terminal, and a plain line now and then where there is none."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID
from rich.text import Text

EVERY = 30.0  # seconds between two lines


def progress_bars(*columns: ProgressColumn, show: bool) -> Progress:
    """Return what shows tasks by columns: bars, or in a log file a line every 30 seconds and one at a task's end.

    Args:
        columns: What is shown of a task; bars are left out of lines.
        show: Whether anything is shown at all.
    """
    console = Console(stderr=True)
    if console.is_interactive or console.is_jupyter:
        return Progress(*columns, console=console, disable=not show)
    return _Lines(*columns, console=console, show=show)


class _Lines(Progress):
    """Print a task in a line instead of drawing it again and again."""

    def __init__(self, *columns: ProgressColumn, console: Console, show: bool) -> None:
        super().__init__(*columns, console=console, disable=True)  # of drawing
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
        columns = (column for column in self.columns if not isinstance(column, str | BarColumn))
        words = [text.plain if isinstance(text := column(task), Text) else str(text) for column in columns]
        print(" ".join(word for word in words if word), file=self.console.file, flush=True)
