"""A folder of small files that takes a run from one machine to the next: parts of at most 16 MiB, and an index.

`index.json` says where a run stands and which files belong to it, each with the size and SHA-256 of its parts. A part
is named by its content and written before the index, which is replaced in one step; parts that it no longer names are
removed last. Whenever the writer is killed, the folder holds the old state or the new one.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lewm.files import atomic_path, write_text

INDEX = "index.json"
SCHEMA_VERSION = 1
PART_BYTES = 16 * 2**20


def save_parts(folder: Path, files: Mapping[str, Path], progress: Mapping[str, Any]) -> None:
    """Write files, by the names that they get back, and how far the run is."""
    folder.mkdir(parents=True, exist_ok=True)
    listed: dict[str, list[dict[str, Any]]] = {}
    for name, path in files.items():
        listed[name] = []
        with path.open("rb") as file:
            while content := file.read(PART_BYTES):
                digest = hashlib.sha256(content).hexdigest()
                listed[name].append({"bytes": len(content), "sha256": digest})
                if not _part(folder, digest).is_file():
                    with atomic_path(_part(folder, digest)) as temporary:
                        temporary.write_bytes(content)
    index = {"schema_version": SCHEMA_VERSION, "files": listed, "progress": dict(progress)}
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    named = {_part(folder, part["sha256"]) for parts in listed.values() for part in parts}
    for path in set(folder.glob("*.part")) - named:
        path.unlink()


def load_parts(folder: Path, out: Path) -> dict[str, Any] | None:
    """Put the files back under `out` and return how far the run is; None where nothing was saved yet.

    Raises:
        ValueError: If the index or a part is damaged or missing.
    """
    if not (folder / INDEX).is_file():
        return None
    remedy = "copy the folder again or give an empty one"
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        progress = dict(index["progress"])
        version, files = index["schema_version"], {n: [_checked(p) for p in ps] for n, ps in index["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"state={folder}: {INDEX} is damaged ({reason}); {remedy}") from None
    if version != SCHEMA_VERSION:
        raise ValueError(f"state={folder}: schema_version={version}: must be {SCHEMA_VERSION}; give an empty folder")
    for name, parts in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"state={folder}: {INDEX} names a file outside of it ({name}); {remedy}")
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for size, digest in parts:
                part = _part(folder, digest)
                if not part.is_file():
                    raise ValueError(f"state={folder}: {part.name} of {name} is missing; {remedy}")
                content = part.read_bytes()
                if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
                    raise ValueError(f"state={folder}: {part.name} of {name} is damaged; {remedy}")
                file.write(content)
    return progress


def _part(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.part"


def _checked(part: Mapping[str, Any]) -> tuple[int, str]:
    size, digest = part["bytes"], part["sha256"]
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"sha256={digest!r}")
    return size, digest
