"""Results as lines of JSON, which several commands may append to, each killed at any moment."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from lewm.files import plain_os_error
from lewm.research.table import Job

Line = dict[str, Any]


def append(path: Path, line: Line) -> None:
    """Append one line, whole and on disk, in place of a last line that a kill has cut short.

    Raises:
        OSError: If it cannot be written.
    """
    text = json.dumps(line, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with plain_os_error(path, "the lines before are kept"), lock, path.open("ab+", buffering=0) as file:
        file.seek(0)
        whole, _, last = file.read().rpartition(b"\n")
        if _is_torn(last.decode(errors="replace")):
            file.truncate(len(whole) + 1 if whole else 0)
        elif last:
            text = "\n" + text
        file.write(text.encode())
        os.fsync(file.fileno())


def read(path: Path) -> list[Line]:
    """Return the lines of a file, none if it is missing; a last line that a kill has cut short is left out.

    Raises:
        ValueError: If it is a folder, or another line is not one of results.
    """
    if path.is_dir():
        raise ValueError(f"out={path}: is a folder; give a file, such as {path / 'results.jsonl'}")
    if not path.is_file():
        return []
    *texts, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if not _is_torn(last):
        texts.append(last)
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        line = _parsed(text)
        if not isinstance(line, dict) or not isinstance(line.get("key"), str):
            raise ValueError(f"out={path}: line {number} is not one of results; take it out, or give another file")
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


def _is_torn(last: str) -> bool:
    """Tell whether what follows the last line break is the beginning of a line, and not a foreign file's text."""
    return last.startswith("{") and _parsed(last) is None


def _parsed(text: str) -> Any:
    """Return a value of JSON, or None where there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
