"""What of a folder or an archive belongs to a recording, and in which order."""

import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_OF_SYSTEMS = frozenset({
    "__macosx", "icon\r",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
    "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found", "__pycache__",
})  # fmt: skip
_LISTED = 120
_GLANCE = 100
_DIGITS = re.compile(r"([0-9]+)")


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is one that systems leave beside data, and never data.

    Names that begin with a dot, such as macOS's `._run1.mp4` and Jupyter's `.ipynb_checkpoints`, Office's locks, and
    what macOS, Windows and network disks call theirs.

    Args:
        name: the last part of a path.
    """
    return name.startswith((".", "~$")) or name.lower() in _OF_SYSTEMS


def is_hidden_path(path: str) -> bool:
    """Tell whether a member of an archive is hidden, or lies in a folder that is; `./` at the front means nothing.

    Args:
        path: the member's path, with slashes.
    """
    return any(is_hidden(part) for part in PurePosixPath(path).parts if part not in (".", ".."))


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return what to sort names by, so that `2.png` comes before `10.png`.

    Args:
        name: a name or a path.
    """
    parts = _DIGITS.split(name)
    return tuple(int(part) if k % 2 else part for k, part in enumerate(parts)), name


def visible(folder: Path) -> list[Path]:
    """Return what of a folder is not hidden, by name, numbers in them by size.

    Args:
        folder: the folder.
    """
    return sorted(
        (entry for entry in folder.iterdir() if not is_hidden(entry.name)), key=lambda entry: natural_key(entry.name)
    )


def glance(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """Return some entries of a folder that are not hidden, few enough to be quick.

    Args:
        folder: the folder.
    """
    with os.scandir(folder) as entries:
        return list(itertools.islice((entry for entry in entries if not is_hidden(entry.name)), _GLANCE))


def listed(names: Iterable[str]) -> str:
    """Return names for an error's one line: as many as fit in it.

    Args:
        names: the names.
    """
    text = ", ".join(names)
    return (text if len(text) <= _LISTED else f"{text[:_LISTED].rpartition(', ')[0] or text[:_LISTED]} ...") or "none"
