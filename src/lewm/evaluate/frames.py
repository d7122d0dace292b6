"""Frames of a store, and their representations, in batches."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.store import Store

BATCH = 128  # more at once is slower on a CPU, whose caches it leaves


@torch.no_grad()
def encode_frames(
    encode: Callable[[Tensor], Tensor], frames: NDArray[np.uint8], device: torch.device, *, batch: int = BATCH
) -> Tensor:
    """Represent frames (M, height, width, 3) uint8 as (M, N, D), so many at a time."""
    parts = [frames[i : i + batch] for i in range(0, len(frames), batch)]
    return torch.cat([encode(torch.from_numpy(np.ascontiguousarray(part)).to(device)) for part in parts])


def draw_frames(store: Store, episodes: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Draw the store's indices of at most `count` different frames of some episodes, ascending."""
    spans = [store.episode(e) for e in episodes.tolist()]
    frames = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    if len(frames) > count:
        frames = np.sort(np.random.default_rng(seed).choice(frames, count, replace=False))
    return frames


def episode_of(store: Store, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the episode that each frame belongs to."""
    return np.searchsorted(store.episodes.start, frames, side="right") - 1
