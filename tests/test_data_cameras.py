"""Several cameras share one square frame: nothing of it is left over, and live frames become as stored ones."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lewm.data import StoreMeta
from lewm.data.cameras import CameraFitter, Tile, camera_tiles, tile
from lewm.data.fit import FrameFit
from lewm.data.importers.source import ImportOptions
from lewm.data.importing import import_recording


@pytest.mark.parametrize("cameras", range(1, 13))
@pytest.mark.parametrize("size", [16, 64, 65, 128])
def test_tiles_fill_the_frame_once(cameras: int, size: int) -> None:
    covered = np.zeros((size, size), dtype=int)
    tiles = tile(cameras, size)
    for part in tiles:
        covered[part.place] += 1
    assert len(tiles) == cameras
    assert (covered == 1).all()
    areas = [part.width * part.height for part in tiles]
    assert min(areas) > 0.35 * max(areas)


def test_tiles_of_two_to_five_cameras() -> None:
    boxes = {n: [(t.left, t.top, t.width, t.height) for t in tile(n, 60)] for n in range(2, 6)}
    assert boxes[2] == [(0, 0, 60, 30), (0, 30, 60, 30)]
    assert boxes[3] == [(0, 0, 60, 30), (0, 30, 30, 30), (30, 30, 30, 30)]
    assert boxes[4] == [(0, 0, 30, 30), (30, 0, 30, 30), (0, 30, 30, 30), (30, 30, 30, 30)]
    assert boxes[5] == [(0, 0, 60, 20), (0, 20, 30, 20), (30, 20, 30, 20), (0, 40, 30, 20), (30, 40, 30, 20)]


def meta(**origin: Any) -> StoreMeta:
    return StoreMeta(task="t", image_size=8, action_kind="continuous", action_size=1, origin=origin)


def test_stores_of_an_earlier_layout_have_a_grid() -> None:
    assert camera_tiles(meta()) == camera_tiles(meta(cameras=["one"])) == {}
    old = camera_tiles(meta(cameras=["front", "wrist"]))
    assert old == {"front": Tile(left=0, top=0, width=4, height=4), "wrist": Tile(left=4, top=0, width=4, height=4)}
    new = camera_tiles(meta(cameras=["front", "wrist"], tiles=[[0, 0, 8, 4], [0, 4, 8, 4]]))
    assert new["wrist"] == Tile(left=0, top=4, width=8, height=4)


@pytest.mark.parametrize("tiles", [3, [], [[0, 0, 8, 4]], [[0, 0, 8], [0, 4, 8]], [[0, 0, 9, 4], [0, 4, 8, 4]], "ab"])
def test_tiles_that_make_no_sense_are_refused(tiles: Any) -> None:
    with pytest.raises(ValueError, match=r"^origin.tiles=.*: must be left, top, width and height .*; restore it$"):
        camera_tiles(meta(cameras=["front", "wrist"], tiles=tiles))


def gradient(height: int, width: int) -> np.ndarray:
    """A frame whose red channel is the column and whose green channel is the row."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(width), np.arange(height)[:, None]
    return frame


@pytest.mark.parametrize(
    ("fit", "rows", "columns"), [("crop", (16.0, 47.0), (0.5, 63.0)), ("stretch", (0.5, 62.5), (0.5, 63.0))]
)
def test_a_tile_is_fitted_as_a_frame_is(fit: Any, rows: tuple[float, ...], columns: tuple[float, ...]) -> None:
    fitter = CameraFitter(FrameFit(image_size=32, fit=fit), tile(2, 32))
    frame = fitter(np.zeros((64, 64, 3), np.uint8), gradient(64, 64))
    assert (frame[:16] == 0).all()
    np.testing.assert_allclose(frame[[16, -1], 5, 1], rows, atol=2.0)
    np.testing.assert_allclose(frame[20, [0, -1], 0], columns, atol=1.0)


def test_borders_lie_beside_what_is_narrow() -> None:
    frame = CameraFitter(FrameFit(image_size=32, fit="pad"), tile(2, 32))(gradient(16, 16), gradient(16, 32))
    np.testing.assert_array_equal(frame[:16, 8:24], gradient(16, 16))
    assert (frame[:16, [0, 7, 24, 31]] == 0).all()
    np.testing.assert_array_equal(frame[16:], gradient(16, 32))


def test_what_was_done_is_said_for_each_camera() -> None:
    fitter = CameraFitter(FrameFit(image_size=64), tile(3, 64))
    assert fitter.describe([(480, 640), (480, 640), (64, 64)]) == (
        "640x480, cut to 640x320, scaled to 64x32; 640x480, cut to 480x480, scaled to 32x32; 64x64, scaled to 32x32"
    )


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("names", [("front",), ("front", "wrist"), ("wrist", "front", "side")])
def test_live_frames_become_those_of_the_store(tmp_path: Path, fit: Any, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    frames = {name: rng.integers(0, 256, (3, 30, 40, 3), dtype=np.uint8) for name in ("front", "side", "wrist")}
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file["data/demo_0/actions"] = rng.normal(size=(3, 2))
        for name in frames:
            file[f"data/demo_0/obs/{name}_image"] = frames[name]
    options = ImportOptions(image_size=24, fit=fit, cameras=names, crop_box=(2, 2, 20, 20) if len(names) == 1 else None)
    store = import_recording(tmp_path / "demo.hdf5", tmp_path / "store", options=options, progress=False).store
    fitter = CameraFitter.of(store.meta)
    for k in range(3):
        np.testing.assert_array_equal(fitter(*(frames[name][k] for name in names)), store.frames[k])
    with pytest.raises(ValueError, match=f"views=4: must be one of each of the {len(names)} cameras; give them all"):
        fitter(*[frames["front"][0]] * 4)


def test_a_store_that_says_no_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="says no fit; make a FrameFit"):
        CameraFitter.of(meta())
