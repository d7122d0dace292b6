"""Coded pictures: colours, orientation and pixel shape as they say, and a damaged one is a line."""

import contextlib
import io
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from image_fixture import BROKEN, RED, WHITE, encoded
from lewm.data.importers.pictures import read_image


def decode(image: Image.Image, kind: str = "PNG", **settings: Any) -> np.ndarray:
    return read_image(io.BytesIO(encoded(image, kind, **settings)), "here")


def test_modes_become_rgb() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey = rgb[..., 0]
    np.testing.assert_array_equal(decode(Image.fromarray(rgb)), rgb)
    for mode, values in (("L", grey), ("1", (grey > 127) * np.uint8(255))):
        expected = np.repeat(values[..., None], 3, axis=2)
        np.testing.assert_array_equal(decode(Image.fromarray(values).convert(mode)), expected)
    deep = grey.astype(np.uint16) * 256 + 17
    np.testing.assert_array_equal(decode(Image.fromarray(deep)), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(rgb).quantize(16)
    np.testing.assert_array_equal(decode(palette), np.asarray(palette.convert("RGB")))
    cmyk = decode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert np.abs(cmyk.astype(int) - RED).max() <= 3


def test_what_is_transparent_lies_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert decode(image).tolist() == [[list(RED), list(WHITE)]]
    assert decode(image, "WEBP", lossless=True).tolist() == [[list(RED), list(WHITE)]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 0, 0, 9])
    palette.putpixel((1, 0), 1)
    assert decode(palette, transparency=1).tolist() == [[list(RED), list(WHITE)]]
    assert decode(Image.new("LA", (1, 1), (0, 0))).tolist() == [[list(WHITE)]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.T, 6: image[::-1].T,
        7: image[::-1, ::-1].T, 8: image[:, ::-1].T,
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(decode(Image.fromarray(image), exif=exif)[..., 0], turned)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"^here: is no usable image \(.+\); repair it or take it out$") as error:
        read_image(io.BytesIO(BROKEN[name]), "here")
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)  # no object's address


@pytest.mark.parametrize(("kind", "least"), [("JPEG", 20), ("PNG", 100), ("WEBP", 30), ("BMP", 15)])
def test_damage_anywhere_is_an_image_or_one_line(kind: str, least: int) -> None:
    """PNG has checksums, by which all of it is seen."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 100, zip=True)
    more = {"PNG": {"exif": exif, "pnginfo": text}, "JPEG": {"exif": exif}, "WEBP": {"exif": exif}, "BMP": {}}[kind]
    whole = np.frombuffer(encoded(Image.effect_noise((24, 24), 60).convert("RGB"), kind, **more), np.uint8)
    refused = 0
    for _ in range(100):
        damaged = whole.copy()
        places = rng.integers(0, min(len(whole), 200), 1 + rng.integers(4))
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            read_image(io.BytesIO(damaged.tobytes()), "here")
        except ValueError as error:
            refused += str(error).startswith("here: is no usable image (")
    assert refused >= least


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("density", "size"), [((1, 1), (12, 8)), ((72, 71), (12, 8)), ((1, 2), (24, 8)), ((4, 2), (12, 16))]
)
def test_pixels_become_square(kind: str, density: tuple[int, int], size: tuple[int, int]) -> None:
    """As many pixels along as across of one length are square; half as many across are twice as wide."""
    picture = Image.new("RGB", (12, 8), RED)
    picture.paste((0, 0, 255), (6, 0, 12, 8))
    data = encoded(picture, kind, dpi=(density[0] * 100, density[1] * 100))
    pixels = read_image(io.BytesIO(data), "here")
    assert pixels.shape == (size[1], size[0], 3)
    assert np.abs(pixels[:, : size[0] // 2 - 2].astype(int) - RED).max() < 40
    assert np.abs(pixels[:, size[0] // 2 + 2 :].astype(int) - (0, 0, 255)).max() < 40


def test_pixels_become_square_before_a_picture_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (12, 8), RED), "JPEG", dpi=(100, 200), exif=exif)
    assert read_image(io.BytesIO(data), "here").shape == (24, 8, 3)


def test_absurd_pixels_are_refused() -> None:
    data = encoded(Image.new("RGB", (12, 8), RED), "PNG", dpi=(100, 10000))
    with pytest.raises(ValueError, match="pixels are 100 times as wide as high"):
        read_image(io.BytesIO(data), "here")


def noise(size: int) -> Image.Image:
    """Return a picture that is soft enough to be coded in few bytes."""
    values = np.random.default_rng(0).integers(0, 256, (size // 6, size // 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_jpegs_are_refused(progressive: bool) -> None:
    """Of pictures whose coded bytes are overwritten less than half pass; Pillow decodes nearly all without a word."""
    rng = random.Random(0)
    data = encoded(noise(96), "JPEG", quality=90, progressive=progressive)
    passed, passed_by_pillow = 0, 0
    for _ in range(60):
        damaged = bytearray(data)
        place = rng.randrange(len(data) // 3, len(data) - 40)
        damaged[place : place + 16] = rng.randbytes(16)
        with contextlib.suppress(OSError):
            Image.open(io.BytesIO(damaged)).load()
            passed_by_pillow += 1
        with contextlib.suppress(ValueError):
            read_image(io.BytesIO(damaged), "here")
            passed += 1
    assert passed_by_pillow > 20
    assert passed < passed_by_pillow / 2


def test_padding_of_cameras_is_no_damage() -> None:
    data = encoded(noise(96), "JPEG")
    for count in (1, 4, 8, 12):
        padded = data[:-2] + bytes([0x55] * count) + data[-2:]
        np.testing.assert_array_equal(read_image(io.BytesIO(padded), "here"), read_image(io.BytesIO(data), "here"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_pictures_are_refused(kind: str, share: float) -> None:
    data = encoded(noise(64), kind)
    with pytest.raises(ValueError, match="here: is no usable image"):
        read_image(io.BytesIO(data[: int(len(data) * share)]), "here")
