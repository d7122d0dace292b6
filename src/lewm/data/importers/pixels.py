"""Pictures that are stored as real numbers, as bytes."""

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-3  # what a float32 in 0 to 1 may lie beside


def find_scale(sample: npt.NDArray[np.floating], where: str) -> float:
    """Return what pictures of real numbers are multiplied by to reach from 0 to 255.

    Args:
        sample: some of them, of all parts of the recording.
        where: names them in the error.

    Returns:
        255 where no value exceeds 1, else 1.

    Raises:
        ValueError: their values are neither 0 to 1 nor 0 to 255.
    """
    low, high = float(sample.min(initial=0)), float(sample.max(initial=0))
    if not (low >= -_ROUNDING and high <= 255 + _ROUNDING):
        raise ValueError(
            f"{where}: holds pictures of {sample.dtype} from {low:.4g} to {high:.4g}; must be 0 to 1 or 0 to 255, "
            "write them as uint8"
        )
    return 255.0 if high <= 1 + _ROUNDING else 1.0


def to_uint8(pictures: npt.NDArray[np.floating], scale: float, where: str) -> npt.NDArray[np.uint8]:
    """Return pictures of real numbers as bytes, rounded.

    Args:
        pictures: their values times `scale` are 0 to 255.
        scale: see `find_scale`.
        where: names them in the error.

    Raises:
        ValueError: a value lies outside.
    """
    low, high = float(pictures.min(initial=0)) * scale, float(pictures.max(initial=0)) * scale
    if not (low >= -_ROUNDING * scale and high <= 255 + _ROUNDING * scale):
        raise ValueError(
            f"{where}: holds values of {low / scale:.4g} to {high / scale:.4g}, and other pictures of it 0 to "
            f"{255 / scale:.0f}; write them as uint8"
        )
    return np.rint(np.clip(pictures * np.asarray(scale, dtype=pictures.dtype), 0, 255)).astype(np.uint8)
