"""A store with an encoder's tokens in place of frames: computed once, kept beside the store, and read by clips."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from rich.progress import Progress
from torch import Tensor

from lewm.data.store import Store
from lewm.files import atomic_path, check_space, write_text
from lewm.progress import progress_bars

FRAMES_AT_ONCE = 64
FEATURES, DONE = "features.npy", "features.json"


class FeatureStore(Store):
    """A store whose `frames` are tokens (M, N, D) float16.

    They are in a folder beside the store, `STORE.features/NAME`, and are computed where they are missing or the store
    has changed since.

    Args:
        store: The frames, actions and episodes.
        encode: Represent frames (B, height, width, 3) uint8 as tokens (B, N, D).
        name: Tells one encoder, and how it is used, from another.

    Raises:
        ValueError: The disk has no room for the tokens.
    """

    def __init__(self, store: Store, encode: Callable[[Tensor], Tensor], *, name: str) -> None:
        for attribute, value in vars(store).items():
            setattr(self, attribute, copy.copy(value) if attribute == "episodes" else value)
        folder = store.path.with_name(f"{store.path.name}.features") / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            known = {"frames": store.num_frames, "changed": _changed(store)}
            if not (folder / DONE).is_file() or json.loads((folder / DONE).read_text(encoding="utf-8")) != known:
                (folder / DONE).unlink(missing_ok=True)
                _write(store, encode, folder)
                write_text(folder / DONE, json.dumps(known))
        self.frames = np.load(folder / FEATURES, mmap_mode="r")


def _changed(store: Store) -> int:
    """Return when the frames were changed last, in nanoseconds."""
    return (store.path / "frames.npy").stat().st_mtime_ns


def _write(store: Store, encode: Callable[[Tensor], Tensor], folder: Path) -> None:
    first = encode(torch.from_numpy(store.frames[:1].copy()))
    shape = (store.num_frames, *first.shape[1:])
    check_space(folder, 2 * int(np.prod(shape)), "data", "free some space")
    columns, whole = Progress.get_default_columns(), {"descr": "<f2", "fortran_order": False, "shape": shape}
    with atomic_path(folder / FEATURES) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_2_0(file, whole)
        with progress_bars(*columns, show=True) as bars:
            bar = bars.add_task("encode the data's frames, once", total=store.num_frames)
            for start in range(0, store.num_frames, FRAMES_AT_ONCE):
                frames = torch.from_numpy(np.array(store.frames[start : start + FRAMES_AT_ONCE]))
                file.write(encode(frames).half().numpy().tobytes())
                bars.advance(bar, len(frames))
