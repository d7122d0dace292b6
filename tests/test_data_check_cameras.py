"""Cameras that share a frame are checked one by one: what is wrong with one of them is found, and it is named."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lewm.data import Store
from lewm.data.check.store_check import check_store
from lewm.data.importers.source import ImportOptions
from lewm.data.importing import import_recording
from lewm.data.store import StoreMeta, StoreWriter
from lewm.data.thumbnails import thumbnails

EPISODES, LENGTH, SIZE = 22, 40, 32
ROOM = np.random.default_rng(0).integers(60, 200, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def film(places: np.ndarray, room: np.ndarray = ROOM) -> np.ndarray:
    frames = np.repeat(room[None], len(places), 0)
    for frame, (x, y) in zip(frames, places.astype(int), strict=True):
        frame[y - 4 : y + 4, x - 4 : x + 4] = (250, 20, 20)
    return frames


def spoilt(good: np.ndarray, how: str) -> np.ndarray:
    bad = good.copy()
    if how == "black":
        bad[:] = 0
    elif how == "frozen":
        bad[10:] = bad[10]
    elif how == "slow":
        bad = np.repeat(bad[::3], 3, axis=0)[: len(good)]
    elif how == "unmoved":
        bad[:] = ROOM[::-1]
    elif how == "jumps":
        bad[20:] = 255 - bad[20:]
    return bad


def episodes(how: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return frames of the front and of the wrist camera, and actions; the latter camera is spoilt."""
    rng, made = np.random.default_rng(1), []
    for _ in range(EPISODES):
        turn = np.cumsum(rng.normal(0, 0.4, LENGTH))
        path = 16 + 2.0 * np.cumsum(np.stack([np.cos(turn), np.sin(turn)], 1), 0)
        path = 10 + np.abs((path - 10) % 24 - 12)  # mirrored at the borders
        front = film(path)
        wrist = front if how == "same" else spoilt(film(path[:, ::-1], ROOM[::-1]), how)
        made.append((front, wrist, np.diff(path, axis=0, append=path[-1:]).astype(np.float32)))
    return made


def found(path: Path, how: str, *, cameras: tuple[str, ...] = ("front", "wrist"), **options: Any) -> dict[str, str]:
    """Return the messages of a check by name of the finding, those that are no notes."""
    with h5py.File(path / "demo.hdf5", "w") as file:
        for k, (front, wrist, actions) in enumerate(episodes(how)):
            file[f"data/demo_{k}/actions"] = actions
            file[f"data/demo_{k}/obs/front_image"], file[f"data/demo_{k}/obs/wrist_image"] = front, wrist
    settings = ImportOptions(image_size=SIZE, cameras=cameras, **options)
    store = import_recording(path / "demo.hdf5", path / "store", options=settings, workers=1, progress=False).store
    return {f.name: f.message for f in check_store(store).findings if f.severity != "note"}


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_good_cameras_raise_nothing(tmp_path: Path, fit: Any) -> None:
    assert found(tmp_path, "good", fit=fit) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("black", "uniform-frames"),
        ("frozen", "frozen-frames"),
        ("slow", "repeated-frames"),
        ("unmoved", "little-variation"),
        ("jumps", "jumps"),
    ],
)
def test_a_bad_camera_is_found_and_named(tmp_path: Path, how: str, name: str) -> None:
    told = found(tmp_path, how, fit="stretch")
    assert told[name].startswith("camera wrist: ")
    assert not [message for message in told.values() if "front" in message]


def test_cameras_that_show_the_same_are_found(tmp_path: Path) -> None:
    assert found(tmp_path, "same") == {"same-cameras": "cameras front and wrist show the same in all frames looked at"}


def test_what_is_bad_is_left_out_by_a_repair(tmp_path: Path) -> None:
    found(tmp_path, "frozen", fit="stretch")
    result = check_store(Store(tmp_path / "store"), whole=True)
    (frozen,) = [finding for finding in result.findings if finding.name == "frozen-frames"]
    assert frozen.repairable
    assert {(span.first, span.stop) for span in frozen.where} == {(11, LENGTH)}


def test_a_grid_of_an_earlier_version_is_checked_by_its_cells(tmp_path: Path) -> None:
    half = SIZE // 2
    meta = StoreMeta(
        task="t", image_size=SIZE, action_kind="continuous", action_size=2, origin={"cameras": ["front", "wrist"]}
    )
    with StoreWriter(tmp_path, meta) as writer:
        for front, wrist, actions in episodes("frozen"):
            frames = np.zeros_like(front)
            frames[:, :half, :half], frames[:, :half, half:] = front[:, ::2, ::2], wrist[:, ::2, ::2]
            writer.append(frames, actions)
    named = [f.message for f in check_store(tmp_path).findings if f.severity != "note"]
    assert [message for message in named if message.startswith("camera wrist: ")]
    assert not [message for message in named if "front" in message]


def test_thumbnails_of_what_is_no_square() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(thumbnails(frames), frames.reshape(3, 16, 2, 16, 4, 3).mean((2, 4, 5)), atol=1e-3)
    assert thumbnails(frames[:, :5]).shape == (3, 5, 5)
