"""The files of a LeRobot data set: paths from templates, none of which leaves the folder, and JSON of bounded size."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any

INFO = "meta/info.json"
_FIELD = re.compile(r"\{(\w+)(?::0(\d{1,2})d)?\}")
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60
short = _SHORT.repr
_JSON_BYTES = 16 * 2**20
_LISTED = 120


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of the data set, named in messages as in the data set's folder."""

    path: Path
    name: str

    def __str__(self) -> str:
        return clipped(self.name)


def fill(template: str, fields: Mapping[str, int | str]) -> str:
    """Put values in a path template, which may hold `{name}` and `{name:03d}` for the given names and nothing else."""
    if re.search("[{}]", _FIELD.sub("", template)) or any(
        name not in fields or (width and isinstance(fields[name], str)) for name, width in _FIELD.findall(template)
    ):
        raise ValueError(f"{INFO}: path {short(template)}: may hold no fields but {', '.join(fields)}; repair the file")
    return _FIELD.sub(lambda match: str(fields[match[1]]).zfill(int(match[2] or 0)), template)


def matching(root: Path, template: str, field: str) -> list[int]:
    """Return the numbers that stand for a field of a path template in the files of the folder."""
    text, *parts = _FIELD.split(template)  # then name, width and text, again and again
    pattern = re.escape(text)
    for name, _, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        group = f"?P<{field}>" if name == field and f"<{field}>" not in pattern else "?:"
        pattern += rf"({group}[0-9]{{1,18}}){re.escape(text)}"
    paths = (path.relative_to(root).as_posix() for path in root.rglob(f"*{Path(template).suffix}"))
    return sorted({int(match[field]) for path in paths if (match := re.fullmatch(pattern, path))})


def inside(root: Path, name: str) -> Path:
    """Return a path in the folder with all links resolved, and refuse those that leave it."""
    if not name.isprintable():
        raise ValueError(f"{short(name)}: is no path; repair the data set")
    path = Path(os.path.realpath(root / name))
    if path.is_relative_to(root):
        return path
    raise ValueError(f"{short(name)}: leads out of the folder; copy the data set with its links resolved")


def exists(root: Path, name: str) -> bool:
    """Tell whether there is such a regular file in the folder."""
    return os.path.isfile(inside(root, name))


def find(root: Path, name: str) -> DataFile:
    """Return a regular file in the folder."""
    path = inside(root, name)
    if not os.path.isfile(path):
        raise ValueError(f"{clipped(name)}: is missing or no file; copy the data set again")
    return DataFile(path, name)


def line_of(error: Exception) -> str:
    """Return the first line of a library's message, shortened."""
    return clipped((str(error).splitlines() or [type(error).__name__])[0])


def clipped(text: str, most: int = _LISTED) -> str:
    """Return a text, or as much of it as a line may hold."""
    return text if len(text) <= most else text[: most - 4] + " ..."


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not JSON ({line_of(error)}); repair the file") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be a JSON object; repair the file")
    return value


def read_json(file: DataFile) -> dict[str, Any]:
    """Return the object that a file holds."""
    try:
        with open(file.path, "rb") as opened:
            text = opened.read(_JSON_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); see to the permissions") from error
    if len(text) > _JSON_BYTES:
        raise ValueError(f"{file}: has more than {_JSON_BYTES} bytes; repair the file")
    return _parse(text, str(file))


def read_json_lines(file: DataFile, most: int) -> Iterator[dict[str, Any] | str]:
    """Yield the objects of a file with one on each line, or why a line holds none."""
    seen = 0
    try:
        with open(file.path, "rb") as opened:
            # A longer line is cut, and then no JSON.
            for number, line in enumerate(iter(lambda: opened.readline(_JSON_BYTES), b""), 1):
                if not line.strip():
                    continue
                if seen == most:
                    raise ValueError(f"{file}: has more than {most} lines; split the data set")
                seen += 1
                try:
                    row = _parse(line, f"{file}, line {number}")
                except ValueError as error:
                    row = str(error)
                yield row
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); see to the permissions") from error
