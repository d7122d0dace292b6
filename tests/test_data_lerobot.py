"""LeRobot data sets: every frame, action and text in its place in both formats, and one plain line for bad files."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from lerobot_edit import (
    ANY,
    LENGTHS,
    SIDE,
    STARTS,
    TOP,
    V3_DATA,
    V3_EPISODES,
    V3_VIDEO,
    edit_rows,
    import_to,
    pixels_of,
    psnr,
)
from lerobot_fixture import (
    FPS,
    SIZE,
    TASKS,
    actions_of,
    frame_of,
    number_of,
    states_of,
    task_of,
    write_lerobot,
)
from lewm.data.importers.lerobot import LeRobotSource
from lewm.data.importing import ImportOptions, detect_format


@pytest.mark.parametrize("kind", ["h264", "av1", "image"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_everything_is_in_its_place(
    lerobot_sets: dict[tuple[str, str], Path], tmp_path: Path, version: str, kind: str
) -> None:
    root = lerobot_sets[version, kind]
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
    options = ImportOptions(image_size=2 * SIZE, cameras=("top", "side"), fit="pad")
    store = import_to(root, tmp_path / "store", options)
    middle = slice(SIZE // 2, SIZE // 2 + SIZE)  # a square in the middle of half a frame
    for number, frame in enumerate(store.frames):
        assert psnr(frame[:SIZE, middle], frame_of(0, number)) > 35
        assert psnr(frame[SIZE:, middle], frame_of(1, number)) > 35
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


def test_a_frame_belongs_to_the_nearest_time(lerobot_v3: Path) -> None:
    def drift(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row[f"videos/{TOP}/from_timestamp"] += 0.4 / FPS
            row[f"videos/{TOP}/to_timestamp"] += 0.4 / FPS

    edit_rows(lerobot_v3 / V3_EPISODES[0], drift)
    numbers = [number_of(pixels_of(frame)) for frame in LeRobotSource(lerobot_v3, ANY).episode(1).frames]
    assert numbers == list(range(STARTS[1], STARTS[2]))


@pytest.mark.slow
def test_workers_give_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_lerobot(root, cameras={TOP: "h264", SIDE: "av1"}, gop=5)
    options = ImportOptions(image_size=SIZE, cameras=("top", "side"))
    for workers in (1, 2):
        import_to(root, tmp_path / str(workers), options, workers=workers)
    for name in ("frames.npy", "actions.npy", "states.npy", "episodes.parquet", "meta.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


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


@pytest.mark.skipif("LEWM_LEROBOT_SET" not in os.environ, reason="LEWM_LEROBOT_SET names no v2 set of one camera")
def test_a_real_set(tmp_path: Path) -> None:
    """Each row's frame, action and state are those of a plain reading of its files, frame by frame."""
    root = Path(os.environ["LEWM_LEROBOT_SET"])
    with av.open(str(next(root.glob("videos/*/*/*.mp4")))) as container:
        stream = container.streams.video[0]
        side = min(stream.height, stream.width)
        top, left = (stream.height - side) // 2, (stream.width - side) // 2
    store = import_to(root, tmp_path / "store", ImportOptions(image_size=side))
    tables, videos = (sorted(root.glob(pattern)) for pattern in ("data/*/*.parquet", "videos/*/*/*.mp4"))
    assert store.num_episodes == len(tables) == len(videos)
    for index, (table, video) in enumerate(zip(tables, videos, strict=True)):
        episode = store.episode(index)
        np.testing.assert_allclose(store.actions[episode], pq.read_table(table)["action"].to_pylist(), rtol=1e-6)
        with av.open(str(video)) as container:
            for stored, frame in zip(store.frames[episode], container.decode(video=0), strict=True):
                expected = frame.to_ndarray(format="rgb24")[top : top + side, left : left + side]
                assert np.abs(stored.astype(int) - expected).max() <= 4
