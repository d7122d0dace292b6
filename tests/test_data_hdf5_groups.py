"""HDF5 with one group or one file an episode, coded pictures, and the choice of action and state by name."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lewm.data.importers.hdf5 import HDF5Source
from lewm.data.importing import ImportOptions, import_recording

SIZE = 16
LENGTH = 6
OPTIONS = ImportOptions(image_size=SIZE)


def make_frames(episode: int, length: int = LENGTH) -> npt.NDArray[np.uint8]:
    frames = np.zeros((length, SIZE, SIZE, 3), np.uint8)
    frames[..., 0], frames[..., 1] = 10 + episode * 20, np.arange(length)[:, None, None] * 20
    frames[..., 2] = np.arange(SIZE) * 12
    return frames


def make_numbers(episode: int, columns: int, length: int = LENGTH) -> npt.NDArray[np.float32]:
    return (episode * 100 + np.arange(length)[:, None] + np.arange(columns) / 8).astype(np.float32)


def encode(frame: npt.NDArray[np.uint8], kind: str = "PNG") -> npt.NDArray[np.uint8]:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return np.frombuffer(out.getvalue(), np.uint8)


def write_coded(group: h5py.Group, name: str, frames: npt.NDArray[np.uint8], form: str, kind: str = "PNG") -> None:
    coded = [encode(frame, kind) for frame in frames]
    if form == "padded":
        rows = np.zeros((len(coded), max(map(len, coded)) + 7), np.uint8)
        for row, data in zip(rows, coded, strict=True):
            row[: len(data)] = data
        group[name] = rows
    elif form == "variable":
        dataset = group.create_dataset(name, (len(coded),), h5py.vlen_dtype(np.uint8))
        for k, data in enumerate(coded):
            dataset[k] = data
    else:
        group[name] = np.array([data.tobytes() for data in coded], "S")


def write_aloha(path: Path, episode: int, form: str = "raw", cameras: tuple[str, ...] = ("top",)) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file["action"] = make_numbers(episode, 14)
        file["base_action"] = make_numbers(episode, 2)
        for name, columns in (("qpos", 14), ("qvel", 14), ("effort", 14)):
            file[f"observations/{name}"] = make_numbers(episode, columns) + len(name)
        for k, camera in enumerate(cameras):
            frames = make_frames(episode) + np.uint8(k)
            images = file.require_group("observations/images")
            if form == "raw":
                images[camera] = frames
            else:
                write_coded(images, camera, frames, form)
        if form == "padded":
            file["compress_len"] = np.full((len(cameras), LENGTH), 99.0)
    return path


def frames_of(source: HDF5Source, index: int) -> npt.NDArray[np.uint8]:
    return np.stack([np.asarray(frame) for frame in source.episode(index).frames])


def failure(path: Path, options: ImportOptions = OPTIONS) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        HDF5Source(path, options)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= 300
    return text


@pytest.mark.parametrize("form", ["raw", "padded", "variable", "text"])
def test_aloha(tmp_path: Path, form: str) -> None:
    for k in (0, 2, 10):
        write_aloha(tmp_path / f"episode_{k}.hdf5", k, form)
    source = HDF5Source(tmp_path, OPTIONS)
    info = source.info
    assert (info.action_size, info.action_names, info.origin["layout"]) == (14, (), "single")
    assert info.state_names[:2] == ("effort[0]", "effort[1]")
    assert [name for name in info.state_names if name.endswith("[0]")] == ["effort[0]", "qpos[0]", "qvel[0]"]
    for index, k in enumerate((0, 2, 10)):  # in the order of their numbers
        recording = source.episode(index)
        assert recording.source == f"episode_{k}.hdf5"
        np.testing.assert_array_equal(frames_of(source, index), make_frames(k))
        np.testing.assert_array_equal(recording.actions, make_numbers(k, 14))
        assert recording.states is not None
        np.testing.assert_array_equal(recording.states[:, 14:28], make_numbers(k, 14) + 4)


@pytest.mark.parametrize(
    ("value", "fps"), [(50, 50.0), (12.5, 12.5), (0, None), (np.nan, None), (1e9, None), ("50", None), ([50], None)]
)
def test_the_attribute_fps_is_the_frame_rate(tmp_path: Path, value: Any, fps: float | None) -> None:
    path = write_aloha(tmp_path / "a.hdf5", 0)
    assert HDF5Source(path, OPTIONS).info.fps is None
    with h5py.File(path, "a") as file:
        file.attrs["fps"] = value
    assert HDF5Source(path, OPTIONS).info.fps == fps


def test_aloha_cameras_and_its_base(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "a.hdf5", 1, "padded", ("cam_high", "cam_left_wrist"))
    assert failure(path) == "cameras: a.hdf5 has cam_high, cam_left_wrist; name those to import"
    options = ImportOptions(cameras=("cam_left_wrist",), action=("action", "base_action"), state=("qpos",))
    source = HDF5Source(path, options)
    assert source.info.action_names[13:15] == ("action[13]", "base_action[0]")
    assert source.info.state_names == tuple(f"qpos[{k}]" for k in range(14))
    recording = source.episode(0)
    np.testing.assert_array_equal(recording.actions, np.concatenate([make_numbers(1, 14), make_numbers(1, 2)], axis=1))
    np.testing.assert_array_equal(frames_of(source, 0), make_frames(1) + np.uint8(1))


@pytest.mark.parametrize("form", ["padded", "variable", "text"])
def test_jpegs_are_decoded(tmp_path: Path, form: str) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["action"] = make_numbers(0, 3)
        write_coded(file.create_group("observations"), "wrist", make_frames(0), form, "JPEG")
    coded = [encode(frame, "JPEG").tobytes() for frame in make_frames(0)]
    expected = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in coded])
    np.testing.assert_array_equal(frames_of(HDF5Source(tmp_path / "a.hdf5", OPTIONS), 0), expected)


@pytest.mark.parametrize("form", ["padded", "variable"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_bad_coded_picture_costs_its_episode(tmp_path: Path, form: str, damage: str) -> None:
    for k in range(2):
        write_aloha(tmp_path / f"episode_{k}.hdf5", k, form)
    with h5py.File(tmp_path / "episode_1.hdf5", "a") as file:
        images: Any = file["observations/images/top"]
        row = images[4]
        length = len(encode(make_frames(1)[4]))
        bad = {"cut": row[: length // 2], "empty": row[:0], "other": np.frombuffer(b"GIF89a" * 9, np.uint8)}[damage]
        images[4] = np.resize(np.append(bad, np.zeros(len(row), np.uint8)), len(row)) if form == "padded" else bad
    done = import_recording(tmp_path, tmp_path.with_name(f"{tmp_path.name}_out"), options=OPTIONS, workers=1,
                            progress=False)  # fmt: skip
    ((index, reason),) = done.skipped
    assert index == 1
    assert "episode_1.hdf5/observations/images/top row 4: is no usable image" in reason
    assert done.store.num_episodes == 1


def write_isaac(path: Path, *, image: Any = None) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 2
        for k in range(2):
            demo = data.create_group(f"demo_{k}")
            demo["actions"] = make_numbers(k, 7)
            demo["processed_actions"] = make_numbers(k, 7) * 2
            demo["obs/joint_pos"] = make_numbers(k, 9)
            demo["obs/left/eef_pos"] = make_numbers(k, 3)
            demo["obs/right/eef_pos"] = make_numbers(k, 3) + 1
            demo["obs/cameras/table_cam"] = make_frames(k) if image is None else image(make_frames(k))
            demo["states/articulation/robot/joint_position"] = make_numbers(k, 9) + 5
            demo["initial_state/articulation/robot/joint_position"] = np.zeros((1, 9))
            demo["initial_state/image"] = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    return path


def test_isaac_lab(tmp_path: Path) -> None:
    path = write_isaac(tmp_path / "stack.hdf5")
    source = HDF5Source(path, OPTIONS)
    assert source.info.action_size == 7
    names = source.info.state_names
    assert (names[0], names[9], names[12]) == ("joint_pos[0]", "obs/left/eef_pos[0]", "obs/right/eef_pos[0]")
    for k in range(2):
        recording = source.episode(k)
        np.testing.assert_array_equal(frames_of(source, k), make_frames(k))
        np.testing.assert_array_equal(recording.actions, make_numbers(k, 7))
        assert recording.states is not None
        np.testing.assert_array_equal(recording.states[:, 12:], make_numbers(k, 3) + 1)


@pytest.mark.parametrize("name", ["robot/joint_position", "states/articulation/robot/joint_position", "states"])
def test_a_state_by_name(tmp_path: Path, name: str) -> None:
    source = HDF5Source(write_isaac(tmp_path / "a.hdf5"), ImportOptions(state=(name,)))
    assert source.info.state_names == tuple(f"joint_position[{k}]" for k in range(9))
    states = source.episode(1).states
    assert states is not None
    np.testing.assert_array_equal(states, make_numbers(1, 9) + 5)


def test_an_action_by_name(tmp_path: Path) -> None:
    source = HDF5Source(write_isaac(tmp_path / "a.hdf5"), ImportOptions(action=("processed_actions",)))
    np.testing.assert_array_equal(source.episode(1).actions, make_numbers(1, 7) * 2)


@pytest.mark.parametrize("kind", ["action", "state"])
def test_names_that_lead_to_nothing_or_to_several(tmp_path: Path, kind: str) -> None:
    path = write_isaac(tmp_path / "a.hdf5")
    missing, several = (ImportOptions(**{kind: (name,)}) for name in ("grip", "eef_pos"))  # pyright: ignore
    assert f"{kind}=grip: a.hdf5/data/demo_0 has actions, obs/joint_pos, obs/left/eef_pos" in failure(path, missing)
    assert f"{kind}=eef_pos: a.hdf5/data/demo_0 has obs/left/eef_pos, obs/right" in failure(path, several)


def test_several_actions_are_the_users_choice(tmp_path: Path) -> None:
    path = write_isaac(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        for k in range(2):
            del file[f"data/demo_{k}/actions"]
            file[f"data/demo_{k}/joint_action/left"] = make_numbers(k, 2)
            file[f"data/demo_{k}/joint_action/right"] = make_numbers(k, 3)
    assert "demo_0: has several actions, joint_action/left, joint_action/right, processed_actions; name" in failure(
        path
    )
    source = HDF5Source(path, ImportOptions(action=("joint_action",)))
    assert source.info.action_names == ("left[0]", "left[1]", "right[0]", "right[1]", "right[2]")


def as_real(scale: float) -> Any:
    return lambda frames: (frames / scale).astype(np.float32)


@pytest.mark.parametrize("scale", [1, 255])
def test_pictures_of_real_numbers(tmp_path: Path, scale: float) -> None:
    path = write_isaac(tmp_path / "a.hdf5", image=as_real(scale))
    np.testing.assert_array_equal(frames_of(HDF5Source(path, OPTIONS), 1), make_frames(1))


def test_a_dark_episode_of_real_numbers_stays_dark(tmp_path: Path) -> None:
    path = write_isaac(tmp_path / "a.hdf5", image=as_real(1))
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/cameras/table_cam"][...] = 1.0  # pyright: ignore
    assert (frames_of(HDF5Source(path, OPTIONS), 0) == 1).all()


def test_normalised_pictures_are_refused(tmp_path: Path) -> None:
    path = write_isaac(tmp_path / "a.hdf5", image=lambda frames: frames / 255 - 0.5)
    assert "table_cam: holds pictures of float64 from -0.5 to " in failure(path)


@pytest.mark.parametrize("name", ["episode", "traj"])
def test_one_observation_more_than_actions(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for k in range(2):
            file[f"{name}_{k}/actions"] = make_numbers(k, 2, LENGTH - 1)
            file[f"{name}_{k}/obs/sensor_data/base_camera/rgb"] = make_frames(k)
            file[f"{name}_{k}/obs/agent/qpos"] = make_numbers(k, 4)
    source = HDF5Source(tmp_path / "a.h5", ImportOptions(cameras=("base_camera",)))
    recording = source.episode(1)
    np.testing.assert_array_equal(frames_of(source, 1), make_frames(1))
    np.testing.assert_array_equal(recording.actions[:-1], make_numbers(1, 2, LENGTH - 1))
    assert recording.actions[-1].tolist() == [0, 0]


def test_droid_and_files_without_a_layout_are_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "trajectory.h5", "w") as file:
        file["action/joint_position"] = make_numbers(0, 7)
        file["observation/robot_state/joint_positions"] = make_numbers(0, 7)
    assert "trajectory.h5: is DROID's raw form, with pictures in recordings/MP4; import" in failure(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = make_numbers(0, 7)
    assert "other.h5: holds x; must have" in failure(tmp_path / "other.h5")
