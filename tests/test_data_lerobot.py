"""LeRobot data sets: every frame, action and text in its place in both formats, and one plain line for bad files."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lewm.data.lerobot_frames as lerobot_frames
from lerobot_fixture import (
    FPS,
    SIZE,
    TASKS,
    actions_of,
    encode_image,
    frame_of,
    number_of,
    states_of,
    task_of,
    write_lerobot,
    write_video,
)
from lewm.data import Store
from lewm.data.importing import ImportOptions, detect_format, import_recording
from lewm.data.lerobot import LeRobotSource
from lewm.data.lerobot_files import fill

LENGTHS = (5, 9, 3, 7)
STARTS = np.cumsum((0, *LENGTHS)).tolist()
TOP, SIDE = "observation.images.top", "observation.images.side"
ANY = ImportOptions(image_size=SIZE)
V3_DATA = "data/chunk-000/file-000.parquet"
V3_EPISODES = ("meta/episodes/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-001.parquet")
V3_VIDEO = f"videos/{TOP}/chunk-000/file-000.mp4"


def import_to(root: Path, out: Path, options: ImportOptions = ANY, **settings: Any) -> Store:
    """Import a data set, all of which must be good."""
    done = import_recording(root, out, options=options, workers=settings.pop("workers", 1), progress=False)
    assert done.skipped == ()
    return done.store


def skipped(root: Path, out: Path) -> dict[int, str]:
    """Import a data set and return why episodes were left out; the others must be right."""
    done = import_recording(root, out, options=ANY, workers=1, progress=False)
    bad = dict(done.skipped)
    assert done.store.episodes.seed.tolist() == [i for i in range(len(LENGTHS)) if i not in bad]
    numbers = [n for i in range(len(LENGTHS)) if i not in bad for n in range(STARTS[i], STARTS[i + 1])]
    assert [number_of(frame) for frame in done.store.frames] == numbers
    return bad


def psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return 20 * np.log10(255) - 10 * np.log10(max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def pixels_of(view: object) -> npt.NDArray[np.uint8]:
    assert isinstance(view, av.VideoFrame)
    return np.asarray(view.to_ndarray(format="rgb24"), np.uint8)


def edit_info(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def edit_rows(path: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Rewrite a table after changing its rows."""
    rows = pq.read_table(path).to_pylist()
    edit(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Data sets of one camera, by version and kind of camera."""
    folder = tmp_path_factory.mktemp("written")
    roots = {(v, kind): folder / v / kind for v in ("v2.1", "v3.0") for kind in ("h264", "av1", "image")}
    for (version, kind), root in roots.items():
        write_lerobot(root, version, cameras={TOP: kind})
    return roots


@pytest.fixture
def v2(written: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written["v2.1", "h264"], tmp_path / "v2"))


@pytest.fixture
def v3(written: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written["v3.0", "h264"], tmp_path / "v3"))


@pytest.fixture
def v3_images(written: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written["v3.0", "image"], tmp_path / "v3-images"))


@pytest.mark.parametrize("kind", ["h264", "av1", "image"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_everything_is_in_its_place(
    written: dict[tuple[str, str], Path], tmp_path: Path, version: str, kind: str
) -> None:
    root = written[version, kind]
    assert detect_format(root) == "lerobot"
    store = import_to(root, tmp_path / "store")
    count = STARTS[-1]
    assert store.episodes.length.tolist() == list(LENGTHS)
    assert [number_of(frame) for frame in store.frames] == list(range(count))
    for number, frame in enumerate(store.frames):
        if kind == "image":
            np.testing.assert_array_equal(frame, frame_of(0, number))
        else:
            assert psnr(frame, frame_of(0, number)) > 35
    np.testing.assert_array_equal(store.actions, actions_of(range(count)))
    assert store.states is not None
    np.testing.assert_array_equal(store.states, states_of(range(count)))
    assert store.episodes.text == [task_of(i) for i in range(len(LENGTHS))]
    file = V3_DATA if version == "v3.0" else "data/chunk-000/episode_000001.parquet"
    assert store.episodes.source[1] == f"episode 1 of {file}"
    meta, origin = store.meta, store.meta.origin
    assert (meta.task, meta.fps, meta.action_kind, meta.action_size) == (kind, FPS, "continuous", 3)
    assert (meta.action_names, meta.state_names) == ((), ("state_0", "state_1"))
    assert (origin["version"], origin["robot_type"], origin["camera_keys"]) == (version, "toy", [TOP])
    assert (origin["tasks"], origin["num_tasks"]) == (list(TASKS), len(TASKS))
    for name, values in (("action", actions_of(range(count))), ("observation.state", states_of(range(count)))):
        for key in ("mean", "std", "min", "max"):
            np.testing.assert_allclose(origin["statistics"][name][key], getattr(values, key)(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("version", "kinds"), [("v2.1", ("h264", "image")), ("v3.0", ("av1", "h264")), ("v3.0", ("image", "image"))]
)
def test_two_cameras(tmp_path: Path, version: str, kinds: tuple[str, str]) -> None:
    root = tmp_path / "data"
    write_lerobot(root, version, cameras=dict(zip((TOP, SIDE), kinds, strict=True)))
    # In the order that was asked for, by the full name or its last part.
    source = LeRobotSource(root, ImportOptions(cameras=("side", TOP)))
    assert (source.num_episodes, source.length(1)) == (4, 9)
    for t, views in enumerate(source.episode(1).frames):
        assert isinstance(views, tuple)
        side, top = map(pixels_of, views)
        assert psnr(side, frame_of(1, STARTS[1] + t)) > 35
        assert psnr(top, frame_of(0, STARTS[1] + t)) > 35
    store = import_to(root, tmp_path / "store", ImportOptions(image_size=2 * SIZE, cameras=("top", "side")))
    for number, frame in enumerate(store.frames):
        assert psnr(frame[:SIZE, :SIZE], frame_of(0, number)) > 35
        assert psnr(frame[:SIZE, SIZE:], frame_of(1, number)) > 35
        assert not frame[SIZE:].any()
    one = import_to(root, tmp_path / "one", ImportOptions(image_size=SIZE, cameras=("side",)))
    assert [number_of(frame) for frame in one.frames] == list(range(STARTS[-1]))
    assert one.meta.origin["camera_keys"] == [SIDE]


@pytest.mark.parametrize(("kind", "b_frames"), [("h264", 0), ("h264", 3), ("av1", 0)])
def test_an_episode_begins_between_key_frames(tmp_path: Path, kind: str, b_frames: int) -> None:
    root = tmp_path / "data"
    write_lerobot(root, cameras={TOP: kind}, gop=12, b_frames=b_frames, per_file=4, one_row_group=True)
    with av.open(str(root / V3_VIDEO)) as container:
        keys = [round(packet.pts * packet.time_base * FPS) for packet in container.demux(video=0)
                if packet.is_keyframe and packet.pts is not None and packet.time_base is not None]  # fmt: skip
    assert 0 in keys
    assert not set(keys) & set(STARTS[1:4])
    source = LeRobotSource(root, ANY)
    for episode in (2, 0, 3, 1):  # in any order
        recording = source.episode(episode)
        numbers = range(STARTS[episode], STARTS[episode + 1])
        assert [number_of(pixels_of(frame)) for frame in recording.frames] == list(numbers)
        np.testing.assert_array_equal(recording.actions, actions_of(numbers))


def test_a_frame_belongs_to_the_nearest_time(v3: Path) -> None:
    def drift(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row[f"videos/{TOP}/from_timestamp"] += 0.4 / FPS
            row[f"videos/{TOP}/to_timestamp"] += 0.4 / FPS

    edit_rows(v3 / V3_EPISODES[0], drift)
    numbers = [number_of(pixels_of(frame)) for frame in LeRobotSource(v3, ANY).episode(1).frames]
    assert numbers == list(range(STARTS[1], STARTS[2]))


def test_workers_give_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_lerobot(root, cameras={TOP: "h264", SIDE: "av1"}, gop=5)
    options = ImportOptions(image_size=SIZE, cameras=("top", "side"))
    for workers in (1, 2):
        import_to(root, tmp_path / str(workers), options, workers=workers)
    for name in ("frames.npy", "actions.npy", "states.npy", "episodes.parquet", "meta.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y", "z"], ("x", "y", "z")),
        ({"motors": ["x", "y", "z"]}, ("x", "y", "z")),
        ({"arm": ["x", "y"], "hand": {"grip": ["z"]}}, ("x", "y", "z")),
        ({"z": 2, "x": 0, "y": 1}, ("x", "y", "z")),
        ([["x", "y"], ["z"]], ("x", "y", "z")),
        (None, ()),
        (["dim"], ()),  # one name for all
        ([[[[[["x", "y", "z"]]]]]], ()),
        ([1, 2, 3], ()),
    ],
)
def test_names_of_actions(tmp_path: Path, names: object, expected: tuple[str, ...]) -> None:
    write_lerobot(tmp_path / "data", cameras={TOP: "image"}, names=names)
    assert LeRobotSource(tmp_path / "data", ANY).info.action_names == expected


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_one_number_as_the_action_and_no_states(tmp_path: Path, version: str) -> None:
    root = tmp_path / "data"
    write_lerobot(root, version, cameras={TOP: "image"}, action_size=1, states=False, task_column="task")
    store = import_to(root, tmp_path / "store")
    np.testing.assert_array_equal(store.actions, actions_of(range(STARTS[-1]), 1))
    assert store.states is None
    assert store.meta.origin["tasks"] == list(TASKS)
    assert store.meta.origin["statistics"]["action"]["max"] == [STARTS[-1] - 1]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int32())])
def test_vectors_of_other_types(v3: Path, kind: pa.DataType) -> None:
    table = pq.read_table(v3 / V3_DATA)
    values = (actions_of(range(len(table))) * 8).astype(np.int64).tolist()
    pq.write_table(table.set_column(0, "action", pa.array(values, kind)), v3 / V3_DATA)
    actions = LeRobotSource(v3, ANY).episode(1).actions
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, 8 * actions_of(range(STARTS[1], STARTS[2])))


def test_statistics_and_texts_are_bounded(v2: Path) -> None:
    (v2 / "meta" / "episodes_stats.jsonl").unlink()
    stats = {"action": {"mean": [0.5] * 3, "std": [float("nan")] * 3, "min": ["a"] * 3, "max": [1.0] * 4}}
    (v2 / "meta" / "stats.json").write_text(json.dumps(stats))  # as in v2.0
    lines = [json.dumps({"task_index": i, "task": f"{i} " * 10_000}) for i in range(500)]
    (v2 / "meta" / "tasks.jsonl").write_text("\n".join(lines))
    origin = LeRobotSource(v2, ANY).info.origin
    assert origin["statistics"]["action"] == {"mean": [0.5] * 3}
    assert origin["num_tasks"] == 500
    assert len(json.dumps(dict(origin))) < 200_000


def test_depth_maps_are_no_cameras(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_lerobot(root, cameras={TOP: "image", SIDE: "image"})
    edit_info(root, lambda info: info["features"][SIDE].update(info={"video.is_depth_map": True}))
    assert LeRobotSource(root, ANY).info.origin["camera_keys"] == [TOP]


def test_wrong_cameras(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_lerobot(root, cameras={TOP: "image", SIDE: "image", "observation.depth.top": "image"}, lengths=(2,))

    def open_with(*cameras: str) -> None:
        LeRobotSource(root, ImportOptions(cameras=cameras))

    with pytest.raises(ValueError, match=rf"cameras: .*has 3; name one or more of {TOP}, {SIDE}, observation.depth"):
        open_with()
    with pytest.raises(ValueError, match=rf"cameras=front: is no camera of .*; name one or more of {TOP}, {SIDE}"):
        open_with("front")
    with pytest.raises(ValueError, match="cameras=top: is several cameras"):
        open_with("top")
    with pytest.raises(ValueError, match=r"cameras=side, .*: a camera is named twice"):
        open_with("side", SIDE)
    edit_info(root, lambda info: [info["features"].pop(key) for key in (TOP, SIDE, "observation.depth.top")])
    with pytest.raises(ValueError, match="has no camera; "):
        open_with()


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda info: info.update(codebase_version="v1.6"), "codebase_version='v1.6': must be one of v2.0, v2.1, v3.0"),
        (lambda info: info.pop("codebase_version"), "codebase_version=None: is missing"),
        (lambda info: info.update(fps=0), "fps=0: is missing or makes no sense"),
        (lambda info: info.update(fps=float("nan")), "fps=nan: "),
        (lambda info: info.update(fps=float("inf")), "fps=inf: "),
        (lambda info: info.update(fps="ten"), "fps='ten': "),
        (lambda info: info.update(fps=True), "fps=True: "),
        (lambda info: info.update(total_episodes=10**400), "total_episodes=1000"),
        (lambda info: info.update(total_episodes=-4), "total_episodes=-4: "),
        (lambda info: info.update(total_episodes=5), "lists 4 episodes, but meta/info.json counts 5; "),
        (lambda info: info.update(total_episodes=1), "has more than 1 rows; "),
        (lambda info: info.update(features=[]), r"features=\[\]: "),
        (lambda info: info["features"].update(more=3), "feature 'more' must be an object"),
        (lambda info: info["features"].pop("action"), "has no feature 'action', only .*; name the feature"),
        (lambda info: info["features"]["action"].update(dtype="string"), "action has dtype='string': must be numbers"),
        (lambda info: info["features"]["action"].update(dtype=["float32"]), "action has dtype="),
        (lambda info: info["features"]["action"].update(shape=[10**12]), r"action has shape=\[1000000000000\]: must"),
        (lambda info: info["features"]["action"].update(shape=[2, 3]), r"shape=\[2, 3\]: must be a vector"),
        (lambda info: info["features"]["action"].update(shape=[-3]), r"shape=\[-3\]: "),
        (lambda info: info["features"]["action"].update(shape=3), "shape=3: "),
        (lambda info: info["features"]["action"].update(shape=[True]), r"shape=\[True\]: "),
        (lambda info: info["features"]["observation.state"].update(shape=[]), r"observation.state has shape=\[\]: "),
        (lambda info: info.update(data_path=7), "data_path=7: "),
        (lambda info: info.update(video_path=None), "video_path=None: "),
    ],
)
def test_bad_info(v3: Path, edit: Callable[[dict[str, Any]], object], match: str) -> None:
    edit_info(v3, edit)
    with pytest.raises(ValueError, match=match) as error:
        LeRobotSource(v3, ANY)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "is not JSON"),
        (b"[1, 2]", "must be a JSON object"),
        (b'{"fps": ' + b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b'{"fps": ' + b"9" * 10_000 + b"}", "is not JSON"),
        (b" " * (2**24 + 1), "has more than 16777216 bytes"),
    ],
)
def test_info_that_is_no_json(v3: Path, text: bytes, match: str) -> None:
    (v3 / "meta" / "info.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"info\.json: {match}"):
        LeRobotSource(v3, ANY)


@pytest.mark.parametrize(
    "template",
    [
        "{chunk_index.__class__}/{file_index}",
        "{chunk_index[0]}",
        "{0}",
        "{chunk_index!r}",
        "{chunk_index:>9999999999}",
        "{chunk_index:{file_index}}",
        "{secret}",
        "{chunk_index",
        "{{chunk_index}}",
        "{video_key:03d}",
    ],
)
@pytest.mark.parametrize("name", ["data_path", "video_path"])
def test_a_path_takes_known_fields_only(v3: Path, name: str, template: str) -> None:
    edit_info(v3, lambda info: info.update({name: template}))
    with pytest.raises(ValueError, match=r"meta/info\.json: path .*: may hold no fields but chunk_index, file_index"):
        LeRobotSource(v3, ANY)


@pytest.mark.parametrize("template", ["data\0", "\ud800", "data\n{chunk_index}"])
def test_what_is_no_path(v3: Path, template: str) -> None:
    edit_info(v3, lambda info: info.update(data_path=template))
    with pytest.raises(ValueError, match="is no path; repair the data set") as error:
        LeRobotSource(v3, ANY)
    assert str(error.value).isprintable()


def test_fields_of_a_path() -> None:
    assert fill("{a:03d}/{b}-{a}{a:012d}.x", {"a": 7, "b": "{a}"}) == "007/{a}-7000000000007.x"


@pytest.mark.parametrize(
    "template", ["../outside/{chunk_index}", "/etc/hostname", "data/../../outside", "//etc/passwd"]
)
@pytest.mark.parametrize("name", ["data_path", "video_path"])
def test_a_path_that_leaves_the_folder(v3: Path, name: str, template: str) -> None:
    edit_info(v3, lambda info: info.update({name: template}))
    with pytest.raises(ValueError, match="leads out of the folder; copy the data set with its links resolved"):
        LeRobotSource(v3, ANY)


def test_a_camera_whose_name_leaves_the_folder(v3: Path) -> None:
    edit_info(v3, lambda info: info["features"].update({"../../outside": info["features"].pop(TOP)}))
    with pytest.raises(ValueError, match=r"'videos/\.\./\.\./outside/.*leads out of the folder"):
        LeRobotSource(v3, ANY)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/stats.json", "meta/tasks.parquet", *V3_EPISODES, "meta"])
def test_a_link_that_leaves_the_folder(v3: Path, tmp_path: Path, name: str) -> None:
    (v3 / name).rename(tmp_path / "outside")
    (v3 / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out of the folder"):
        _ = LeRobotSource(v3, ANY).info


@pytest.mark.parametrize("name", [V3_DATA, V3_VIDEO, f"videos/{TOP}/chunk-000"])
def test_a_data_file_that_is_a_link(v3: Path, tmp_path: Path, name: str) -> None:
    inside = v3 / "elsewhere"
    (v3 / name).rename(inside)
    (v3 / name).symlink_to(inside)
    assert not skipped(v3, tmp_path / "inside")
    inside.rename(tmp_path / "outside")
    (v3 / name).unlink()
    (v3 / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out of the folder"):
        LeRobotSource(v3, ANY).episode(0)


def test_what_is_no_plain_file(v3: Path, tmp_path: Path) -> None:
    for name in (V3_DATA, V3_VIDEO):
        (v3 / name).unlink()
    with pytest.raises(ValueError, match=r"file-000\.parquet: is missing or no file"):
        LeRobotSource(v3, ANY).episode(0)
    os.mkfifo(v3 / V3_DATA)  # would wait for a writer
    with pytest.raises(ValueError, match=r"file-000\.parquet: is missing or no file"):
        LeRobotSource(v3, ANY).episode(0)
    (v3 / V3_DATA).unlink()
    (v3 / V3_DATA).symlink_to(v3 / V3_DATA)
    with pytest.raises(ValueError, match=r"file-000\.parquet: is missing or no file"):
        LeRobotSource(v3, ANY).episode(0)
    assert not LeRobotSource.matches(tmp_path)
    with pytest.raises(ValueError, match=r"info\.json: is missing"):
        LeRobotSource(tmp_path, ANY)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        ({"data/chunk_index": -1}, "episode 1: data/chunk_index=-1: is no file number"),
        ({"data/file_index": None}, "episode 1: data/file_index is missing"),
        ({"data/file_index": 7}, r"file-007\.parquet: is missing"),
        ({f"videos/{TOP}/file_index": -3}, rf"episode 1: videos/{TOP}/file_index=-3: is no file number"),
        ({f"videos/{TOP}/file_index": 2**62}, r"file-4611686018427387904\.mp4: is missing"),
        ({"length": 8}, "episode 1: length=8, but its rows are 5 to 14"),
        ({"length": 8, "dataset_to_index": 13}, r"episode 1: has more rows, but the episode table counts 8"),
        ({"length": 10, "dataset_to_index": 15}, r"episode 1: has 9 rows, but the episode table counts 10"),
        ({"length": 0}, "episode 1: length=0: must be 1 to "),
        ({"length": -9}, "episode 1: length=-9: must be 1 to "),
        ({"length": 10**15}, "episode 1: length=1000000000000000: must be 1 to "),
        ({f"videos/{TOP}/from_timestamp": -1.0}, r"episode 1, camera .*: lies at -1\.0 to 1\.4 s"),
        ({f"videos/{TOP}/from_timestamp": float("nan")}, "camera .*: lies at nan to 1.4 s"),
        ({f"videos/{TOP}/to_timestamp": 1e300}, r"camera .*: lies at 0\.5 to 1e\+300 s"),
        ({f"videos/{TOP}/to_timestamp": 1.3}, r"camera .*: has 0\.800 s of video for 9 frames at 10 a second"),
        (
            {f"videos/{TOP}/from_timestamp": 1.2, f"videos/{TOP}/to_timestamp": 2.1},
            r"episode 1, camera .*: has no frame at 1\.700 s \(frame 5\) in .*file-000\.mp4; repair the video",
        ),
        (
            {f"videos/{TOP}/from_timestamp": 9e6, f"videos/{TOP}/to_timestamp": 1e7},
            r"episode 1, camera .*: has no frame at 9000000\.000 s \(frame 0\)",
        ),
    ],
)
def test_a_bad_row_costs_its_episode_only(v3: Path, tmp_path: Path, edit: dict[str, Any], match: str) -> None:
    edit_rows(v3 / V3_EPISODES[0], lambda rows: rows[1].update(edit))
    with pytest.raises(ValueError, match=match) as error:
        list(LeRobotSource(v3, ANY).episode(1).frames)
    assert "\n" not in str(error.value)
    assert skipped(v3, tmp_path / "store") == {1: str(error.value)}


@pytest.mark.parametrize("index", [-1, 4])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_no_such_episode(written: dict[tuple[str, str], Path], version: str, index: int) -> None:
    source = LeRobotSource(written[version, "h264"], ANY)
    with pytest.raises(ValueError, match=rf"episode={index}: .* has 4; use 0 to 3"):
        source.episode(index)


def test_bad_episode_tables(v3: Path, v2: Path) -> None:
    table = pq.read_table(v3 / V3_EPISODES[1])
    texts = pa.array([[b"\xff"], [b"good"]], pa.list_(pa.binary())).view(pa.list_(pa.string()))
    pq.write_table(table.set_column(table.column_names.index("tasks"), "tasks", texts), v3 / V3_EPISODES[1])
    with pytest.raises(ValueError, match="episode 2: its task is no text"):
        LeRobotSource(v3, ANY).episode(2)
    assert LeRobotSource(v3, ANY).length(2) == 3
    edit_rows(v3 / V3_EPISODES[0], lambda rows: rows.reverse())  # any order is good
    assert LeRobotSource(v3, ANY).episode(1).text == task_of(1)
    pq.write_table(table, v3 / V3_EPISODES[1])
    edit_rows(v3 / V3_EPISODES[1], lambda rows: rows[0].update(episode_index=-2))
    with pytest.raises(ValueError, match="episodes must be numbered from 0 without gaps"):
        LeRobotSource(v3, ANY)
    edit_rows(v3 / V3_EPISODES[1], lambda rows: rows[0].update(episode_index=None))
    with pytest.raises(ValueError, match="episode_index is missing in 1 rows"):
        LeRobotSource(v3, ANY)
    edit_rows(v3 / V3_EPISODES[1], lambda rows: [row.update(episode_index=f"{i}th") for i, row in enumerate(rows)])
    with pytest.raises(ValueError, match=r"file-001\.parquet: cannot be read"):
        LeRobotSource(v3, ANY)
    edit_rows(v3 / V3_EPISODES[1], lambda rows: [row.pop("data/file_index") for row in rows])
    with pytest.raises(ValueError, match=r"file-001\.parquet: has no column 'data/file_index'"):
        LeRobotSource(v3, ANY)
    (v3 / V3_EPISODES[1]).write_bytes((v3 / V3_EPISODES[1]).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"file-001\.parquet: cannot be read"):
        LeRobotSource(v3, ANY)
    (v3 / V3_EPISODES[1]).unlink()
    with pytest.raises(ValueError, match=r"lists 2 episodes, but meta/info\.json counts 4"):
        LeRobotSource(v3, ANY)

    path = v2 / "meta" / "episodes.jsonl"
    lines = path.read_text().splitlines()
    for line, match in (
        ("{", "line 4: is not JSON"),
        ("[]", "line 4: must be a JSON object"),
        ('{"length": 7}', "episode_index is missing in 1 rows"),
        ('{"episode_index": 3, "length": "long"}', "repair the file"),
        (f'{{"episode_index": 3, "length": {10**30}}}', "repair the file"),
        ('{"episode_index": 3, "length": 7, "tasks": 5}', "repair the file"),
        ('{"episode_index": 3, "length": 7, "tasks": ["\\ud800"]}', "repair the file"),
        (lines[3] + "\n" + lines[3], "has more than 4 lines"),
    ):
        path.write_text("\n".join([*lines[:3], line]))
        with pytest.raises(ValueError, match=rf"episodes\.jsonl.*{match}") as error:
            LeRobotSource(v2, ANY)
        assert "\n" not in str(error.value)
    path.write_text("\n".join([lines[2], lines[0], lines[3], lines[1]]))  # any order is good
    assert [LeRobotSource(v2, ANY).length(i) for i in range(4)] == list(LENGTHS)


def strings(column: list[Any]) -> list[Any]:
    return [["a", "b", "c"] for _ in column]


@pytest.mark.parametrize(
    ("name", "edit", "match"),
    [
        ("action", strings, "action must be 3 numbers in every row, and is list<element: string>"),
        ("action", lambda column: [*column[:6], None, *column[7:]], "action must be 3 numbers in every row"),
        ("action", lambda column: [*column[:6], [1.0, None, 2.0], *column[7:]], "action must be 3 numbers"),
        ("action", lambda column: [*column[:5], [1.0] * 4, [1.0] * 2, *column[7:]], "action must be 3 numbers"),
        ("action", lambda column: [1.0 for _ in column], "action must be 3 numbers in every row, and is double"),
        ("action", lambda column: [[True] * 3 for _ in column], "action must be 3 numbers .* is list<element: bool>"),
        ("action", lambda column: [[row] for row in column], "action must be 3 numbers in every row"),
        ("observation.state", lambda column: [row[:1] for row in column], "observation.state must be 2 numbers"),
        ("frame_index", lambda column: [place + 1 for place in column], "frame_index does not count from 0"),
        ("frame_index", lambda column: [*column[:6], None, *column[7:]], "frame_index must be integers"),
        ("frame_index", lambda column: ["first" for _ in column], "frame_index must be integers"),
        ("episode_index", lambda column: [None, *column[1:]], "episode_index is missing in some rows"),
        ("episode_index", lambda column: [str(place) for place in column], "episode_index must be integers"),
        ("episode_index", lambda column: [0 for _ in column], "episode 1: has 0 rows, but the episode table counts 9"),
        ("action", None, "has no column 'action'"),
        ("observation.state", None, "has no column 'observation.state'"),
        ("frame_index", None, "has no column 'frame_index'"),
        ("episode_index", None, "has no column 'episode_index'"),
    ],
)
def test_bad_rows(v3: Path, name: str, edit: Callable[[list[Any]], list[Any]] | None, match: str) -> None:
    table = pq.read_table(v3 / V3_DATA)
    place, column = table.column_names.index(name), table[name].to_pylist()
    table = table.remove_column(place) if edit is None else table.set_column(place, name, pa.array(edit(column)))
    pq.write_table(table, v3 / V3_DATA)
    with pytest.raises(ValueError, match=rf"file-000\.parquet.*{match}") as error:
        LeRobotSource(v3, ANY).episode(1)
    assert "\n" not in str(error.value)


def test_only_the_row_group_of_an_episode_is_read(v3_images: Path) -> None:
    path = v3_images / V3_DATA
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == 3
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    data = bytearray(path.read_bytes())
    for column in columns:
        start = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
        data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    source = LeRobotSource(v3_images, ANY)
    frames = [pixels_of(frame) for frame in source.episode(1).frames]
    assert [number_of(frame) for frame in frames] == list(range(STARTS[1], STARTS[2]))
    with pytest.raises(ValueError, match=r"file-000\.parquet: cannot be read"):
        source.episode(0)


def test_bad_videos(v2: Path, tmp_path: Path) -> None:
    folder = v2 / "videos" / "chunk-000" / TOP
    paths = [folder / f"episode_{i:06d}.mp4" for i in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[: paths[0].stat().st_size // 2])
    write_video(paths[1], [frame_of(0, n) for n in range(STARTS[1], STARTS[2] - 2)], "h264")
    paths[3].write_text("ffconcat version 1.0\nfile episode_000002.mp4\n")
    frames = iter(LeRobotSource(v2, ANY).episode(1).frames)
    for t in range(7):  # decoded as they are asked for: the end is not known to be missing
        assert number_of(pixels_of(next(frames))) == STARTS[1] + t
    bad = skipped(v2, tmp_path / "store")
    assert bad.keys() == {0, 1, 3}
    for index in (0, 3):
        assert bad[index].startswith(f"episode {index}, camera {TOP}: {paths[index]} cannot be decoded (")
    assert bad[1] == (f"episode 1, camera {TOP}: has no frame at 0.700 s (frame 7) in {paths[1]}; repair the video")


def test_a_video_cut_behind_its_index(v3: Path) -> None:
    path = v3 / V3_VIDEO
    with av.open(str(path)) as source, av.open(str(v3 / "new.mp4"), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = (v3 / "new.mp4").read_bytes()
    path.write_bytes(data[: len(data) * 4 // 5])
    source = LeRobotSource(v3, ANY)
    assert [number_of(pixels_of(frame)) for frame in source.episode(0).frames] == list(range(LENGTHS[0]))
    with pytest.raises(ValueError, match=r"episode 2, camera .*file-000\.mp4"):
        list(source.episode(2).frames)


def test_an_mp4_without_video(v2: Path) -> None:
    path = v2 / "videos" / "chunk-000" / TOP / "episode_000000.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(ValueError, match=r"episode_000000\.mp4: holds no video"):
        list(LeRobotSource(v2, ANY).episode(0).frames)


def test_a_video_of_an_unknown_kind(v2: Path) -> None:
    path = v2 / "videos" / "chunk-000" / TOP / "episode_000000.mp4"
    data = path.read_bytes()
    assert data.count(b"avc1") == 2  # the kind of the file, and of its stream
    path.write_bytes(data.replace(b"avc1", b"????"))
    with pytest.raises(ValueError, match=r"episode_000000\.mp4: is of an unknown kind, so this PyAV cannot decode it"):
        list(LeRobotSource(v2, ANY).episode(0).frames)


def test_frames_without_bounds(
    v3: Path, v3_images: Path, written: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot_frames, "_MAX_PIXELS", SIZE * SIZE - 1)
    for root in (v3, v3_images, written["v3.0", "av1"]):
        with pytest.raises(ValueError, match=r"episode 1, camera .* cannot be decoded"):
            list(LeRobotSource(root, ANY).episode(1).frames)


def test_av1_needs_dav1d(written: dict[tuple[str, str], Path]) -> None:
    with av.open(str(written["v3.0", "av1"] / V3_VIDEO)) as container:
        assert container.streams.video[0].codec_context.codec.name == "libdav1d"


@pytest.mark.parametrize(
    ("cell", "match"),
    [
        ({"bytes": None, "path": "/etc/hostname"}, "frame 2: is not embedded as png or mjpeg"),
        (None, "frame 2: is not embedded"),
        ({"bytes": b"GIF89a", "path": ""}, "frame 2: is not embedded"),
        ({"bytes": encode_image(frame_of(0, 0))[:60], "path": ""}, "frame 2: (cannot be decoded|is damaged)"),
        ({"bytes": b"\xff\xd8", "path": ""}, "frame 2: (cannot be decoded|is damaged)"),
    ],
)
def test_bad_images(v3_images: Path, tmp_path: Path, cell: Any, match: str) -> None:
    edit_rows(v3_images / V3_DATA, lambda rows: rows[STARTS[1] + 2].update({TOP: cell}))
    with pytest.raises(ValueError, match=rf"episode 1, camera {TOP}, {match}"):
        list(LeRobotSource(v3_images, ANY).episode(1).frames)
    assert skipped(v3_images, tmp_path / "store").keys() == {1}


def test_images_that_are_none(v3_images: Path) -> None:
    edit_rows(v3_images / V3_DATA, lambda rows: [row.update({TOP: "frame.png"}) for row in rows])
    with pytest.raises(ValueError, match=r"episode 0, camera .*: is string in .*file-000\.parquet, not images"):
        list(LeRobotSource(v3_images, ANY).episode(0).frames)
    edit_rows(v3_images / V3_DATA, lambda rows: [row.pop(TOP) for row in rows])
    with pytest.raises(ValueError, match=rf"has no column '{TOP}'"):
        list(LeRobotSource(v3_images, ANY).episode(0).frames)


def test_jpeg_images(v3_images: Path, tmp_path: Path) -> None:
    def to_jpeg(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row[TOP]["bytes"] = encode_image(frame_of(0, row["index"]), "mjpeg")

    edit_rows(v3_images / V3_DATA, to_jpeg)
    assert skipped(v3_images, tmp_path / "store") == {}
    for number, frame in enumerate(LeRobotSource(v3_images, ANY).episode(0).frames):
        assert psnr(pixels_of(frame), frame_of(0, number)) > 30


WRITE_WITH_LEROBOT = """
import sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot_fixture import SIZE, actions_of, frame_of, states_of, task_of

def main(root, kind, lengths):
    image = {"dtype": kind, "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    features = {
        "action": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": {"motors": ["a", "b"]}},
        "observation.images.top": image,
    }
    data = LeRobotDataset.create("toy/data", fps=10, features=features, root=root, use_videos=kind == "video")
    number = 0
    for episode, length in enumerate(lengths):
        for number in range(number, number + length):
            data.add_frame({
                "action": actions_of([number])[0],
                "observation.state": states_of([number])[0],
                "observation.images.top": frame_of(0, number),
                "task": task_of(episode),
            })
        number += 1
        data.save_episode()
    data.finalize()

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(length) for length in sys.argv[3:]])
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason="LeRobot is not installed")
@pytest.mark.parametrize("kind", ["video", "image"])
def test_what_lerobot_itself_writes(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "write.py"
    script.write_text(WRITE_WITH_LEROBOT)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    root = tmp_path / "data"
    subprocess.run([sys.executable, script, root, kind, *map(str, LENGTHS)], check=True, env=environment)
    store = import_to(root, tmp_path / "store")
    count = STARTS[-1]
    assert store.episodes.length.tolist() == list(LENGTHS)
    assert store.episodes.text == [task_of(i) for i in range(len(LENGTHS))]
    for number, frame in enumerate(store.frames):
        assert psnr(frame, frame_of(0, number)) > (30 if kind == "video" else 100)
    np.testing.assert_array_equal(store.actions, actions_of(range(count)))
    assert store.states is not None
    np.testing.assert_array_equal(store.states, states_of(range(count)))
    assert (store.meta.action_names, store.meta.state_names) == (("x", "y", "z"), ("a", "b"))
    assert store.meta.origin["tasks"] == list(TASKS)
