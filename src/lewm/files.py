"""Atomic writes: a reader sees the old file or the new one, never a part. And what errors say of files, in a line."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_MESSAGE = 300
"""Characters of an error, at most: it is read in a terminal."""
_LONGEST_WORD = 80  # in a line that is too long: enough for a path's beginning and its end


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
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    with plain_os_error(path, "the file is as it was"):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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
