"""Batches of clips from a store, by one vectorised gather.

Sampling has no state: a batch is a function of the seed and the step, so that a resumed run, or a run on another
number of processes, sees the same clips.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm.data.store import Store


@dataclass(frozen=True, slots=True)
class Clips:
    """A batch of B clips of T frames, f environment steps apart.

    Args:
        frames: (B, T, height, width, 3) uint8.
        actions: (B, T-1, f*A) float32, or (B, T-1, f) int64 for discrete actions: what leads from each frame to the
            next, the f sub-actions one after the other.
        states: (B, T, S) float32 at the frames, or None when the store has none.
        index: (B,) int64, each clip's first frame in the store.
    """

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    states: npt.NDArray[np.float32] | None
    index: npt.NDArray[np.int64]


class ClipSampler:
    """Draw batches of clips from some episodes of a store.

    Clips lie inside one episode. The batches cut an endless stream of epochs, each a permutation of all clips that
    depends on the seed and the epoch alone: every clip comes once an epoch, and a batch that an epoch does not fill
    goes on with the next one.

    Args:
        store: where the clips are.
        episodes: numbers of the episodes to draw from.
        clip_frames: T, frames in a clip, at least 2.
        frame_skip: f, environment steps between two frames of a clip.
        batch_size: clips in a batch over all processes.
        seed: seed of the order.
        rank: number of this process; it gets the rank-th of `world_size` equal, contiguous parts of every batch.
        world_size: number of processes.

    Raises:
        ValueError: a setting is out of range, or no episode is long enough for a clip.
    """

    def __init__(
        self,
        store: Store,
        episodes: npt.ArrayLike,
        *,
        clip_frames: int = 2,
        frame_skip: int = 1,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if clip_frames < 2:
            raise ValueError(f"clip_frames={clip_frames}: a clip has at least 2 frames; use 2")
        if frame_skip < 1:
            raise ValueError(f"frame_skip={frame_skip}: must be at least 1; use 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: must lie in 0 to world_size - 1 = {world_size - 1}; correct one of them")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size}: must be a positive multiple of world_size={world_size}; "
                f"use {max(batch_size // world_size, 1) * world_size}"
            )
        ids = np.unique(np.asarray(episodes, dtype=np.int64))
        if ids.size and not 0 <= ids[0] <= ids[-1] < store.num_episodes:
            raise ValueError(
                f"episodes={ids[0]} to {ids[-1]}: {store.path} has {store.num_episodes}; "
                f"use 0 to {store.num_episodes - 1}"
            )
        self.store = store
        self.clip_frames = clip_frames
        self.frame_skip = frame_skip
        self.batch_size = batch_size
        self.seed = seed
        self._slice = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._frame_offsets = np.arange(clip_frames, dtype=np.int64) * frame_skip
        self._action_offsets = np.arange((clip_frames - 1) * frame_skip, dtype=np.int64)
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

        lengths = store.episodes.length[ids]
        counts = np.maximum(lengths - self._frame_offsets[-1], 0)
        if counts.sum() == 0:
            raise ValueError(
                f"clip_frames={clip_frames}: with frame_skip={frame_skip} a clip spans {self._frame_offsets[-1] + 1} "
                f"frames, and the longest of {ids.size} episodes has {lengths.max(initial=0)}; use shorter clips, a "
                "smaller frame-skip or longer episodes"
            )
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self.starts: npt.NDArray[np.int64] = np.repeat(store.episodes.start[ids], counts) + within
        """First frames of all clips, ascending."""

    @property
    def num_clips(self) -> int:
        """Different clips; the length of an epoch."""
        return len(self.starts)

    def batch(self, step: int) -> Clips:
        """Return this process's part of the batch of one step.

        Args:
            step: training step, from 0.

        Raises:
            ValueError: the step is negative.
        """
        if step < 0:
            raise ValueError(f"step={step}: must not be negative; count from 0")
        position = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)[self._slice]
        epoch, place = np.divmod(position, self.num_clips)
        needed = range(epoch[0], epoch[-1] + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in needed}
        index = np.empty_like(position)
        for e in needed:
            index[epoch == e] = self._orders[e][place[epoch == e]]
        return self._gather(index)

    def clips(self, index: npt.ArrayLike) -> Clips:
        """Gather the clips that begin at given frames.

        Args:
            index: (B,) int, first frames; each one of `starts`.

        Raises:
            ValueError: no clip of these episodes begins there.
        """
        starts = np.asarray(index, dtype=np.int64)
        found = self.starts[np.minimum(np.searchsorted(self.starts, starts), self.num_clips - 1)]
        if starts.ndim != 1 or (found != starts).any():
            raise ValueError(f"index={starts[found != starts][:1]}: no clip begins there; take frames out of `starts`")
        return self._gather(starts)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.starts)

    def _gather(self, index: npt.NDArray[np.int64]) -> Clips:
        store, batch = self.store, len(index)
        frames = index[:, None] + self._frame_offsets  # (B, T)
        actions = index[:, None] + self._action_offsets  # (B, (T-1)*f)
        return Clips(
            frames=_take_rows(store.frames, frames),
            actions=_take_rows(store.actions, actions).reshape(batch, self.clip_frames - 1, -1),
            states=None if store.states is None else _take_rows(store.states, frames),
            index=index,
        )


def _take_rows(array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    # The plain view, because indexing a memmap pays for its subclass. The rows are known to exist, and "clip" spares
    # the buffered copy that "raise" makes.
    return np.take(array.view(np.ndarray), rows, axis=0, mode="clip")
