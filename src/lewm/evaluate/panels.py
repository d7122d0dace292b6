"""Frames side by side with their names above and what happens below, each in a bar of its own."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE, LARGEST_SIDE = 256, 384  # of a frame in a panel, in pixels
GAP, BAR, FOOT = 8, 30, 38
SMALLEST_TEXT, TEXT = 11, 18
GROUND, INK, QUIET = (24, 27, 32), (240, 242, 244), (170, 178, 188)
TONES = {"plain": GROUND, "good": (26, 112, 52), "bad": (168, 52, 40)}
"""The colour of the lower bar while an episode goes on, and once its goal is reached or missed."""


def enlarge(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring a frame (height, width, 3) to about `SIDE` pixels: by repeating whole pixels, or by averaging."""
    side = frame.shape[0]
    times = max(1, round(SIDE / side))
    if side * times <= LARGEST_SIDE:
        return frame.repeat(times, axis=0).repeat(times, axis=1)
    size = (LARGEST_SIDE * frame.shape[1] // side, LARGEST_SIDE)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def compose(
    panels: Sequence[tuple[str, NDArray[np.uint8] | None]], notes: Sequence[str], *, tone: str = "plain"
) -> NDArray[np.uint8]:
    """Draw one picture.

    Args:
        panels: A name and a frame (height, width, 3) each, all of one size; None for a goal that has no frame.
        notes: Texts of the lower bar, spread evenly.
        tone: Key of `TONES`.

    Returns:
        (height', width', 3) uint8, both even, as video codecs want them.
    """
    frames = [None if frame is None else enlarge(frame) for _, frame in panels]
    height, width = next(frame.shape[:2] for frame in frames if frame is not None)
    whole = (len(panels) * (width + GAP) + GAP, BAR + height + GAP + FOOT)
    picture = Image.new("RGB", (whole[0] + whole[0] % 2, whole[1] + whole[1] % 2), GROUND)
    draw = ImageDraw.Draw(picture)
    for k, ((name, _), frame) in enumerate(zip(panels, frames, strict=True)):
        left = GAP + k * (width + GAP)
        _write(draw, name, (left, 0, left + width, BAR), QUIET)
        if frame is not None:
            picture.paste(Image.fromarray(frame), (left, BAR))
        else:
            draw.rectangle((left, BAR, left + width - 1, BAR + height - 1), outline=QUIET)
    foot = BAR + height + GAP
    draw.rectangle((0, foot, *picture.size), fill=TONES[tone])
    part = (whole[0] - GAP) / len(notes)  # as wide as a panel where there are as many
    for k, note in enumerate(notes):
        _write(draw, note, (GAP + k * part, foot, GAP + (k + 1) * part - GAP, picture.height), INK)
    return np.asarray(picture)


def _write(
    draw: ImageDraw.ImageDraw, text: str, box: tuple[float, float, float, float], colour: tuple[int, int, int]
) -> None:
    """Write a text at the left of a box, smaller or shortened where it would not fit."""
    left, top, right, bottom = box
    size = TEXT
    while size > SMALLEST_TEXT and _font(size).getlength(text) > right - left:
        size -= 1
    font = _font(size)
    shown = text
    while shown and font.getlength(shown if shown == text else shown + "...") > right - left:
        shown = shown[:-1]
    draw.text(
        (left, (top + bottom) / 2), shown if shown == text else shown + "...", fill=colour, font=font, anchor="lm"
    )


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow, so that pictures look alike on every machine."""
    return ImageFont.load_default(size)
