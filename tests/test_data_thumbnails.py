"""Thumbnails equal plain loops, and what changes between them is linear in how far things move."""

import numpy as np
import pytest

from lewm.data.thumbnails import centroids, motion, thumbnails, transport


@pytest.mark.parametrize(("size", "grid"), [(64, 16), (50, 16), (16, 16), (5, 5), (1, 1)])
def test_cells_are_means(size: int, grid: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    edges = [round(k * size / grid) for k in range(grid + 1)]
    found = thumbnails(frames)
    assert found.shape == (3, grid, grid)
    assert found.dtype == np.float32
    for n in range(3):
        for i in range(grid):
            for j in range(grid):
                cell = frames[n, edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
                np.testing.assert_allclose(found[n, i, j], cell.mean(), rtol=1e-6)


@pytest.mark.parametrize("size", [4090, 4096, 4500])
def test_large_white_frames_do_not_overflow(size: int) -> None:
    frames = np.full((1, size, size, 3), 255, dtype=np.uint8)
    assert (thumbnails(frames) == 255).all()


def test_equal_frames_have_equal_thumbnails() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (37, 37, 3), dtype=np.uint8)
    one, many = thumbnails(frame[None]), thumbnails(np.repeat(frame[None], 9, axis=0))
    assert (many == one).all()


def square(left: int, top: int) -> np.ndarray:
    picture = np.full((16, 16), 200, dtype=np.float32)
    picture[top : top + 2, left : left + 2] = 50
    return picture


def test_transport_grows_with_the_way() -> None:
    start = square(2, 7)
    moved = transport(np.stack([square(2 + way, 7) - start for way in (0, 1, 3, 6, 12)]))
    np.testing.assert_allclose(moved / moved[1], [0, 1, 3, 6, 12], rtol=1e-5)
    aslant = transport((square(5, 11) - start)[None])
    np.testing.assert_allclose(aslant / moved[1], 3 + 4, rtol=1e-5)


def test_transport_does_not_see_the_light() -> None:
    np.testing.assert_allclose(transport(np.full((1, 16, 16), 30, dtype=np.float32)), 0, atol=1e-4)


def test_motion_is_linear_in_small_moves() -> None:
    x = np.arange(16.0)
    ways = np.array([0.0, 0.1, 0.3, -0.2])
    places = 7 + np.cumsum(ways)
    blobs = np.exp(-((x - places[:, None, None]) ** 2 + (x[:, None] - 8) ** 2) / 8)
    found = motion(blobs)
    assert found.shape == (3, 5)
    for column in (0, 2):  # first moment and flow, to the right
        np.testing.assert_allclose(found[:, column] / found[0, column], ways[1:] / ways[1], rtol=0.05)
    np.testing.assert_allclose(found[:, [1, 3]], 0, atol=1e-4)  # downwards
    np.testing.assert_allclose(found[:, 4], np.abs(np.diff(blobs, axis=0)).mean(axis=(1, 2)))


def test_centroids_tell_right_from_down() -> None:
    start, right, down = (centroids(square(*place)[None].astype(np.float64)) for place in ((2, 2), (5, 2), (2, 5)))
    assert (right - start)[0, 0] < 0 == (right - start)[0, 1]  # a dark thing
    assert (down - start)[0, 1] < 0 == (down - start)[0, 0]
