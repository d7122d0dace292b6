"""The order of clips in training: shuffled as one, or window by window where the frames are larger than memory."""

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

# A window's frames lie in memory while its clips are drawn, and those of the next one are being read: 2 GiB in all,
# which the smallest machine that trains has to spare. The larger, the better the shuffle.
WINDOW_BYTES = 1 << 30
# Large enough that a disk reads it at nearly full speed, small enough that a window mixes 256 places of the store.
BLOCK_BYTES = 4 << 20


class ClipOrder:
    """Number clips in an endless stream of epochs, each a permutation of 0 to `num_clips` - 1.

    The stream is a function of the seed alone. Where all frames fit in a window, an epoch is one permutation of all
    clips. Otherwise blocks of neighbouring clips are permuted, and the clips of a window of blocks among each other;
    blocks begin elsewhere in every epoch.

    Args:
        num_clips: n, clips in an epoch.
        num_bytes: size of all their frames.
        seed: seed of the order.
    """

    def __init__(self, num_clips: int, num_bytes: int, seed: int) -> None:
        self.num_clips = num_clips
        self.seed = seed
        self.block = max(BLOCK_BYTES * num_clips // num_bytes, 1)
        self.num_blocks = -(-num_clips // self.block)
        self.num_windows = min(-(-num_bytes // WINDOW_BYTES), self.num_blocks)
        """Windows in an epoch; they are counted on from epoch to epoch."""
        self._edges = np.arange(self.num_windows + 1) * self.num_blocks // self.num_windows
        self._begins: list[int] = (self._edges[:-1] * self.block).tolist()
        self._shuffled: dict[int, npt.NDArray[np.int64]] = {}

    def find(self, position: int) -> tuple[int, int]:
        """Return the window that a position of the stream lies in, and its place there."""
        epoch, place = divmod(position, self.num_clips)
        w = bisect_right(self._begins, place) - 1
        return epoch * self.num_windows + w, place - self._begins[w]

    def take(self, position: int, count: int) -> npt.NDArray[np.int64]:
        """Return `count` clips of the stream from a position on."""
        parts, shuffled = [], {}
        while count > 0:
            window, place = self.find(position)
            shuffled[window] = self._shuffled[window] if window in self._shuffled else self._shuffle(window)
            parts.append(shuffled[window][place : place + count])
            position, count = position + len(parts[-1]), count - len(parts[-1])
        self._shuffled = shuffled  # the next batch goes on there
        return np.concatenate(parts)

    def runs(self, window: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of neighbouring clips, first and end, that a window consists of."""
        shift, blocks = self._blocks(window)
        for first in (blocks * self.block).tolist():
            begin = (first + shift) % self.num_clips
            end = begin + min(self.block, self.num_clips - first)
            yield begin, min(end, self.num_clips)
            if end > self.num_clips:
                yield 0, end - self.num_clips

    def _shuffle(self, window: int) -> npt.NDArray[np.int64]:
        epoch, w = divmod(window, self.num_windows)
        if self.num_windows == 1:
            return np.random.default_rng((self.seed, epoch)).permutation(self.num_clips)
        shift, blocks = self._blocks(window)
        clips = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        clips = (clips[clips < self.num_clips] + shift) % self.num_clips
        # From 1 on: a generator's seed does not tell (seed, epoch) from (seed, epoch, 0).
        return np.random.default_rng((self.seed, epoch, 1 + w)).permutation(clips)

    def _blocks(self, window: int) -> tuple[int, npt.NDArray[np.int64]]:
        """Return where an epoch's blocks begin, and the blocks of a window."""
        epoch, w = divmod(window, self.num_windows)
        if self.num_windows == 1:
            return 0, np.arange(self.num_blocks)
        rng = np.random.default_rng((self.seed, epoch))
        shift = int(rng.integers(self.num_clips))
        # The last block may be short. It stays last, so that windows begin at the same places in every epoch; the shift
        # gives it other clips.
        order = np.append(rng.permutation(self.num_blocks - 1), self.num_blocks - 1)
        return shift, order[self._edges[w] : self._edges[w + 1]]
