"""Episodes of a disc that moves by its actions, into which a test plants one defect, and the store of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data import Store, StoreMeta, StoreWriter

SIZE, EPISODES, LENGTH = 32, 24, 40
STEP, RADIUS = 0.05, 0.12
DIRECTIONS = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], dtype=float)


@dataclass
class Episode:
    """What a test may change before it is written."""

    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray


def draw(positions: np.ndarray) -> np.ndarray:
    """Draw frames (n, SIZE, SIZE, 3) of a disc at positions (n, 2) of the unit square, on a floor with two colours."""
    pixels = (np.arange(SIZE) + 0.5) / SIZE
    distance = np.hypot(pixels - positions[:, 0, None, None], pixels[:, None] - positions[:, 1, None, None])
    cover = np.clip((RADIUS - distance) * SIZE + 0.5, 0, 1)[..., None]
    floor = np.where(pixels[:, None] < 0.5, [240, 230, 210], [210, 225, 240])
    return np.rint(cover * [200, 40, 50] + (1 - cover) * floor).astype(np.uint8)


def make_episode(seed: int, *, length: int = LENGTH, discrete: bool = False) -> Episode:
    """Walk at random, drawn back to the middle so that no wall is met."""
    return Episode(*(array.copy() for array in _walk(seed, length, discrete)))


@cache
def _walk(seed: int, length: int, discrete: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    position = rng.uniform(0.3, 0.7, 2)
    positions, actions = [], []
    for _ in range(length):
        positions.append(position)
        drawn = np.clip(0.6 * rng.normal(size=2) - 1.5 * (position - 0.5), -1, 1)
        if discrete:
            actions.append(np.argmax(DIRECTIONS @ drawn + rng.normal(size=4)))
            drawn = DIRECTIONS[actions[-1]]
        else:
            actions.append(drawn)
        position = np.clip(position + STEP * drawn, RADIUS, 1 - RADIUS)
    walked = np.array(positions)
    kind = np.int64 if discrete else np.float32
    return draw(walked), np.array(actions).astype(kind), walked.astype(np.float32)


def make_episodes(count: int = EPISODES, *, length: int = LENGTH, discrete: bool = False) -> list[Episode]:
    """Make episodes that differ."""
    return [make_episode(seed, length=length, discrete=discrete) for seed in range(count)]


def write(path: Path, episodes: Sequence[Episode], **meta: Any) -> Store:
    """Write episodes as a store."""
    actions = episodes[0].actions
    kind = "discrete" if actions.ndim == 1 else "continuous" if actions.shape[1] else "none"
    size = {"discrete": len(DIRECTIONS), "none": 0}.get(kind, actions.shape[-1])
    values: dict[str, Any] = {"task": "disc", "action_kind": kind, "action_size": size, "state_names": ("x", "y")}
    # All at once, and then the table of the episodes: a writer flushes each one to the disk.
    with StoreWriter(path, StoreMeta(image_size=SIZE, **(values | meta))) as writer:
        writer.append(
            *(np.concatenate([getattr(e, name) for e in episodes]) for name in ("frames", "actions", "states"))
        )
    length = np.array([len(episode.frames) for episode in episodes])
    table = {
        "start": np.cumsum(length) - length,
        "length": length,
        "source": [f"walk {number}" for number in range(len(episodes))],
        "seed": np.arange(len(episodes)),
        "text": [""] * len(episodes),
    }
    pq.write_table(pa.table(table), path / "episodes.parquet")
    return Store(path)
