"""Bring camera frames of any shape to the square frames of a store, by area and without hidden distortion."""

from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameFit:
    """How frames become squares of `image_size` pixels.

    Shrinking averages over areas. The sides of the shrunken frame are rounded to whole pixels, the only change of
    proportions in the modes `crop` and `pad`. A frame that already has the size passes untouched.
    """

    image_size: int = 64
    """Height and width of the stored frames in pixels."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """Cut the longer side to its middle, put black beside the shorter one, or change the proportions."""
    crop_box: tuple[int, int, int, int] | None = None
    """Left, top, width and height in pixels of the frame as the camera shows it: what is kept, before anything else."""

    def __post_init__(self) -> None:
        if self.image_size < 4 or self.image_size > 4096:
            raise ValueError(f"image_size={self.image_size}: must be 4 to 4096 pixels; use 128")
        if self.crop_box is not None and (min(self.crop_box[:2]) < 0 or min(self.crop_box[2:]) < 1):
            raise ValueError(
                f"crop_box={self.crop_box}: left and top must not be negative, width and height be positive; "
                "give pixels of the camera's frame"
            )

    def describe(self, height: int, width: int) -> str:
        """Say in a few words what happens to frames of height x width pixels."""
        text = f"{width}x{height}"
        if self.crop_box is not None:
            _, _, width, height = self.crop_box
            text += f", of which {width}x{height}"
        size = self.image_size
        if height == width or self.fit == "stretch":
            return f"{text}, scaled to {size}x{size}" + (", proportions changed" if height != width else "")
        side = min(height, width)
        what = f", cut to {side}x{side}" if self.fit == "crop" else ", with black borders"
        return f"{text}{what}, scaled to {size}x{size}"


class FrameFitter:
    """Fit frames one by one. Not shared between threads, because the scaler keeps its tables.

    Args:
        fit: what is wanted.
    """

    def __init__(self, fit: FrameFit) -> None:
        self.fit = fit
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a frame as (image_size, image_size, 3) uint8.

        Args:
            frame: a decoded video frame, or (height, width, 3) uint8 in the order red, green, blue.

        Raises:
            ValueError: the array has another shape or type, or the crop box does not lie inside the frame.
        """
        fit, size = self.fit, self.fit.image_size
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
            if frame.shape[:2] == (size, size):
                return frame
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        height, width = self._scaled(frame.height, frame.width)
        # One thread: the scaler's own threads make small frames slower.
        reformatted = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        scaled = np.asarray(reformatted.to_ndarray(), dtype=np.uint8)  # (height, width, 3)
        if fit.fit == "crop":
            top, left = (height - size) // 2, (width - size) // 2
            return np.ascontiguousarray(scaled[top : top + size, left : left + size])
        if fit.fit == "pad" and (height, width) != (size, size):
            out = np.zeros((size, size, 3), dtype=np.uint8)
            top, left = (size - height) // 2, (size - width) // 2
            out[top : top + height, left : left + width] = scaled
            return out
        return scaled

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the whole frame after scaling."""
        size = self.fit.image_size
        if self.fit.fit == "stretch":
            return size, size
        side = min(height, width) if self.fit.fit == "crop" else max(height, width)
        return max(round(height * size / side), 1), max(round(width * size / side), 1)
