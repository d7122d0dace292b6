"""Pictures as they are to be shown: with square pixels, upright, and not mirrored."""

from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

MAX_PIXELS = 2**26
"""Of a frame. A damaged or hostile file may claim any size."""
_MOST_STRETCH = 16  # of a pixel's longer side to its shorter one


def upright(frame: av.VideoFrame, shape: Fraction, where: str) -> av.VideoFrame | npt.NDArray[np.uint8]:
    """Return a frame with square pixels, turned and mirrored as its display matrix says.

    Phones and cameras write the matrix in place of turning the pixels.

    Args:
        frame: the frame as it is stored.
        shape: width of its pixels by their height.
        where: names the file in the error.

    Raises:
        ValueError: it is to be shown at a slant, or its pixels are absurd.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    height, width = square_size(frame.height, frame.width, shape, where)
    if (height, width) != (frame.height, frame.width):
        frame = frame.reformat(height=height, width=width)
    if matrix is None:
        return frame
    # A pixel at (x, y) is to be shown at (a x + c y, b x + d y), but for a shift.
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    along, across = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(along, across) > 1e-3 * max(along, across) or 0 in ((a, d) if along > across else (b, c)):
        raise ValueError(f"{where}: is to be shown at a slant; convert it")
    if along > across and a > 0 and d > 0:
        return frame
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    if across > along:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Return a picture turned and mirrored as an EXIF orientation says, 1 to 8; others mean nothing.

    Args:
        pixels: (height, width, 3).
        orientation: number of the orientation.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows, columns = -1 if orientation in (3, 4, 7, 8) else 1, -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def square_size(height: int, width: int, shape: Fraction, where: str) -> tuple[int, int]:
    """Return the size in square pixels of a picture, of which no side is shorter than before.

    Args:
        height: its rows.
        width: its columns.
        shape: width of its pixels by their height.
        where: names the file in the error.

    Raises:
        ValueError: its pixels are absurd.
    """
    if not Fraction(1, _MOST_STRETCH) <= shape <= _MOST_STRETCH:
        raise ValueError(f"{where}: says that its pixels are {float(shape):.3g} times as wide as high; convert it")
    size = round(height / min(shape, Fraction(1))), round(width * max(shape, Fraction(1)))
    if size != (height, width) and size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{where}: has {size[1]}x{size[0]} square pixels, more than {MAX_PIXELS}; convert it")
    return size
