"""Several cameras in one square frame: where each lies, and how live frames are put together as an import does it."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt

from lewm.data.fit import Frame, FrameFit, FrameFitter
from lewm.data.store import StoreMeta
from lewm.files import shorten
from lewm.run_spec import CameraSpec, Fit, RunSpec

SMALLEST_TILE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Where the picture of a camera lies in a frame of several, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and the columns of a frame."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def tile(cameras: int, image_size: int) -> tuple[Tile, ...]:
    """Divide a square frame among cameras, so that nothing of it is left.

    There are as many rows as a square of so many cameras has, of one height; each is divided evenly, and the first rows
    have the fewer cameras: of two cameras one lies above the other, of three the first has the upper half.

    Raises:
        ValueError: the frame is too small.
    """
    rows = math.isqrt(max(cameras, 1) - 1) + 1
    counts = [(cameras + row) // rows for row in range(rows)]
    tiles = []
    for row, count in enumerate(counts):
        top, bottom = round(row * image_size / rows), round((row + 1) * image_size / rows)
        for k in range(count):
            left, right = round(k * image_size / count), round((k + 1) * image_size / count)
            tiles.append(Tile(left=left, top=top, width=right - left, height=bottom - top))
    if min(min(part.width, part.height) for part in tiles) < SMALLEST_TILE:
        raise ValueError(
            f"image_size={image_size}: is too small for {cameras} cameras; use {SMALLEST_TILE * max(rows, *counts)} or "
            "more"
        )
    return tuple(tiles)


def camera_tiles(meta: StoreMeta) -> dict[str, Tile]:
    """Return where each camera lies in a store's frames; empty where they are of one camera.

    Raises:
        ValueError: what `origin` says of the tiles makes no sense.
    """
    names, size = meta.origin.get("cameras"), meta.image_size
    if not isinstance(names, list) or len(names) < 2:
        return {}
    stored = meta.origin.get("tiles")
    if stored is None:  # of an earlier version: a grid, its last cells black
        side = math.isqrt(len(names) - 1) + 1
        cell = size // side
        stored = [[k % side * cell, k // side * cell, cell, cell] for k in range(len(names))]
    try:
        tiles = [Tile(left=left, top=top, width=width, height=height) for left, top, width, height in stored]
        inside = all(
            0 <= first < first + extent <= size
            for part in tiles
            for first, extent in ((part.left, part.width), (part.top, part.height))
        )
        return dict(zip(map(str, names), tiles, strict=True)) if inside else _no_tiles(stored)
    except (TypeError, ValueError):
        return _no_tiles(stored)


def camera_specs(meta: StoreMeta) -> tuple[CameraSpec, ...]:
    """Return the cameras of a store's frames in order, and how their pictures were fitted.

    Raises:
        ValueError: what `origin` says of them makes no sense.
    """
    origin, tiles = meta.origin, camera_tiles(meta)
    fit, box = origin.get("fit"), origin.get("crop_box")
    if fit not in (None, *get_args(Fit)):
        raise ValueError(f"origin.fit={shorten(fit, 80)}: must be one of {', '.join(get_args(Fit))}; restore it")
    crop_box: Any = tuple(box) if isinstance(box, list) else None
    if not tiles:
        given: Any = [names for key in ("cameras", "camera_keys", "images") if (names := origin.get(key))]
        name = given[0][0] if given and isinstance(given[0], list) and len(given[0]) == 1 else ""
        tiles = {name if isinstance(name, str) else "": tile(1, meta.image_size)[0]}
    return tuple(
        CameraSpec(name=name, fit=fit, crop_box=crop_box, **dataclasses.asdict(part)) for name, part in tiles.items()
    )


def _no_tiles(stored: object) -> dict[str, Tile]:
    raise ValueError(
        f"origin.tiles={shorten(stored, 80)}: must be left, top, width and height of each camera; restore it"
    )


class CameraFitter:
    """Fit one frame of every camera into one square frame. Not shared between threads.

    Args:
        fit: what is wanted: of all cameras, or of each; of several cameras, of each in its tile.
        tiles: where each camera lies; one that fills the frame if not given.
    """

    def __init__(self, fit: FrameFit | Sequence[FrameFit], tiles: Sequence[Tile] = ()) -> None:
        fits = [fit] * max(len(tiles), 1) if isinstance(fit, FrameFit) else fit
        self._size = fits[0].image_size
        self.tiles: tuple[Tile, ...] = tuple(tiles) or tile(1, self._size)
        """Where each camera lies."""
        self._fitters = [
            FrameFitter(one, (part.height, part.width)) for one, part in zip(fits, self.tiles, strict=True)
        ]

    @classmethod
    def of(cls, described: RunSpec | StoreMeta) -> Self:
        """Make the fitter that the frames of a run or a store were made with, so that live frames become the same.

        Args:
            described: a run's `spec`, or a store's `meta`.

        Raises:
            ValueError: it does not say how its frames were fitted.
        """
        cameras = described.cameras if isinstance(described, RunSpec) else camera_specs(described)
        fits = []
        for camera in cameras:
            if camera.fit is None:
                raise ValueError(
                    f"fit=None: the data of {described.task} says no fit; make a FrameFit as its frames were made"
                )
            fits.append(FrameFit(image_size=described.image_size, fit=camera.fit, crop_box=camera.crop_box))
        return cls(fits, [Tile(left=one.left, top=one.top, width=one.width, height=one.height) for one in cameras])

    def __call__(self, *views: Frame) -> npt.NDArray[np.uint8]:
        """Return one frame (image_size, image_size, 3) uint8 of one view of each camera, in the order of the tiles.

        Raises:
            ValueError: there are more or fewer views than cameras, or one is no frame.
        """
        if len(views) != len(self.tiles):
            raise ValueError(f"views={len(views)}: must be one of each of the {len(self.tiles)} cameras; give them all")
        if len(views) == 1:
            return self._fitters[0](views[0])
        frame = np.zeros((self._size, self._size, 3), dtype=np.uint8)
        for part, fitter, view in zip(self.tiles, self._fitters, views, strict=True):
            frame[part.place] = fitter(view)
        return frame

    def describe(self, shapes: Sequence[tuple[int, int]]) -> str:
        """Say in a few words what happens to frames of the cameras' heights and widths."""
        said = [
            fitter.fit.describe(*shape, size=fitter.size) for shape, fitter in zip(shapes, self._fitters, strict=True)
        ]
        return "; ".join(dict.fromkeys(said))
