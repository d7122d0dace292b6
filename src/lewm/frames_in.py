"""Pictures at the model's door: converted where they have one meaning, and else refused in a line with the remedy.

A model takes (height, width, 3) uint8 of its own size. A user has what the camera, the environment or the last program
gave: floats, channels first, a list, a tensor, another size.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ONE = 1.0 + 1e-3  # what rounding leaves of a largest value of 1
BYTES = 16.0  # pictures that go beyond this have no other range than 0 to 255; normalised ones stay below


def pictures_in(
    name: str, frames: Any, *, size: int, batch: int | None = None, steps: bool = False
) -> NDArray[np.uint8]:
    """Return pictures as a model takes them.

    Converted are lists, tensors and other arrays; floats of 0 to 1 or 0 to 255, and other whole numbers of 0 to 255;
    channels first; squares of another size, by area; and one picture without its batch axis, where one is wanted.

    Args:
        name: what the pictures are called in errors.
        frames: pictures (B, height, width, 3).
        size: height and width that the model takes.
        batch: B; None for any number.
        steps: also take (B, m, height, width, 3).

    Returns:
        (B, size, size, 3) uint8, or (B, m, size, size, 3).

    Raises:
        ValueError: the pictures could mean several things, or nothing.
    """
    values = _as_array(name, frames)
    wanted = "(B, height, width, 3)" if batch is None else f"({batch}, height, width, 3)"
    if values.ndim not in ((3, 4, 5) if steps else (3, 4)):
        raise ValueError(f"{name}: got {_told(values)}, must be pictures {wanted}, uint8; give one array of them")
    values = _channels_last(name, values, wanted)
    values = values[None] if values.ndim == 3 else values
    if batch is not None and len(values) != batch:
        raise ValueError(
            f"{name}: got {_told(values)}, must be pictures of {batch} environments; stack one picture each, or make "
            f"the controller with batch={len(values)}"
        )
    return _sized(name, _as_bytes(name, values), size)


def _as_array(name: str, frames: Any) -> NDArray[Any]:
    """Return anything that holds numbers as an array, tensors of any type and device too."""
    if isinstance(frames, list | tuple):
        parts = [_as_array(name, frame) for frame in frames]
        if len({part.shape for part in parts}) != 1:
            raise ValueError(f"{name}: got {len(parts)} parts of different shapes; give pictures of one size")
        return np.stack(parts)
    if hasattr(frames, "is_floating_point"):  # a tensor of PyTorch, which this module does not import
        frames = frames.detach()
        frames = (frames.float() if frames.is_floating_point() else frames).cpu().numpy()
    values = np.asarray(frames)
    if values.dtype.kind not in "uif" or values.size == 0:
        kind = type(frames).__name__ if values.ndim == 0 else _told(values)
        raise ValueError(f"{name}: got {kind}, must be pictures (height, width, 3); give uint8 arrays of 0 to 255")
    return values


def _channels_last(name: str, values: NDArray[Any], wanted: str) -> NDArray[Any]:
    if values.shape[-1] == 3:
        return values
    if values.shape[-3] == 3:
        return np.moveaxis(values, -3, -1)
    remedy = {
        1: "repeat the grey channel, numpy.repeat(frames, 3, axis=-1)",
        4: "leave the fourth channel out, frames[..., :3]",
    }.get(values.shape[-1], "stack red, green and blue along the last axis")
    raise ValueError(f"{name}: got {_told(values)}, must be {wanted} with three channels; {remedy}")


def _as_bytes(name: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return levels of 0 to 255."""
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "ui"
    scale = None
    if whole or high > BYTES or (high > ONE and (values == np.rint(values)).all()):
        scale = 1.0
    elif high <= ONE:
        scale = 255.0
    if scale is None or not (low >= 0.0 and scale * high <= 255.0 * ONE):  # NaN too
        raise ValueError(
            f"{name}: got {values.dtype} of {low:.6g} to {high:.6g}, and pictures are 0 to 1 or 0 to 255; give "
            "uint8 of 0 to 255"
        )
    return values.astype(np.uint8) if whole else np.rint(np.minimum(scale * values, 255.0)).astype(np.uint8)


def _sized(name: str, values: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return pictures of the model's size. A square can only be scaled; of others the data's own fit decides."""
    height, width = values.shape[-3:-1]
    if height != width:
        raise ValueError(
            f"{name}: got pictures of {width}x{height}, and the model takes {size}x{size}; fit them as the data's "
            f"were, lewm.FrameFitter(lewm.FrameFit(image_size={size}, fit=...))(frame)"
        )
    if height == size:
        return values
    try:
        from lewm.data.fit import FrameFit, FrameFitter
    except ImportError:  # of PyAV, which a robot's own installation may lack
        raise ValueError(
            f"{name}: got pictures of {width}x{height}, the model takes {size}x{size}; scale them, or pip install av"
        ) from None
    fitter = FrameFitter(FrameFit(image_size=size))
    fitted = np.stack([fitter(picture) for picture in values.reshape(-1, height, width, 3)])
    return fitted.reshape(*values.shape[:-3], size, size, 3)


def _told(values: NDArray[Any]) -> str:
    return f"{values.dtype}({', '.join(map(str, values.shape))})"
