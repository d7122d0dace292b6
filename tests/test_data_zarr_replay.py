"""Replay buffers in zarr: frames, actions and episodes of both versions, folders and zips, and files to distrust."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lewm.data.importers.zarr_replay import ZarrSource
from lewm.data.importing import ImportOptions, detect_format, import_recording

zarr = pytest.importorskip("zarr")

SIZE = 16
ENDS = (5, 8, 16)
ROWS = ENDS[-1]
OPTIONS = ImportOptions(image_size=SIZE)


def make_frames() -> npt.NDArray[np.uint8]:
    frames = np.zeros((ROWS, SIZE, SIZE, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(ROWS)[:, None, None] * 9 + 5, np.arange(SIZE)[:, None] * 10
    frames[..., 2] = np.arange(SIZE)
    return frames


def make_numbers(columns: int) -> npt.NDArray[np.float32]:
    return (1 + np.arange(ROWS)[:, None] + np.arange(columns) / 8).astype(np.float32)


def arrays(**changed: Any) -> dict[str, Any]:
    usual = {"img": make_frames(), "action": make_numbers(2), "state": make_numbers(5), "n_contacts": make_numbers(1)}
    found = {**usual, "keypoint": np.zeros((ROWS, 9, 2), np.float32), **changed}
    return {name: values for name, values in found.items() if values is not None}


def write(path: Path, data: dict[str, Any], ends: Any = ENDS, version: int = 2, rows: int = 3) -> Path:
    folder = path.with_name("unzipped") if path.suffix == ".zip" else path
    root = zarr.open_group(str(folder), mode="w", zarr_format=version)
    for name, values in [*((f"data/{name}", values) for name, values in data.items()), ("meta/episode_ends", ends)]:
        values = np.asarray(values)
        chunks, config = (rows, *values.shape[1:]), {"write_empty_chunks": True}
        array = root.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, config=config)
        array[...] = values
    if path.suffix == ".zip":
        shutil.make_archive(str(path.with_suffix("")), "zip", folder)
        shutil.rmtree(folder)
    return path


def check(source: ZarrSource, frames: npt.NDArray[np.uint8] | None = None) -> None:
    frames = make_frames() if frames is None else frames
    for k, (start, end) in enumerate(zip((0, *ENDS), ENDS, strict=False)):
        recording = source.episode(k)
        assert source.length(k) == end - start
        np.testing.assert_array_equal(np.stack([np.asarray(f) for f in recording.frames]), frames[start:end])
        np.testing.assert_array_equal(recording.actions, make_numbers(2)[start:end])
        assert recording.states is not None
        np.testing.assert_array_equal(recording.states, make_numbers(5)[start:end])


@pytest.mark.parametrize(("value", "fps"), [(10, 10.0), ("10", None), (-1, None), (True, None)])
def test_the_attribute_fps_is_the_frame_rate(tmp_path: Path, value: Any, fps: float | None) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    assert ZarrSource(path, OPTIONS).info.fps is None
    zarr.open_group(str(path), mode="a").attrs["fps"] = value
    assert ZarrSource(path, OPTIONS).info.fps == fps


def failure(path: Path, options: ImportOptions = OPTIONS) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        ZarrSource(path, options)
    return one_line(error.value)


def bad_episode(source: ZarrSource, index: int) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        list(source.episode(index).frames)
    return one_line(error.value)


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    assert ";" in str(error)
    assert len(str(error)) <= 300
    return str(error)


@pytest.mark.slow
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["push.zarr", "push.zarr.zip"])
@pytest.mark.parametrize(
    "change",
    [
        lambda frames: frames,
        lambda frames: frames.astype(np.float32),
        lambda frames: (frames / 255).astype(np.float32),
        lambda frames: np.moveaxis(frames, 3, 1),
        lambda frames: np.moveaxis(frames / 255, 3, 1),
    ],
    ids=["bytes", "whole", "unit", "colours first", "unit, colours first"],
)
def test_pictures_of_all_kinds(tmp_path: Path, version: int, name: str, change: Any) -> None:
    path = write(tmp_path / name, arrays(img=change(make_frames())), version=version)
    assert detect_format(path) == "zarr"
    source = ZarrSource(path, OPTIONS)
    check(source)
    info = source.info
    assert (info.task, info.action_kind, info.action_size, info.fps) == ("push", "continuous", 2, None)
    assert info.state_names == tuple(f"state[{k}]" for k in range(5))
    assert info.origin == {"zarr_format": version, "images": ["data/img"], "notes": []}


@pytest.mark.slow
def test_a_folder_that_holds_one(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", arrays())
    (tmp_path / "._a.zarr").write_bytes(b"x")
    for name in ("._img", "@eaDir"):
        (tmp_path / "a.zarr" / "data" / name).mkdir()
    check(ZarrSource(tmp_path, OPTIONS))
    done = import_recording(
        tmp_path, tmp_path.with_name(f"{tmp_path.name}_out"), options=OPTIONS, workers=2, progress=False
    )
    np.testing.assert_array_equal(done.store.frames, make_frames())
    assert done.store.episodes.length.tolist() == [5, 3, 8]
    write(tmp_path / "b.zarr", arrays())
    assert "has 2 stores, a.zarr, b.zarr; give one" in failure(tmp_path)


def test_several_cameras(tmp_path: Path) -> None:
    other = make_frames()[::-1]
    path = write(tmp_path / "a.zarr", arrays(img=None, camera0_rgb=make_frames(), robot0_eye_in_hand_image=other))
    assert failure(path) == "cameras: a.zarr has camera0_rgb, robot0_eye_in_hand; name those to import"
    assert "cameras=top: a.zarr has camera0_rgb" in failure(path, ImportOptions(cameras=("top",)))
    for name in ("robot0_eye_in_hand", "robot0_eye_in_hand_image"):
        check(ZarrSource(path, ImportOptions(cameras=(name,))), other)
    views = list(ZarrSource(path, ImportOptions(cameras=("robot0_eye_in_hand", "camera0_rgb"))).episode(2).frames)
    assert isinstance(views[3], tuple)
    np.testing.assert_array_equal(np.asarray(views[3][1]), make_frames()[11])


def test_actions_and_states_by_name(tmp_path: Path) -> None:
    poses = {"robot0_eef_pos": make_numbers(3), "robot0_gripper_width": make_numbers(1)}
    ends = {"robot0_demo_start_pose": make_numbers(6)}
    path = write(tmp_path / "a.zarr", arrays(action=None, state=None, **poses, **ends))
    assert "a.zarr: has no action in n_contacts, robot0_demo_start_pose, " in failure(path)
    source = ZarrSource(path, ImportOptions(action=("robot0_eef_pos", "robot0_gripper_width")))
    assert source.info.action_names == (*(f"robot0_eef_pos[{k}]" for k in range(3)), "robot0_gripper_width[0]")
    assert source.info.state_names == ()
    np.testing.assert_array_equal(source.episode(0).actions[:, 3], make_numbers(1)[:5, 0])
    source = ZarrSource(path, ImportOptions(action=("robot0_gripper_width",), state=("n_contacts",)))
    assert (source.info.action_names, source.info.state_names) == ((), ("n_contacts[0]",))
    assert ZarrSource(path, ImportOptions(action=("n_contacts",))).info.state_names[-1] == "robot0_gripper_width[0]"
    two = write(tmp_path / "b.zarr", arrays(actions=make_numbers(2)))
    assert "b.zarr: has several actions, action, actions; name one or more with --action" in failure(two)


def test_discrete_actions(tmp_path: Path) -> None:
    source = ZarrSource(write(tmp_path / "a.zarr", arrays(action=np.arange(ROWS) % 5)), OPTIONS)
    assert (source.info.action_kind, source.info.action_size) == ("discrete", 5)
    assert source.episode(1).actions.tolist() == [0, 1, 2]


def test_a_missing_chunk_of_pictures_leaves_out_its_episodes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    (path / "data" / "img" / "2.0.0.0").unlink()  # rows 6 to 8
    (path / "data" / "state" / "0.0").unlink()
    source = ZarrSource(path, OPTIONS)
    assert "rows 5 to 7: cannot be read (chunk data/img/2.0.0.0 is missing); copy it again" in bad_episode(source, 1)
    assert "data/img/2.0.0.0 is missing" in bad_episode(source, 2)
    assert len(list(source.episode(0).frames)) == 5
    assert source.info.origin["notes"] == ["data/state: 1 of 6 chunks are missing and are read as zeros"]


def test_a_damaged_chunk(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    (path / "data" / "img" / "0.0.0.0").write_bytes(b"x" * 50)
    assert "a.zarr/data/img rows 0 to 4: cannot be read (" in bad_episode(ZarrSource(path, OPTIONS), 0)


@pytest.mark.parametrize(
    ("ends", "index", "message"),
    [
        ((5, 5, 16), 1, "episode 1: ends at row 5 and begins at row 5; repair"),
        ((5, 3, 16), 1, "episode 1: ends at row 3 and begins at row 5"),
        ((5, 8, 17), 2, "episode 2: ends at row 17, and data/action has 16"),
    ],
)
def test_bad_ends(tmp_path: Path, ends: tuple[int, ...], index: int, message: str) -> None:
    source = ZarrSource(write(tmp_path / "a.zarr", arrays(), ends), OPTIONS)
    assert message in bad_episode(source, index)
    assert len(list(source.episode(0).frames)) == 5


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    actions, states = make_numbers(2), make_numbers(5)
    actions[4], actions[9], states[6] = np.nan, np.inf, np.nan
    source = ZarrSource(write(tmp_path / "a.zarr", arrays(action=actions, state=states)), OPTIONS)
    assert source.episode(0).actions[-1].tolist() == [0, 0]  # leads out of the episode
    assert "episode 1: states at step 1 not finite" in bad_episode(source, 1)
    assert "episode 2: action at step 1 not finite" in bad_episode(source, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img": None}, "a.zarr: has no pictures of three colours in action, keypoint, n_contacts, state"),
        ({"img": make_frames() / 255.0 - 0.5}, "data/img: holds pictures of float64 from -0.5 to "),
        ({"action": None}, "a.zarr: has no action in n_contacts, state; name the action's with --action"),
        ({"state": np.zeros((ROWS, 5000))}, "a.zarr/data/state: has shape (16, 5000); leave it out"),
    ],
)
def test_bad_arrays(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert message in failure(write(tmp_path / "a.zarr", arrays(**change)))


def test_stores_of_other_things(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    shutil.rmtree(path / "meta")
    assert "a.zarr/meta/episode_ends: cannot be read (" in failure(path)
    shutil.rmtree(path / "data")
    assert "a.zarr: has no arrays in data/; give a replay buffer" in failure(path)
    assert "is no zarr store; give one, with data/ and meta/episode_ends" in failure(tmp_path / "a.zarr" / "x")


class Harm:
    """Something that runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_nothing_is_unpickled(tmp_path: Path, place: str) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    meta = json.loads((path / "data" / "action" / ".zarray").read_text())
    codec = {"id": "pickle", "protocol": 5}
    meta[place] = codec if place == "compressor" else [codec]
    (path / "data" / "action" / ".zarray").write_text(json.dumps(meta))
    for file in (path / "data" / "action").glob("[0-9]*"):
        file.write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    failure(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("what", ["data/img/0.0.0.0", "data/img", "data", "data/.zgroup"])
def test_links_out_are_not_followed(tmp_path: Path, what: str) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    (path / what).rename(tmp_path / "secret")
    (path / what).symlink_to(tmp_path / "secret")
    text = bad_episode(ZarrSource(path, OPTIONS), 0) if what.endswith("0") else failure(path)
    assert "links out of the store" in text


def test_a_store_that_is_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.zarr").symlink_to(write(tmp_path / "a.zarr", arrays()))
    assert "a.zarr: links out of" in failure(tmp_path / "set")
    check(ZarrSource(tmp_path / "set" / "a.zarr", OPTIONS))  # named by the user


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    (path / "data" / "img" / "0.0.0.0").unlink()
    os.mkfifo(path / "data" / "img" / "0.0.0.0")
    assert "data/img/0.0.0.0 is no file" in bad_episode(ZarrSource(path, OPTIONS), 0)


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    for changed, message in (
        ({"chunks": [10**9, SIZE, SIZE, 3]}, "absurd ones"),
        ({"shape": [0, 4, 4, 3]}, "no pictures"),
    ):
        file = path / "data" / "img" / ".zarray"
        old = file.read_text()
        file.write_text(json.dumps(json.loads(old) | changed))
        assert message in failure(path)
        file.write_text(old)
