"""Exports of the models that come with the package, kept in the user's cache; no torch in this process."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from lewm.deploy.manifest import EXPORT_VERSION, read_manifest
from lewm.files import shorten
from lewm.names import did_you_mean
from lewm.version import __version__

_SHIPPED = Path(__file__).parents[1] / "pretrained"


def shipped_names() -> tuple[str, ...]:
    """List the models that there are; as `lewm.pretrained_names`, which needs torch."""
    return tuple(sorted(path.parent.name for path in _SHIPPED.glob("*/config.json")))


def export_of(name: str) -> Path:
    """Return where the export of a shipped model is kept, by the content of the model; or a folder that is given.

    Raises:
        ValueError: If there is no such model or folder.
    """
    names = shipped_names()
    if name in names:
        digest = hashlib.sha256(f"{__version__} {EXPORT_VERSION} read".encode())
        for file in sorted((_SHIPPED / name).iterdir()):
            if file.suffix in (".json", ".safetensors"):
                digest.update(file.read_bytes())
        return cache_folder() / "exports" / f"{name}-{digest.hexdigest()[:16]}"
    if Path(name).is_dir():
        return Path(name)
    remedy = did_you_mean(name, names, "give one of them, or an export folder")
    raise ValueError(f"name={shorten(name, 60)}: must be one of {', '.join(names)}, or an export folder; {remedy}")


def cache_folder() -> Path:
    """Return the folder in which this package may keep what it can make anew."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "lewm"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lewm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lewm"


def is_whole(folder: Path) -> bool:
    """Whether an export is there, unchanged."""
    try:
        read_manifest(folder)
    except ValueError:
        return False
    return True


def write_export(name: str, folder: Path, *, tell: Callable[[str], None], over: threading.Event) -> None:
    """Export a shipped model by `lewm export` in a process of its own.

    Args:
        name: Of the model.
        folder: Where it will be.
        tell: Is told the newest line of its progress.
        over: Set to end it.

    Raises:
        ValueError: If it fails; with what it said.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lewm", "export", "--pretrained", name, "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    assert process.stderr is not None
    ending = threading.Thread(target=lambda: (over.wait(), process.terminate()), daemon=True)
    ending.start()
    line = ""
    for line in process.stderr:  # universal newlines: a carriage return ends a line too
        if line.strip():
            tell(line.strip())
    if process.wait() != 0 and not over.is_set():
        told = shorten(line.strip(), 200)
        raise ValueError(f"export of {name}: failed ({told}); try `lewm export --pretrained {name}`")
