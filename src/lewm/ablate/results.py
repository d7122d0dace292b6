"""Results as lines of JSON, which several commands may append to, each killed at any moment."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from lewm.ablate.table import Job
from lewm.files import plain_os_error

Line = dict[str, Any]


def append(path: Path, line: Line) -> None:
    """Append one line, whole and on disk; a line before it that a kill has cut short is ended first.

    Raises:
        OSError: If it cannot be written.
    """
    text = json.dumps(line, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with plain_os_error(path, "the lines before are kept"), lock, path.open("ab+", buffering=0) as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            text = text if file.read(1) == b"\n" else "\n" + text
        file.write(text.encode())
        os.fsync(file.fileno())


def read(path: Path) -> list[Line]:
    """Return the lines of a file, none if it is missing; what is no JSON object was cut short and is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("key"), str):
            lines.append(line)
    return lines


def by_label(lines: Iterable[Line]) -> dict[tuple[Any, ...], Line]:
    """Return the lines by the label of their job; of two with the same label the later one counts."""
    return {tuple(line.get(name) for name in ("study", "variant", "task", "seed", "key")): line for line in lines}


def made_for(job: Job, line: Line) -> Line:
    """Return the line of a job, given what was measured with its settings under another name."""
    mine = {
        "study": job.study,
        "variant": job.variant,
        "task": job.task,
        "seed": job.seed,
        "changes": dict(job.changes),
    }
    return mine | {name: value for name, value in line.items() if name not in mine}
