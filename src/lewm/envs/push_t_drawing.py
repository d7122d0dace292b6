"""Frames of Push-T, pixel for pixel those of the package: drawn at 512 pixels, then averaged down.

The package draws shape by shape through the physics engine, and averages all 512 x 512 pixels. Most of them are the
same in every frame. Here only the surroundings of disc and block are drawn and averaged.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lewm.envs.push_t_physics import WALLS

if TYPE_CHECKING:
    from pygame import Surface

ARENA = 512
"""Sides of the arena, and of the canvas: a pixel is a unit."""
_WHITE, _WALL = (255, 255, 255), (211, 211, 211)
_BLOCK, _BLOCK_EDGE = (143, 163, 184), (119, 136, 153)
_DISC, _DISC_EDGE = (78, 126, 255), (65, 105, 225)
_DISC_RADIUS, _DISC_INNER, _EDGE_RADIUS = 15, 11, 2
# The corners of bar and stem, (8, 2), as the block lies at angle 0 with its origin at 0, and where its middle is then.
_CORNERS = np.array([(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)], np.float64)
_MIDDLE = 45.0
_INSIDE = (8, 503)  # between these, no pixel is a wall's


class Drawing:
    """What draws frames of one size.

    Args:
        image_size: Height and width of the frames.
    """

    def __init__(self, image_size: int) -> None:
        self._size = image_size
        # The side of the square that is averaged to a pixel. Where none is, the whole canvas is averaged at once.
        self._square = ARENA // image_size if ARENA % image_size == 0 else ARENA
        self._canvas, self._walls = _make_canvas(), _make_canvas()
        self._walls.fill(_WHITE)
        for ends in WALLS:
            _draw_edges(self._walls, _WALL, ends, _sides(np.array(ends)).tolist())
        self._empty = self._average(self._walls)
        self._walls.set_colorkey(_WHITE)

    def draw(self, states: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Draw frames (M, height, width, 3) of states (M, 7)."""
        frames = np.repeat(self._empty[None], len(states), axis=0)
        centres = np.rint(states[:, :2]).astype(np.int64)
        corners = np.rint(_corners(states[:, 2:5].astype(np.float64))).astype(np.int64)
        sides = _sides(corners.reshape(-1, 2, 4, 2)).tolist()
        # What can be coloured, as left, top, right and bottom, in whole squares.
        reach = _DISC_RADIUS + 1
        discs = self._squares(np.concatenate([centres - reach, centres + reach], axis=1))
        reach = 3 * _EDGE_RADIUS
        blocks = self._squares(np.concatenate([corners.min(axis=1) - reach, corners.max(axis=1) + reach], axis=1))
        together = np.all((discs[:, :2] < blocks[:, 2:]) & (blocks[:, :2] < discs[:, 2:]), axis=1)
        both = np.concatenate([np.minimum(discs, blocks)[:, :2], np.maximum(discs, blocks)[:, 2:]], axis=1).tolist()
        centres, corners, discs, blocks = centres.tolist(), corners.tolist(), discs.tolist(), blocks.tolist()
        for m, frame in enumerate(frames):
            if together[m]:
                self._clear(both[m])
                self._draw_block(corners[m], sides[m])
                self._draw_disc(centres[m])
                self._put(frame, both[m])
            else:
                self._clear(blocks[m])
                self._draw_block(corners[m], sides[m])
                self._put(frame, blocks[m])
                self._clear(discs[m])
                self._draw_disc(centres[m])
                self._put(frame, discs[m])
        return frames

    def _squares(self, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Widen boxes (M, 4) to whole squares on the canvas."""
        boxes[:, 2:] += self._square - 1
        return np.clip(boxes // self._square * self._square, 0, ARENA)

    def _clear(self, box: list[int]) -> None:
        left, top, right, bottom = box
        self._canvas.fill(_WHITE, (left, top, right - left, bottom - top))

    def _draw_block(self, corners: list[list[int]], sides: list[list[list[list[int]]]]) -> None:
        import pygame

        for part, bands in zip((corners[:4], corners[4:]), sides, strict=True):
            pygame.draw.polygon(self._canvas, _BLOCK, part)
            _draw_edges(self._canvas, _BLOCK_EDGE, part, bands)

    def _draw_disc(self, centre: list[int]) -> None:
        import pygame

        pygame.draw.circle(self._canvas, _DISC_EDGE, centre, _DISC_RADIUS)
        pygame.draw.circle(self._canvas, _DISC, centre, _DISC_INNER)

    def _put(self, frame: NDArray[np.uint8], box: list[int]) -> None:
        """Average a box of the canvas, with the walls over it, into a frame (height, width, 3)."""
        left, top, right, bottom = box
        if right <= left or bottom <= top:
            return
        if left < _INSIDE[0] or top < _INSIDE[0] or right > _INSIDE[1] or bottom > _INSIDE[1]:
            self._canvas.blit(self._walls, (left, top), (left, top, right - left, bottom - top))
        pixels = self._average(self._canvas.subsurface((left, top, right - left, bottom - top)))
        x, y = left * self._size // ARENA, top * self._size // ARENA
        frame[y : y + len(pixels), x : x + pixels.shape[1]] = pixels

    def _average(self, surface: "Surface") -> NDArray[np.uint8]:
        import pygame

        width, height = (length * self._size // ARENA for length in surface.get_size())
        small = pygame.transform.smoothscale(surface, (width, height))
        return np.frombuffer(small.get_buffer().raw, np.uint8).reshape(height, width, 4)[..., :3]


def _make_canvas() -> "Surface":
    """Make a canvas with bytes in the order red, green, blue, nothing."""
    import pygame

    return pygame.Surface((ARENA, ARENA), depth=32, masks=(0xFF, 0xFF00, 0xFF0000, 0))


def _corners(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners (M, 8, 2) of bar and stem of blocks with place and angle (M, 3), by the engine's own sums."""
    cos, sin = np.cos(pose[:, 2, None]), np.sin(pose[:, 2, None])
    x, y = pose[:, 0, None] - sin * _MIDDLE, pose[:, 1, None] + cos * _MIDDLE
    x, y = x + sin * _MIDDLE, y - cos * _MIDDLE
    across, down = _CORNERS.T
    return np.stack([cos * across - sin * down + x, sin * across + cos * down + y], axis=-1)


def _sides(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bands (..., n, 4, 2) along the sides of polygons with corners (..., n, 2)."""
    after = np.roll(corners, -1, axis=-2)
    across = np.abs(after - corners)[..., ::-1]
    length = np.sqrt((across * across).sum(axis=-1, keepdims=True))
    across = np.rint(across * (_EDGE_RADIUS / np.maximum(length, 1.0))).astype(np.int64)
    return np.stack([corners - across, corners + across, after + across, after - across], axis=-2)


def _draw_edges(surface: "Surface", colour: tuple[int, int, int], corners: Sequence, bands: Sequence) -> None:
    """Draw the package's thick outline: lines, bands along them, and dots at the corners."""
    import pygame

    pygame.draw.lines(surface, colour, True, corners, 2 * _EDGE_RADIUS)
    for band in bands:
        pygame.draw.polygon(surface, colour, band)
    for corner in corners:
        pygame.draw.circle(surface, colour, corner, _EDGE_RADIUS)
