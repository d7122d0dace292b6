"""HDF5: both layouts arrive frame by frame and action by action, and bad or hostile files are one-line errors."""

import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from lewm.data.importers.hdf5 import HDF5Source
from lewm.data.importing import ImportOptions, Recording, detect_format, import_recording

LENGTHS = (5, 3, 8)
SIZE = 16
OPTIONS = ImportOptions(image_size=SIZE)


def make_frames(episode: int, length: int, height: int = SIZE, width: int = SIZE) -> npt.NDArray[np.uint8]:
    """Return frames that carry their episode, their time and a ramp that tells left from top."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames[..., 0] = episode * 50
    frames[..., 1] = np.arange(length)[:, None, None]
    frames[..., 2] = np.arange(height)[:, None] * 2 + np.arange(width)
    return frames


def make_actions(episode: int, length: int) -> npt.NDArray[np.float32]:
    return (episode * 100 + np.arange(length)[:, None] + np.array([0.0, 0.25])).astype(np.float32)


def make_states(episode: int, length: int) -> npt.NDArray[np.float32]:
    return (episode * 100 + np.arange(length)[:, None] * [1, 2, 3]).astype(np.float32)


def flat_columns(lengths: tuple[int, ...] = LENGTHS) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a file as stable-worldmodel writes it, with its NaN in the last action of an episode."""
    actions = [make_actions(k, length) for k, length in enumerate(lengths)]
    for episode in actions:
        episode[-1] = np.nan
    return {
        "pixels": np.concatenate([make_frames(k, length) for k, length in enumerate(lengths)]),
        "action": np.concatenate(actions),
        "state": np.concatenate([make_states(k, length) for k, length in enumerate(lengths)]),
        "proprio": np.concatenate([make_states(k, length)[:, :1] for k, length in enumerate(lengths)]),
        "reward": np.zeros(sum(lengths), np.float32),
        "episode_idx": np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
        "step_idx": np.concatenate([np.arange(length) for length in lengths]).astype(np.int32),
        "ep_len": np.array(lengths, np.int32),
        "ep_offset": np.cumsum([0, *lengths[:-1]]).astype(np.int64),
    }


def write(path: Path, columns: dict[str, Any], **settings: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, **settings)
    return path


def write_robomimic(path: Path, lengths: dict[str, int], cameras: tuple[str, ...] = ("agentview_image",)) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for k, (name, length) in enumerate(lengths.items()):
            demo = data.create_group(name)
            demo["actions"] = make_actions(k, length)
            demo["states"] = np.zeros((length, 40))  # the simulator's, which is not what a robot knows
            demo["obs/robot0_eef_pos"] = make_states(k, length).astype(np.float64)
            demo["obs/object"] = make_states(k, length)[:, 0]
            for number, camera in enumerate(cameras):
                demo[f"obs/{camera}"] = make_frames(k, length) + np.uint8(number)
    return path


def check_episode(recording: Recording, episode: int, length: int) -> None:
    """Check frames, actions and states of an episode as it was made."""
    frames = list(recording.frames)
    assert len(frames) == length
    for frame, expected in zip(frames, make_frames(episode, length), strict=True):
        np.testing.assert_array_equal(np.asarray(frame), expected)
    actions = make_actions(episode, length)
    assert recording.actions.dtype == np.float32
    np.testing.assert_array_equal(recording.actions[:-1], actions[:-1])
    assert np.isfinite(recording.actions).all()


def failure(path: Path, options: ImportOptions = OPTIONS) -> str:
    """Return why nothing can be imported; it must be one line that ends in a remedy."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        HDF5Source(path, options)
    return one_line(error.value)


def bad_episode(source: HDF5Source, index: int) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        list(source.episode(index).frames)
    return one_line(error.value)


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    assert ";" in str(error)
    return str(error)


# The flat layout.


@pytest.mark.parametrize("number", ["episode_idx", "ep_idx"])
@pytest.mark.parametrize("form", ["offsets", "numbers"])
@pytest.mark.parametrize("settings", [{}, {"compression": "gzip"}, {"compression": "lzf", "chunks": True}])
def test_flat(tmp_path: Path, number: str, form: str, settings: dict[str, Any]) -> None:
    columns = flat_columns()
    columns[number] = columns.pop("episode_idx")
    if form == "numbers":
        del columns["ep_len"], columns["ep_offset"]
    source = HDF5Source(write(tmp_path / "pusht.h5", columns, **settings), OPTIONS)
    assert source.num_episodes == len(LENGTHS)
    assert [source.length(k) for k in range(3)] == list(LENGTHS)
    info = source.info
    assert (info.task, info.action_kind, info.action_size, info.fps) == ("pusht", "continuous", 2, None)
    assert info.state_names == ("proprio[0]", "state[0]", "state[1]", "state[2]")
    for k, length in enumerate(LENGTHS):
        recording = source.episode(k)
        check_episode(recording, k, length)
        assert recording.source == f"pusht.h5 episode {k}"
        assert (recording.actions[-1] == 0).all()  # was NaN
        states = make_states(k, length)
        assert recording.states is not None
        np.testing.assert_array_equal(recording.states, np.concatenate([states[:, :1], states], axis=1))


def test_a_last_action_that_is_known_stays(tmp_path: Path) -> None:
    columns = flat_columns()
    columns["action"] = np.nan_to_num(columns["action"], nan=7.0)
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert source.episode(1).actions[-1].tolist() == [7.0, 7.0]


def test_rows_in_any_order(tmp_path: Path) -> None:
    columns = flat_columns()
    del columns["ep_len"], columns["ep_offset"]
    order = np.random.default_rng(0).permutation(sum(LENGTHS))
    columns = {name: values[order] for name, values in columns.items()}
    columns["episode_idx"] = columns["episode_idx"] * 4 + 3  # numbers with holes
    source = HDF5Source(write(tmp_path / "a.h5", columns, chunks=True), OPTIONS)
    for k, length in enumerate(LENGTHS):
        recording = source.episode(k)
        check_episode(recording, k, length)
        assert recording.source == f"a.h5 episode {k * 4 + 3}"


def test_interleaved_episodes_without_steps_keep_their_order(tmp_path: Path) -> None:
    columns = flat_columns((4, 4))
    order = np.arange(8).reshape(2, 4).T.reshape(-1)  # 0 4 1 5 ...
    columns = {name: columns[name][order] for name in ("pixels", "action", "episode_idx")}
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert source.info.state_names == ()
    for k in range(2):
        check_episode(source.episode(k), k, 4)


def test_reads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = flat_columns((40, 30))
    path = write(tmp_path / "a.h5", {name: columns[name] for name in ("action", "episode_idx", "step_idx")})
    with h5py.File(path, "a") as file:
        file.create_dataset("pixels", data=columns["pixels"], chunks=(4, SIZE, SIZE, 3), compression="gzip")
    row = SIZE * SIZE * 3
    monkeypatch.setattr("lewm.data.importers.hdf5.hdf5_source.READ_BYTES", 10 * row)
    asked: list[tuple[int, int]] = []
    get = h5py.Dataset.__getitem__

    def spy(self: h5py.Dataset, key: Any, **settings: Any) -> Any:
        if self.ndim == 4:
            asked.append((key.start, key.stop))
        return get(self, key, **settings)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    source = HDF5Source(path, OPTIONS)
    for k, length in enumerate((40, 30)):
        check_episode(source.episode(k), k, length)
    assert max(stop - start for start, stop in asked) * row <= 10 * row
    inner = [start for start, _ in asked if start != 0]
    assert inner
    assert all(start % 4 == 0 for start in inner)  # no chunk is decompressed twice


def test_channels_first(tmp_path: Path) -> None:
    columns = flat_columns()
    columns["pixels"] = np.moveaxis(columns["pixels"], 3, 1)
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    check_episode(source.episode(2), 2, 8)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_discrete_actions(tmp_path: Path, dtype: type) -> None:
    columns = flat_columns()
    columns["action"] = (np.arange(sum(LENGTHS)) % 2).astype(dtype)
    columns["action"][0] = 1 if dtype is np.bool_ else 4
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert (source.info.action_kind, source.info.action_size) == ("discrete", 2 if dtype is np.bool_ else 5)
    actions = source.episode(1).actions
    assert actions.dtype == np.int64
    assert actions.tolist() == [1, 0, 1]


def test_one_real_number_an_action(tmp_path: Path) -> None:
    columns = flat_columns()
    columns["action"] = columns["action"][:, 0]
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert (source.info.action_kind, source.info.action_size) == ("continuous", 1)
    assert source.episode(1).actions.tolist() == [[100.0], [101.0], [0.0]]


def test_whole_numbers_in_columns_are_continuous(tmp_path: Path) -> None:
    columns = flat_columns()
    columns["action"] = np.nan_to_num(columns["action"]).astype(np.int32)
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert (source.info.action_kind, source.info.action_size) == ("continuous", 2)
    assert source.episode(1).actions.dtype == np.float32


def test_states_of_the_published_files(tmp_path: Path) -> None:
    columns = flat_columns((2,))
    names = ["finger_pos", "privileged_block_0_pos", "proprio_joint_pos", "qpos", "target_pos", "goal_pos", "prev_qpos"]
    columns |= {name: np.zeros((2, 1)) for name in [*names, "observation", "pos_agent", "render_time"]}
    info = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS).info
    wanted = {*names[:5], "observation", "pos_agent", "proprio"}
    assert {name.removesuffix("[0]") for name in info.state_names} == wanted | {"state", "state[1]", "state[2]"}


def test_several_cameras(tmp_path: Path) -> None:
    columns = flat_columns()
    columns["wrist"] = columns["pixels"] + np.uint8(1)
    path = write(tmp_path / "a.h5", columns)
    assert failure(path).startswith("cameras: a.h5 has pixels, wrist; ")
    unknown = failure(path, ImportOptions(image_size=SIZE, cameras=("top",)))
    assert unknown.startswith("cameras=top: a.h5 has pixels, wrist; ")
    source = HDF5Source(path, ImportOptions(image_size=SIZE, cameras=("wrist", "pixels")))
    for time, views in enumerate(source.episode(1).frames):
        assert isinstance(views, tuple)
        wrist, pixels = (np.asarray(view) for view in views)
        np.testing.assert_array_equal(pixels, make_frames(1, 3)[time])
        np.testing.assert_array_equal(wrist, pixels + np.uint8(1))
    check_episode(HDF5Source(path, ImportOptions(cameras=("pixels",))).episode(2), 2, 8)


# Robomimic's layout.


def test_robomimic(tmp_path: Path) -> None:
    lengths = {"demo_0": 4, "demo_10": 3, "demo_2": 6}
    path = write_robomimic(tmp_path / "image.hdf5", lengths)
    source = HDF5Source(path, OPTIONS)
    info = source.info
    assert (info.task, info.fps, info.action_size) == ("image", None, 2)
    assert info.state_names == ("object", "robot0_eef_pos[0]", "robot0_eef_pos[1]", "robot0_eef_pos[2]")
    for index, (k, name) in enumerate([(0, "demo_0"), (2, "demo_2"), (1, "demo_10")]):  # in numeric order
        recording = source.episode(index)
        check_episode(recording, k, lengths[name])
        assert recording.source == f"image.hdf5 {name}"
        states = make_states(k, lengths[name])
        assert recording.states is not None
        np.testing.assert_array_equal(recording.states, np.concatenate([states[:, :1], states], axis=1))


def test_robomimic_cameras(tmp_path: Path) -> None:
    cameras = ("agentview_image", "robot0_eye_in_hand_image")
    path = write_robomimic(tmp_path / "image.hdf5", {"demo_0": 4}, cameras)
    assert "agentview, robot0_eye_in_hand; name those" in failure(path)
    source = HDF5Source(path, ImportOptions(cameras=("robot0_eye_in_hand", "agentview")))
    frames = list(source.episode(0).frames)
    assert len(frames) == 4
    views = frames[3]
    assert isinstance(views, tuple)
    hand, front = views
    np.testing.assert_array_equal(np.asarray(front), make_frames(0, 4)[3])
    np.testing.assert_array_equal(np.asarray(hand), make_frames(0, 4)[3] + np.uint8(1))


def test_robomimic_demos_that_differ_are_left_out(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5", {f"demo_{k}": 4 for k in range(6)})
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs"]
        del file["data/demo_2/actions"]
        del file["data/demo_3/obs/object"]
        del file["data/demo_4/actions"]
        file["data/demo_4/actions"] = make_actions(4, 2)
    source = HDF5Source(path, OPTIONS)
    assert source.num_episodes == 6
    assert source.length(0) == 0
    check_episode(source.episode(1), 1, 4)
    check_episode(source.episode(5), 5, 4)
    assert "demo_0: has no group obs" in bad_episode(source, 0)
    assert "demo_2: has no action in obs/object" in bad_episode(source, 2)
    assert "demo_3: has other actions, states or images" in bad_episode(source, 3)
    assert "demo_4: has other numbers of rows" in bad_episode(source, 4)


def test_robomimic_without_images(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5", {"demo_0": 4}, cameras=())
    assert "has no images of three colours, nor coded ones, in actions, obs/object, obs/robot0_eef_pos" in failure(path)


def test_discrete_robomimic_counts_over_all_demos(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": 2, "demo_1": 2})
    with h5py.File(path, "a") as file:
        for name, actions in (("demo_0", [1, 0]), ("demo_1", [0, 6])):
            del file[f"data/{name}/actions"]
            file[f"data/{name}/actions"] = np.array(actions)
    assert HDF5Source(path, OPTIONS).info.action_size == 7


# Folders.


def test_folder_of_files(tmp_path: Path) -> None:
    for name, lengths in (("b.hdf5", (4,)), ("a.h5", (2, 3)), ("c.H5", (5,))):
        write(tmp_path / name, flat_columns(lengths))
    (tmp_path / "d.h5").write_bytes(b"no HDF5")
    (tmp_path / "notes.txt").write_text("nothing")
    other = flat_columns((2,))
    other["action"] = other["action"][:, :1]
    write(tmp_path / "e.h5", other)
    source = HDF5Source(tmp_path, OPTIONS)
    assert source.info.task == tmp_path.stem
    assert source.num_episodes == 6
    for index, (k, length) in enumerate([(0, 2), (1, 3), (0, 4), (0, 5)]):
        check_episode(source.episode(index), k, length)
    assert source.episode(2).source == "b.hdf5 episode 0"
    assert "d.h5: cannot be read" in bad_episode(source, 4)
    assert "e.h5: has other actions" in bad_episode(source, 5)


def test_folder_counts_discrete_actions_over_all_files(tmp_path: Path) -> None:
    for name, largest in (("a.h5", 2), ("b.h5", 6)):
        columns = flat_columns((3,))
        columns["action"] = np.array([0, 1, largest])
        write(tmp_path / name, columns)
    source = HDF5Source(tmp_path, OPTIONS)
    assert (source.info.action_size, source.num_episodes) == (7, 2)


def test_link_out_of_the_folder(tmp_path: Path) -> None:
    outside = write(tmp_path / "secret.h5", flat_columns())
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.h5").symlink_to(outside)
    assert "a.h5: links out of" in failure(folder)
    check_episode(HDF5Source(folder / "a.h5", OPTIONS).episode(1), 1, 3)  # named by the user


def test_matches(tmp_path: Path) -> None:
    assert not HDF5Source.matches(tmp_path)
    path = write(tmp_path / "a.h5", flat_columns())
    assert HDF5Source.matches(tmp_path)
    assert HDF5Source.matches(path)
    assert detect_format(path) == "hdf5"
    shutil.copy(path, tmp_path / "a.bin")
    assert not HDF5Source.matches(tmp_path / "a.bin")
    assert "holds no *.h5" in failure(tmp_path / "a.bin")


# Files that are wrong.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": None}, "a.h5: has no images of three colours, nor coded ones, in action, ep_len, "),
        ({"action": None}, "a.h5: has no action in ep_len, .*; name the action's with --action"),
        ({"ep_len": None, "episode_idx": None}, "a.h5: does not say which rows are an episode"),
        ({"pixels": np.full((16, 4, 4, 3), -0.5, np.float32)}, "holds pictures of float32 from -0.5 to 0; must be"),
        ({"pixels": np.zeros((16, 4, 4), np.uint8)}, "has no images of three colours"),
        ({"pixels": np.zeros((16, 0, 4, 3), np.uint8)}, r"a.h5/pixels: is uint8\[16, 0, 4, 3\], absurd"),
        ({"action": np.array(["a"] * 16, object)}, r"a.h5/action: is object\[16\]; must be at most"),
        ({"action": np.zeros((16, 2, 2))}, r"a.h5/action: is float64\[16, 2, 2\]"),
        ({"action": np.zeros((16, 0))}, r"a.h5/action: is float64\[16, 0\]"),
        ({"action": np.float32(3)}, "a.h5/action: is not an array"),
        ({"action": h5py.Empty("f4")}, "a.h5/action: is not an array"),
        ({"action": np.full(16, 10**9)}, "a.h5/action: has 1000000000 among"),
        ({"state": np.zeros((16, 5000))}, "a.h5: has more than 4096 state variables"),
        ({"step_idx": np.zeros(16)}, r"a.h5/step_idx: is float64\[16\]; must be integers"),
        ({"episode_idx": np.zeros((16, 1), int)}, r"a.h5/episode_idx: is int64\[16, 1\]; must be integers"),
        ({"ep_len": np.array([5.0])}, "a.h5/ep_len: is float64"),
        ({"ep_len": np.array([5, 3])}, "a.h5: has 3 ep_offset and 2 ep_len"),
        ({"ep_len": np.zeros(0, int), "ep_offset": np.zeros(0, int)}, "a.h5: holds no episode"),
        ({"ep_len": None, "episode_idx": np.zeros(0, int)}, "a.h5: holds no episode"),
    ],
)
def test_bad_columns(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    columns = {name: values for name, values in (flat_columns() | change).items() if values is not None}
    text = failure(write(tmp_path / "a.h5", columns))
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("column", "row", "value", "index", "message"),
    [
        ("step_idx", 6, 0, 1, "episode 1: step 0 comes twice"),
        ("goblet_pos", 6, 1e300, 1, "episode 1: states at step 1 not finite"),
        ("step_idx", 6, 7, 1, "episode 1: step 1 is missing"),
        ("step_idx", 5, -1, 1, "episode 1: step_idx -1 is negative"),
        ("action", 6, np.nan, 1, "episode 1: action at step 1 not finite"),
        ("action", 7, np.inf, 1, "episode 1: action at step 2 not finite"),
        ("state", 7, np.nan, 1, "episode 1: states at step 2 not finite"),
        ("episode_idx", 6, 2, 1, "episode 1: episode_idx has 2 values"),
        ("ep_offset", 1, -1, 1, "episode 1: ep_offset=-1 and ep_len=3 are not within the 16 rows"),
        ("ep_len", 1, -3, 1, "episode 1: ep_offset=5 and ep_len=-3 are not"),
        ("ep_len", 1, 0, 1, "episode 1: ep_offset=5 and ep_len=0 are not"),
        ("ep_len", 2, 2**31 - 1, 2, "episode 2: ep_offset=8 and ep_len=2147483647 are not"),
        ("ep_offset", 2, 2**63 - 1, 2, "episode 2: ep_offset=9223372036854775807"),
        ("ep_len", 0, 6, 1, "episode 1: overlaps another"),
    ],
)
def test_bad_episode_among_good_ones(
    tmp_path: Path, column: str, row: int, value: float, index: int, message: str
) -> None:
    columns = flat_columns() | {"goblet_pos": np.zeros(16)}
    columns[column][row] = value
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert source.num_episodes == 3
    assert message in bad_episode(source, index)
    good = 2 if index == 1 else 0
    check_episode(source.episode(good), good, LENGTHS[good])


def test_negative_numbers_of_episodes(tmp_path: Path) -> None:
    columns = flat_columns()
    del columns["ep_len"], columns["ep_offset"]
    columns["episode_idx"] -= 1
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert "episode -1: episode_idx is negative" in bad_episode(source, 0)
    check_episode(source.episode(1), 1, 3)


def test_negative_discrete_action(tmp_path: Path) -> None:
    columns = flat_columns()
    columns["action"] = np.arange(16) - 5
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    assert "action -5 at step 0 is negative" in bad_episode(source, 0)
    assert source.episode(1).actions.tolist() == [0, 1, 2]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", {"other": np.zeros(3)})
    with h5py.File(path, "a") as file:
        h5py.h5g.create(file.id, b"\xff\xfe")
    assert failure(path).startswith("a.h5: holds other")


def test_columns_of_a_killed_writer_have_other_lengths(tmp_path: Path) -> None:
    columns = flat_columns()
    columns["pixels"] = columns["pixels"][:10]
    source = HDF5Source(write(tmp_path / "a.h5", columns), OPTIONS)
    check_episode(source.episode(1), 1, 3)
    assert "a.h5/pixels: has 10 rows and the episode needs row 15" in bad_episode(source, 2)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2**40, 16, 16, 3), {"chunks": (1, 16, 16, 3)}),
        ((2**62, 16, 16, 3), {"chunks": (1, 16, 16, 3), "compression": "gzip"}),
        ((16, 2**30, 2**30, 3), {"chunks": (1, 16, 16, 3)}),
        ((2**60, 16, 16, 3), {}),
        ((16, 20_000, 20_000, 3), {"chunks": (1, 20_000, 20_000, 3), "compression": "gzip"}),
    ],
)
def test_absurd_images(tmp_path: Path, shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    columns = flat_columns()
    del columns["pixels"]
    path = write(tmp_path / "a.h5", columns)
    with h5py.File(path, "a") as file:
        try:
            file.create_dataset("pixels", shape, np.uint8, **settings)
        except ValueError:  # HDF5 itself refuses to hold that many bytes in one piece
            pytest.skip("cannot be written")
    assert failure(path).startswith("a.h5/pixels: ")


@pytest.mark.parametrize("name", ["action", "state", "step_idx", "episode_idx", "ep_len"])
def test_absurd_columns(tmp_path: Path, name: str) -> None:
    columns = flat_columns()
    shape = (2**40, *columns[name].shape[1:])
    dtype = columns.pop(name).dtype
    path = write(tmp_path / "a.h5", columns)
    with h5py.File(path, "a") as file:
        file.create_dataset(name, shape, dtype, chunks=(1024, *shape[1:]))
    assert failure(path).startswith(f"a.h5/{name}: ")


def test_frames_that_were_never_written(tmp_path: Path) -> None:
    columns = flat_columns()
    pixels = columns.pop("pixels")
    path = write(tmp_path / "a.h5", columns)
    with h5py.File(path, "a") as file:
        dataset = file.create_dataset("pixels", pixels.shape, np.uint8, chunks=(1, SIZE, SIZE, 3))
        dataset[:15] = pixels[:15]
    assert "a.h5/pixels: is uint8[16, 16, 16, 3] and not all of it was written" in failure(path)


def lead_out(file: h5py.File, name: str, kind: str, outside: Path) -> None:
    """Replace what is in a file by a way to what is in another."""
    if kind == "external link":
        link = h5py.ExternalLink(str(outside), name)
    elif kind == "dangling link":
        link = h5py.ExternalLink("missing.h5", name)
    else:
        file["also"] = file[name]
        link = h5py.SoftLink("/also")
    del file[name]
    file[name] = link


@pytest.mark.parametrize("kind", ["external link", "soft link", "dangling link"])
@pytest.mark.parametrize("name", ["pixels", "action", "state", "step_idx", "ep_len", "data", "data/demo_0"])
def test_no_link_is_followed(tmp_path: Path, kind: str, name: str) -> None:
    outside, path = tmp_path / "secret.h5", tmp_path / "a.h5"
    for file in (outside, path):
        write_robomimic(file, {"demo_0": 3}) if name.startswith("data") else write(file, flat_columns())
    with h5py.File(path, "a") as file:
        lead_out(file, name, kind, outside)
    assert f"a.h5/{name}: is a link, which is not followed" in failure(path)


@pytest.mark.parametrize("kind", ["external", "virtual"])
@pytest.mark.parametrize("name", ["pixels", "action", "state", "step_idx", "ep_len"])
def test_no_other_file_is_read(tmp_path: Path, kind: str, name: str) -> None:
    columns = flat_columns()
    outside = write(tmp_path / "secret.h5", columns)
    values = columns.pop(name)
    path = write(tmp_path / "a.h5", columns)
    with h5py.File(path, "a") as file:
        if kind == "external":
            values.tofile(tmp_path / "secret.raw")
            place = [(str(tmp_path / "secret.raw"), 0, values.nbytes)]
            file.create_dataset(name, values.shape, values.dtype, external=place)
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource(str(outside), name, values.shape)
            file.create_virtual_dataset(name, layout)
    assert f"a.h5/{name}: has its data in other files" in failure(path)


def test_missing_compression_filter(tmp_path: Path) -> None:
    columns = flat_columns()
    pixels = columns.pop("pixels")
    path = write(tmp_path / "a.h5", columns)
    with h5py.File(path, "a") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1, SIZE, SIZE, 3))
        properties.set_filter(299, h5py.h5z.FLAG_OPTIONAL, ())  # a number that nobody has registered
        space = h5py.h5s.create_simple(pixels.shape)
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"pixels", h5py.h5t.NATIVE_UINT8, space, properties))
        dataset[...] = pixels
    text = failure(path)
    assert text == "a.h5/pixels: is compressed with filter 299, which is missing here; pip install hdf5plugin"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "a.h5", flat_columns())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert failure(path).startswith("a.h5: cannot be read")


def test_damaged_bytes(tmp_path: Path) -> None:
    """Whatever bytes are damaged: a one-line error, or values, but never another exception."""
    path = write(tmp_path / "a.h5", flat_columns(), compression="gzip")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    read, refused = 0, []
    for _ in range(40):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            source = HDF5Source(path, OPTIONS)
            for k in range(source.num_episodes):
                list(source.episode(k).frames)
            read += 1
        except ValueError as error:
            refused.append(str(error))
    assert read
    assert refused
    assert not any("\n" in reason for reason in refused)


# End to end.


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_import(tmp_path: Path, workers: int) -> None:
    columns = flat_columns()
    columns["step_idx"][6] = 9
    path = write(tmp_path / "pusht.h5", columns, compression="gzip")
    out = tmp_path / "store"
    done = import_recording(path, out, options=OPTIONS, workers=workers, progress=False)
    assert [index for index, _ in done.skipped] == [1]
    assert "step 1 is missing" in done.skipped[0][1]
    store = done.store
    store.validate()
    assert store.meta.task == "pusht"
    assert store.meta.state_names[0] == "proprio[0]"
    assert store.episodes.source == ["pusht.h5 episode 0", "pusht.h5 episode 2"]
    for number, k in enumerate((0, 2)):
        part = store.episode(number)
        np.testing.assert_array_equal(store.frames[part], make_frames(k, LENGTHS[k]))
        np.testing.assert_array_equal(store.actions[part][:-1], make_actions(k, LENGTHS[k])[:-1])


def test_import_robomimic_with_two_cameras(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "image.hdf5", {"demo_0": 4, "demo_1": 3}, ("left_image", "right_image"))
    options = ImportOptions(image_size=2 * SIZE, cameras=("left", "right"), fit="pad")
    store = import_recording(path, tmp_path / "store", options=options, progress=False).store
    assert (store.num_episodes, store.num_frames, store.meta.fps) == (2, 7, None)
    frames = store.frames[store.episode(1)]
    middle = slice(SIZE // 2, SIZE // 2 + SIZE)  # a square in the middle of half a frame
    np.testing.assert_array_equal(frames[:, :SIZE, middle], make_frames(1, 3))
    np.testing.assert_array_equal(frames[:, SIZE:, middle], make_frames(1, 3) + np.uint8(1))
