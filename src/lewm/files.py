"""Atomic writes: a reader sees the old file or the new one, never a part. And what errors say of files, in a line.

What will be written after long work is tried before it: `check_file`, `check_folder` and `check_space`.
"""

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_MESSAGE = 300
"""Characters of an error, at most: it is read in a terminal."""
_LONGEST_WORD = 80  # in a line that is too long: enough for a path's beginning and its end
_BLOCK = bytes(4096)  # written to try a disk: what is smaller may fit where nothing else does


def shorten(text: object, most: int = LONGEST_MESSAGE) -> str:
    """Bring a text into one line of at most `most` characters.

    Long words, such as paths, lose their middle first, and then the line does: where something is and what remedies it
    stand at the ends.
    """
    words = str(text).split()
    if len(" ".join(words)) > most:
        words = [_cut(word, _LONGEST_WORD) for word in words]
    return _cut(" ".join(words), most)


def _cut(text: str, most: int) -> str:
    kept = max(most - len("..."), 0)
    return text if len(text) <= most else f"{text[: kept // 2]}...{text[len(text) - kept + kept // 2 :]}"


@contextmanager
def short_errors() -> Iterator[None]:
    """Shorten the message of a ValueError or a RuntimeError that comes from inside.

    Raises:
        ValueError: As inside.
        RuntimeError: As inside.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        text = shorten(error)
        if text == str(error):
            raise
        raise (ValueError if isinstance(error, ValueError) else RuntimeError)(text) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is flushed to disk and renamed to `path`.

    One process at a time may write `path`. The temporary name is always the same, so that what a kill leaves behind is
    written over and does not pile up.

    Raises:
        OSError: If the disk is full or the folder cannot be written; `path` is then as it was.
    """
    temporary = _temporary(path)
    with plain_os_error(path, "the file is as it was"):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.tmp{path.suffix}")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def plain_os_error(path: Path, kept: str) -> Iterator[None]:
    """Say in one line what a failed write means: where, why, what is `kept`, and the remedy.

    Raises:
        OSError: With the same number, for any OSError inside.
    """
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({os.strerror(error.errno or 0)})"
        remedy = "see to the disk and the permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = "disk full", "free some space"
        text = shorten(f"{path}: {reason}; {kept}, {remedy} and run again to go on")
        raise OSError(error.errno, text) from error


def check_file(path: Path, field: str) -> None:
    """Try whether a file can be written, before the work whose result it will hold; nothing is left behind.

    Args:
        path: The file. It may be there, and its folder need not be.
        field: What the user gives it by.

    Raises:
        ValueError: If it cannot be written.
    """
    if os.path.isdir(path):
        raise ValueError(shorten(f"{field}={path}: is a folder; give a file"))
    _try(path.parent, _temporary(path).name, f"{field}={path}")


def check_folder(folder: Path, field: str) -> None:
    """Try whether files can be written into a folder, which need not be there; see `check_file`.

    Raises:
        ValueError: If they cannot.
    """
    _try(folder, "", f"{field}={folder}")


def check_space(folder: Path, needed: float, field: str, remedy: str) -> None:
    """Check that the disk of a folder, which need not be there, has room for what will be written.

    Args:
        folder: Where it will be written.
        needed: Bytes, without those that are there already.
        field: What the user gives the folder by.
        remedy: What the user can do where there is no other disk.

    Raises:
        ValueError: If there is less.
    """
    disk = shutil.disk_usage(_nearest(folder))
    if disk.total and needed > disk.free:  # some network disks tell nothing
        sizes = f"needs about {_size(needed, math.ceil)} and {_size(disk.free, math.floor)} are free"
        raise ValueError(shorten(f"{field}={folder}: {sizes}; give a folder on another disk, or {remedy}"))


def _try(folder: Path, name: str, given: str) -> None:
    """Write something where a folder is or would be made, and try the names that are not there yet."""
    place = _nearest(folder)
    if not os.path.isdir(place):
        raise ValueError(shorten(f"{given}: {place} is no folder; give another path"))
    try:
        for part in (*folder.parts[len(place.parts) :], name):
            with suppress(FileNotFoundError):
                (place / part).lstat()  # a name may be too long
        # Folders are not made: another process may be about to write into one that this one removes again.
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(_BLOCK)
            file.flush()
    except OSError as error:
        reason = f"cannot be written ({os.strerror(error.errno or 0)})"
        remedy = "see to the disk and the permissions, or give another place"
        raise ValueError(shorten(f"{given}: {reason}; {remedy}")) from error


def _nearest(path: Path) -> Path:
    """Return a path, or the nearest of its parents that is there."""
    return next((place for place in (path, *path.parents) if os.path.lexists(place)), Path())


def _size(count: float, rounded: Callable[[float], int]) -> str:
    """Return bytes as text, to a tenth of a unit."""
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB")
    return f"{rounded(10 * count / unit) / 10:,} {name}"
