"""Batches of clips from a store, by one vectorised gather.

Sampling has no state: a batch is a function of the seed and the step, so that a resumed run, or a run on another
number of processes, sees the same clips. A store may be larger than memory: nothing is kept per clip, and frames are
drawn window by window (see `ClipOrder`), while the system reads the next window from the disk.
"""

import contextlib
import math
import os
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm.data.order import ClipOrder
from lewm.data.store import Store

# Runs of neighbouring clips, of about 4 MiB each, that one batch asks the system to read: the windows to come are asked
# for early and no batch waits for long.
_RUNS_PER_BATCH = 32
# Linux answers a request with no more than its read-ahead size, and this is the usual one.
_REQUEST_BYTES = 128 << 10
_CAN_READ_AHEAD = hasattr(os, "posix_fadvise") and hasattr(os, "RWF_NOWAIT")


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
    goes on with the next one. In a store of images without actions every frame is a clip, which shows it T times.

    Args:
        store: where the clips are.
        episodes: numbers of the episodes to draw from.
        clip_frames: T, frames in a clip, at least 2.
        frame_skip: f, environment steps between two frames of a clip; 1 for images.
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
        images = store.meta.action_kind == "none"
        if images and frame_skip != 1:
            raise ValueError(f"frame_skip={frame_skip}: the images of {store.path} are no film; use 1")
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
        self._rank, self._batch_share = rank, batch_size // world_size
        self._frame_offsets = np.arange(clip_frames, dtype=np.int64) * (0 if images else frame_skip)
        self._action_width = frame_skip * math.prod(store.actions.shape[1:])
        self._action_offsets = np.arange((clip_frames - 1) * frame_skip, dtype=np.int64)

        lengths = store.episodes.length[ids]
        counts = np.maximum(lengths - self._frame_offsets[-1], 0)
        if counts.sum() == 0:
            raise ValueError(
                f"clip_frames={clip_frames}: with frame_skip={frame_skip} a clip spans {self._frame_offsets[-1] + 1} "
                f"frames, and the longest of {ids.size} episodes has {lengths.max(initial=0)}; use shorter clips, a "
                "smaller frame-skip or longer episodes"
            )
        ids, lengths, counts = ids[counts > 0], lengths[counts > 0], counts[counts > 0]
        self._episode_start: npt.NDArray[np.int64] = store.episodes.start[ids]
        self._clips_until: npt.NDArray[np.int64] = np.cumsum(counts)  # clips in an episode and those before
        self._shift = self._episode_start - (self._clips_until - counts)  # from a clip's number to its first frame
        self._order = ClipOrder(self.num_clips, int(lengths.sum()) * store.frames[0].nbytes, seed)
        self._unread: deque[tuple[int, int]] = deque()
        self._window = -2  # neither the first one nor the one before it

    @property
    def num_clips(self) -> int:
        """Different clips; the length of an epoch."""
        return int(self._clips_until[-1])

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """First frames of all clips, ascending; made anew at every use, because a large store has many."""
        return self._first_frames(np.arange(self.num_clips))

    def batch(self, step: int) -> Clips:
        """Return this process's part of the batch of one step.

        Args:
            step: training step, from 0.

        Raises:
            ValueError: the step is negative.
        """
        index = self.index(step)
        self._read_ahead(self._position(step))
        return self._gather(index)

    def index(self, step: int) -> npt.NDArray[np.int64]:
        """Return the first frames (B,) of the clips of `batch`, for who gathers them from a copy of the store.

        Args:
            step: training step, from 0.

        Raises:
            ValueError: the step is negative.
        """
        if step < 0:
            raise ValueError(f"step={step}: must not be negative; count from 0")
        return self._first_frames(self._order.take(self._position(step), self._batch_share))

    def rows(self, index: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where in the store the frames (B, T) and the sub-actions (B, T-1, f) of clips are.

        Args:
            index: (B,) first frames, as `index` gives them.
        """
        shape = (len(index), self.clip_frames - 1, self.frame_skip)
        return index[:, None] + self._frame_offsets, (index[:, None] + self._action_offsets).reshape(shape)

    def clips(self, index: npt.ArrayLike) -> Clips:
        """Gather the clips that begin at given frames.

        Args:
            index: (B,) int, first frames; each one of `starts`.

        Raises:
            ValueError: no clip of these episodes begins there.
        """
        starts = np.asarray(index, dtype=np.int64)
        episode = np.maximum(np.searchsorted(self._episode_start, starts, side="right") - 1, 0)
        number = starts - self._shift[episode]
        bad = (number < 0) | (number >= self._clips_until[episode])
        if starts.ndim != 1 or bad.any():
            raise ValueError(f"index={starts[bad][:1]}: no clip begins there; take frames out of `starts`")
        return self._gather(starts)

    def _position(self, step: int) -> int:
        """Return where in the stream of clips this process's part of a batch begins."""
        return step * self.batch_size + self._rank * self._batch_share

    def _first_frames(self, clips: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the first frames of clips given by their numbers, from 0 to `num_clips` - 1."""
        return clips + self._shift[np.searchsorted(self._clips_until, clips, side="right")]

    def _read_ahead(self, position: int) -> None:
        """Ask the system for the frames of a window and of the one after it, a share at every batch."""
        frames, order = self.store.frames, self._order
        if not (_CAN_READ_AHEAD and isinstance(frames, np.memmap) and frames.filename):
            return
        window, _ = order.find(position)
        if window != self._window:
            if window != self._window + 1:  # the first batch, or a jump
                self._unread = deque(order.runs(window))
            if order.num_windows > 1:
                self._unread.extend(order.runs(window + 1))
            self._window = window
        if not self._unread:
            return
        row, count = frames[0].nbytes, min(len(self._unread), _RUNS_PER_BATCH + self.batch_size // order.block)
        with contextlib.suppress(OSError), open(frames.filename, "rb", buffering=0) as file:  # no error: it only helps
            for first, end in [self._unread.popleft() for _ in range(count)]:
                here, last = np.searchsorted(self._clips_until, [first, end - 1], side="right")
                for episode in range(here, last + 1):
                    shift = self._shift[episode]
                    start = max(first + shift, self._episode_start[episode])
                    stop = min(end, self._clips_until[episode]) + shift + self._frame_offsets[-1]
                    _will_need(file.fileno(), frames.offset + int(start) * row, frames.offset + int(stop) * row)

    def _gather(self, index: npt.NDArray[np.int64]) -> Clips:
        store, (frames, actions) = self.store, self.rows(index)
        return Clips(
            frames=_take_rows(store.frames, frames),
            actions=_take_rows(store.actions, actions).reshape(*actions.shape[:2], self._action_width),
            states=None if store.states is None else _take_rows(store.states, frames),
            index=index,
        )


def _take_rows(array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    # The plain view, because indexing a memmap pays for its subclass. The rows are known to exist, and "clip" spares
    # the buffered copy that "raise" makes.
    return np.take(array.view(np.ndarray), rows, axis=0, mode="clip")


def _will_need(file: int, begin: int, end: int) -> None:
    """Ask the system to read a part of a file into memory; it goes on by itself."""
    # To ask for what is there would cost a third of the speed, to look costs next to nothing.
    if _in_memory(file, begin) and _in_memory(file, end - 1):
        return
    for part in range(begin, end, _REQUEST_BYTES):
        os.posix_fadvise(file, part, min(_REQUEST_BYTES, end - part), os.POSIX_FADV_WILLNEED)


def _in_memory(file: int, offset: int) -> bool:
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # it would have to wait, or the file system cannot tell
        return False
