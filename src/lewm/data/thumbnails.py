"""Small grey pictures of frames, and what changes between two of them: cheap features of data of any size."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

GRID = 16
"""Cells along each side of a thumbnail; fewer for frames of fewer pixels."""


def thumbnails(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Average frames over the cells of a grid and over their colours.

    Args:
        frames: (n, height, width, 3) uint8.

    Returns:
        (n, G, G) float32 in grey levels, 0 to 255, with G = min(16, height, width). Equal frames have equal thumbnails.
    """
    height, width = frames.shape[1:3]
    grid = min(GRID, height, width)
    down, across = (np.round(np.linspace(0, size, grid + 1)).astype(np.int64) for size in (height, width))
    rows = frames.reshape(len(frames), height, 3 * width)
    # Whole rows first, because those lie side by side in memory. 16 bits are quicker, and hold the sum of 257 of them.
    kind = np.uint16 if height <= 256 * grid else np.uint32
    bands = [rows[:, low:high].sum(axis=1, dtype=kind) for low, high in pairwise(down)]
    sums = np.add.reduceat(np.stack(bands, axis=1), 3 * across[:-1], axis=2, dtype=np.uint32)
    return (sums / (3 * np.diff(down)[:, None] * np.diff(across))).astype(np.float32)


def transport(difference: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Measure changes of thumbnails by how far grey has moved, along the rows and along the columns.

    Unlike the sum of the differences, it goes on growing when something moves by more than its own size: it is the
    Wasserstein distance of the picture's profiles in one dimension. A change of the light as a whole counts nothing.

    Args:
        difference: (n, G, G), one thumbnail less the other.

    Returns:
        (n,) grey levels times cells.
    """
    moved = np.zeros(len(difference), dtype=np.float32)
    for axis in (1, 2):
        profile = difference.mean(axis=axis)
        profile = profile - profile.mean(axis=1, keepdims=True)
        moved += np.abs(np.cumsum(profile, axis=1)).mean(axis=1)
    return moved


def centroids(pictures: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the first moments (n, 2) of thumbnails or of their changes (n, G, G): where grey is, or goes, as a sum."""
    place = np.arange(pictures.shape[1]) - (pictures.shape[1] - 1) / 2
    return np.stack([pictures.mean(axis=1) @ place, pictures.mean(axis=2) @ place], axis=1)


def motion(thumbs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Describe the change from each thumbnail to the next in five numbers.

    Args:
        thumbs: (n, G, G) consecutive thumbnails.

    Returns:
        (n - 1, 5): the change of the first moments, which is linear in the way of a thing of one colour; the sums of
        the change times the gradient in space, which is linear in a small shift of the whole picture (optical flow);
        and the mean size of the change.
    """
    change = np.diff(thumbs, axis=0)
    middle = (thumbs[1:] + thumbs[:-1]) / 2
    flow = [(np.gradient(middle, axis=axis) * change).mean(axis=(1, 2)) for axis in (2, 1)]
    size = np.abs(change).mean(axis=(1, 2))
    return np.concatenate([centroids(change), np.stack([*flow, size], axis=1)], axis=1)
