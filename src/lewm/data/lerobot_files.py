"""The files of a LeRobot data set: paths from templates, none of which leaves the folder, and JSON of bounded size."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

INFO = "meta/info.json"
_FIELD = re.compile(r"\{(\w+)(?::0(\d{1,2})d)?\}")
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200
short = _SHORT.repr
_JSON_BYTES = 16 * 2**20


def fill(template: str, fields: Mapping[str, int | str]) -> str:
    """Put values in a path template, which may hold `{name}` and `{name:03d}` for the given names and nothing else."""
    if re.search("[{}]", _FIELD.sub("", template)) or any(
        name not in fields or (width and isinstance(fields[name], str)) for name, width in _FIELD.findall(template)
    ):
        raise ValueError(f"{INFO}: path {short(template)}: may hold no fields but {', '.join(fields)}; repair the file")
    return _FIELD.sub(lambda match: str(fields[match[1]]).zfill(int(match[2] or 0)), template)


def inside(root: Path, name: str) -> Path:
    """Return a path in the folder with all links resolved, and refuse those that leave it."""
    if not name.isprintable():
        raise ValueError(f"{root}: {short(name)} is no path; repair the data set")
    path = Path(os.path.realpath(root / name))
    if path.is_relative_to(root):
        return path
    raise ValueError(f"{root}: {short(name)} leads out of the folder; copy the data set with its links resolved")


def find(root: Path, name: str) -> Path:
    """Return the path of a regular file in the folder."""
    path = inside(root, name)
    if not os.path.isfile(path):
        raise ValueError(f"{path}: is missing or no file; copy the data set again")
    return path


def line_of(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not JSON ({line_of(error)}); repair the file") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be a JSON object; repair the file")
    return value


def read_json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read(_JSON_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); see to the permissions") from error
    if len(text) > _JSON_BYTES:
        raise ValueError(f"{path}: has more than {_JSON_BYTES} bytes; repair the file")
    return _parse(text, str(path))


def read_json_lines(path: Path, most: int) -> list[dict[str, Any]]:
    """Return the objects of a file with one on each line."""
    rows = []
    try:
        with open(path, "rb") as file:
            # A longer line is cut, and then no JSON.
            for number, line in enumerate(iter(lambda: file.readline(_JSON_BYTES), b""), 1):
                if line.strip():
                    rows.append(_parse(line, f"{path}, line {number}"))
                if len(rows) > most:
                    raise ValueError(f"{path}: has more than {most} lines; correct the counts in {INFO}")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); see to the permissions") from error
    return rows
