"""Bring camera frames of any shape to the square frames of a store, by area and without hidden distortion."""

from dataclasses import dataclass
from typing import get_args

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from lewm.run_spec import Fit

Frame = av.VideoFrame | npt.NDArray[np.uint8]
"""A decoded video frame, or (height, width, 3) uint8 in the order red, green, blue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameFit:
    """How frames become squares of `image_size` pixels.

    Shrinking averages over areas. The sides of the shrunken frame are rounded to whole pixels, the only change of
    proportions in the modes `crop` and `pad`. A frame that already has the size passes untouched.
    """

    image_size: int = 64
    """Height and width of the stored frames in pixels."""
    fit: Fit = "crop"
    """Cut the longer side to its middle, put black beside the shorter one, or change the proportions."""
    crop_box: tuple[int, int, int, int] | None = None
    """Left, top, width and height in pixels of the frame as the camera shows it: what is kept, before anything else."""

    def __post_init__(self) -> None:
        if self.image_size < 4 or self.image_size > 4096:
            raise ValueError(f"image_size={self.image_size}: must be 4 to 4096 pixels; use 128")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit={self.fit!r}: must be crop, pad or stretch; use crop")
        if self.crop_box is not None and (min(self.crop_box[:2]) < 0 or min(self.crop_box[2:]) < 1):
            raise ValueError(
                f"crop_box={self.crop_box}: left and top must not be negative, width and height be positive; "
                "give pixels of the camera's frame"
            )

    def describe(self, height: int, width: int, size: tuple[int, int] | None = None) -> str:
        """Say in a few words what happens to frames of height x width pixels.

        Args:
            height: of the camera's frame.
            width: of the camera's frame.
            size: height and width of what they become; `image_size` twice if not given.
        """
        rows, columns = size or (self.image_size, self.image_size)
        text = f"{width}x{height}"
        if self.crop_box is not None:
            _, _, width, height = self.crop_box
            text += f", of which {width}x{height}"
        scaled = f"scaled to {columns}x{rows}"
        if height * columns == width * rows:
            return f"{text}, {scaled}"
        if self.fit == "stretch":
            return f"{text}, {scaled}, proportions changed"
        if self.fit == "pad":
            return f"{text}, with black borders, {scaled}"
        tall = height * columns > width * rows  # beside the wanted shape
        kept = (width, round(width * rows / columns)) if tall else (round(height * columns / rows), height)
        return f"{text}, cut to {kept[0]}x{kept[1]}, {scaled}"


class FrameFitter:
    """Fit frames one by one. Not shared between threads, because the scaler keeps its tables.

    Args:
        fit: what is wanted.
        size: height and width of what frames become, where it is a tile and no square; `image_size` twice if not given.
    """

    def __init__(self, fit: FrameFit, size: tuple[int, int] | None = None) -> None:
        self.fit = fit
        self.size: tuple[int, int] = size or (fit.image_size, fit.image_size)
        """Height and width of what frames become."""
        self._scaler = VideoReformatter()

    def __call__(self, frame: Frame) -> npt.NDArray[np.uint8]:
        """Return a frame as (image_size, image_size, 3) uint8, or of the tile's size.

        Args:
            frame: a decoded video frame, or (height, width, 3) uint8 in the order red, green, blue.

        Raises:
            ValueError: the array has another shape or type, or the crop box does not lie inside the frame.
        """
        fit, (rows, columns) = self.fit, self.size
        if isinstance(frame, np.ndarray) and (
            frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape
        ):
            raise ValueError(
                f"frame={frame.dtype}[{', '.join(map(str, frame.shape))}]: must be (height, width, 3) uint8; convert it"
            )
        if fit.crop_box is not None:
            left, top, width, height = fit.crop_box
            pixels = frame if isinstance(frame, np.ndarray) else np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            if left + width > pixels.shape[1] or top + height > pixels.shape[0]:
                raise ValueError(
                    f"crop_box={fit.crop_box}: must lie inside frames of {pixels.shape[1]}x{pixels.shape[0]}; "
                    "make it smaller"
                )
            frame = np.ascontiguousarray(pixels[top : top + height, left : left + width])
        if isinstance(frame, np.ndarray):
            if frame.shape[:2] == self.size:
                return frame
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        height, width = self._scaled(frame.height, frame.width)
        # One thread: the scaler's own threads make small frames slower.
        reformatted = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        scaled = np.asarray(reformatted.to_ndarray(), dtype=np.uint8)  # (height, width, 3)
        if fit.fit == "crop":
            top, left = (height - rows) // 2, (width - columns) // 2
            return np.ascontiguousarray(scaled[top : top + rows, left : left + columns])
        if fit.fit == "pad" and (height, width) != self.size:
            out = np.zeros((rows, columns, 3), dtype=np.uint8)
            top, left = (rows - height) // 2, (columns - width) // 2
            out[top : top + height, left : left + width] = scaled
            return out
        return scaled

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the whole frame after scaling."""
        rows, columns = self.size
        if self.fit.fit == "stretch":
            return rows, columns
        tall = height * columns > width * rows  # beside the wanted shape
        if tall == (self.fit.fit == "crop"):
            return max(round(height * columns / width), 1), columns
        return rows, max(round(width * rows / height), 1)
