"""Messages as openpi's clients pack them: msgpack, where an array is a map of its bytes, its type and its shape.

A message is of somebody unknown: what it may take of memory is bounded before it is read, and nothing is executed.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 4 << 20
"""Of a picture as it is sent."""
MOST_PIXELS = MOST_BYTES // 3
"""Of a picture in JPEG, when it is unpacked."""
MOST_MESSAGE = MOST_BYTES + (64 << 10)
_MOST_ENTRIES = 256  # of a list or a map
_MOST_PARTS = 512  # lists and maps in a message
_MOST_AXES = 5
# An array's type is looked up in this table, and never parsed: a text of NumPy's may describe anything.
_TYPES = {np.dtype(kind).str: np.dtype(kind) for kind in ("u1", "u2", "u4", "i1", "i2", "i4", "i8", "f2", "f4", "f8")}
_TYPES["|b1"] = np.dtype(bool)
FRAME_KEYS = ("frame", "image", "observation/image", "frames")
"""Names that pictures may have in a message: one picture, or those of several cameras by name."""
_NDARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


def pack(message: Mapping[str, Any]) -> bytes:
    """Pack a message whose values may be arrays."""
    packed = msgpack.packb(message, default=_packed)
    assert isinstance(packed, bytes)
    return packed


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.str in _TYPES:
        return {_NDARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__}: cannot be sent")


def unpack(data: bytes) -> dict[str, Any]:
    """Unpack a message.

    Returns:
        Texts to numbers, texts, bytes, lists, maps and arrays.

    Raises:
        ValueError: If it is no such message, or larger than one may be.
    """
    if len(data) > MOST_MESSAGE:
        raise ValueError(f"message: has {len(data)} bytes, may have {MOST_MESSAGE}; send smaller pictures, or JPEG")
    parts = 0

    def counted(value: Any) -> Any:
        nonlocal parts
        parts += 1
        if parts > _MOST_PARTS:
            raise ValueError(f"has more than {_MOST_PARTS} lists and maps")
        return _unpacked(value) if isinstance(value, dict) else value

    limits = {"max_array_len": _MOST_ENTRIES, "max_map_len": _MOST_ENTRIES, "max_ext_len": 0}
    try:
        message = msgpack.unpackb(data, object_hook=counted, list_hook=counted, **limits)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        told = str(error)[:120] or type(error).__name__
        raise ValueError(f"message: cannot be read ({told}); send a msgpack map of texts to values") from None
    if not isinstance(message, dict) or not all(isinstance(name, str) for name in message):
        raise ValueError("message: is no map of texts to values; send a dictionary, packed as openpi-client does")
    return message


def _unpacked(value: dict[Any, Any]) -> Any:
    """Return the array or number that a map stands for, or the map."""
    if _NDARRAY in value:
        return _array(value)
    if _SCALAR in value:
        number = value.get(b"data")
        if not isinstance(number, int | float):
            raise ValueError("a number is none")
        return number
    return value


def _array(value: Mapping[Any, Any]) -> NDArray[Any]:
    shape, data, kind = value.get(b"shape"), value.get(b"data"), value.get(b"dtype")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"an array's type {str(kind)[:20]!r} is none of {', '.join(_TYPES)}")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(map(_is_size, shape)):
        raise ValueError("an array's shape is no list of sizes")
    if not isinstance(data, bytes) or math.prod(shape) * _TYPES[kind].itemsize != len(data):
        raise ValueError("an array's shape does not fit its bytes")
    return np.frombuffer(data, _TYPES[kind]).reshape(shape)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_MESSAGE


def picture_of(name: str, value: Any) -> Any:
    """Return a picture that was sent as it is or as JPEG.

    Raises:
        ValueError: If it is neither, or too large.
    """
    if not isinstance(value, bytes):
        if not isinstance(value, np.ndarray) or value.nbytes > MOST_BYTES:
            raise ValueError(f"{name}: is no picture of {MOST_BYTES} bytes at most; send an array uint8, or JPEG bytes")
        return value
    from PIL import Image

    try:
        with Image.open(io.BytesIO(value), formats=("JPEG",)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"of {image.width}x{image.height} pixels, may have {MOST_PIXELS}")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{name}: is no JPEG that can be read ({str(error)[:100]}); send an array uint8") from None


def jpeg_of(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture (height, width, 3) as JPEG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=88)
    return out.getvalue()
