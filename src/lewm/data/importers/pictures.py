"""Coded pictures, JPEG, PNG, WebP and BMP: decoded whole or refused, and shown as they say."""

import io
import re
import struct
import warnings
import zlib
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lewm.data.importers.geometry import square_size, turned

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_IMAGE = 50  # times its shorter side: the scaler refuses much longer ones, without a name
_MAX_BYTES = 2**28
_ORIENTATION = 0x0112  # in EXIF
_SQUARE = 0.02  # what a pixel's sides may differ by and it be square: densities are rounded
_DAMAGE = re.compile("Corrupt JPEG data(?!: bad ICC)|Premature end|Inconsistent progression|Unsupported marker")
_PADDED = re.compile(r"\b\d extraneous bytes before marker 0xd9")  # as some cameras end every picture


def read_image(file: Path | IO[bytes], where: str) -> npt.NDArray[np.uint8]:
    """Decode an image as (height, width, 3) uint8 red, green, blue.

    It is turned and mirrored as its EXIF orientation says, and gets square pixels where its densities differ. Grey
    becomes three equal channels, what is transparent lies on white, and of 16 bits the upper 8 are kept.

    Args:
        file: path, or the image's bytes.
        where: names it in the error.

    Raises:
        ValueError: it is no JPEG, PNG, WebP or BMP, is damaged, has more pixels than Pillow's `MAX_IMAGE_PIXELS`, or is
            more than 50 times as long as wide.
    """
    from PIL import Image, UnidentifiedImageError

    broken = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
    too_large = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that do not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            data = _read(file)
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "BMP")) as image:
                if max(image.size) > LONGEST_IMAGE * min(image.size):
                    raise ValueError(f"{image.width}x{image.height} pixels are too long a strip")
                orientation, shape = image.getexif().get(_ORIENTATION, 1), _pixel_shape(image)
                pixels = decode_jpeg(data) if image.format == "JPEG" and image.mode in ("RGB", "L") else None
                if pixels is None:
                    pixels = _to_rgb(image)
            height, width = square_size(pixels.shape[0], pixels.shape[1], shape, where)
            if (height, width) != pixels.shape[:2]:
                pixels = np.asarray(Image.fromarray(pixels).resize((width, height)))
            return turned(pixels, orientation)
    except UnidentifiedImageError:
        reason = "not a JPEG, PNG, WebP or BMP"
    except too_large as error:
        reason = str(error)
    except broken as error:
        reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"{where}: is no usable image ({' '.join(reason.split())}); repair it or take it out")


def _read(file: Path | IO[bytes]) -> bytes:
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            return _read(opened)
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    return data


def decode_jpeg(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG with the library that Pillow uses too, but listen to its warnings.

    Args:
        data: the coded picture.

    Returns:
        (height, width, 3) red, green, blue; None if it is of a rare kind, or no JPEG.

    Raises:
        ValueError: it is damaged.
    """
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError as error:
        if _PADDED.search(str(error)):
            return simplejpeg.decode_jpeg(data, strict=False)
        if _DAMAGE.search(str(error)):
            raise
        return None


def _pixel_shape(image: "Image") -> Fraction:
    """Return the width of a pixel by its height, from the numbers of pixels along and across of one length."""
    names = ("jfif_density",) if image.format == "JPEG" else ("aspect", "dpi")
    across, along = next((image.info[name] for name in names if name in image.info), (1, 1))
    if not (across > 0 and along > 0) or abs(along / across - 1) < _SQUARE:
        return Fraction(1)
    return Fraction(along / across).limit_denominator(1000)


def _to_rgb(image: "Image") -> npt.NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel, in 16 or in 32
        grey = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
