"""An import can always go on: with a recording that has grown, was mended or has moved, and with no other."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from image_fixture import encoded, make_folder, make_shard, numbered
from lerobot_fixture import write_lerobot
from lewm.data import Store
from lewm.data.importers.resume import meta_to_go_on
from lewm.data.importers.source import ImportOptions
from lewm.data.importing import Imported, import_recording
from lewm.data.store import StoreMeta
from lewm.files import LONGEST_MESSAGE, shorten
from test_data_video_folders import actions_at, frame_times, write_table, write_video

OPTIONS = ImportOptions(image_size=16)


def run(recording: Path, out: Path, **settings: Any) -> Imported:
    return import_recording(recording, out, **({"options": OPTIONS, "workers": 1, "progress": False} | settings))


def refused(recording: Path, out: Path, **settings: Any) -> str:
    with pytest.raises(ValueError, match=";") as error:
        run(recording, out, **settings)
    text = str(error.value)
    assert len(text) <= LONGEST_MESSAGE
    assert "\n" not in text
    return text


def write_demos(path: Path, numbers: list[int], *, discrete: int = 0, seed: int = 0) -> Path:
    """Write an HDF5 file with demonstrations that depend on their numbers and the seed alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number in numbers:
            rng = np.random.default_rng([seed, number])
            length = 4 + number % 3
            actions = rng.integers(0, discrete, length) if discrete else rng.normal(size=(length, 2))
            if discrete:
                actions[0] = discrete - 1
            file[f"data/demo_{number}/actions"] = actions
            file[f"data/demo_{number}/obs/front_image"] = rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8)
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != ".lock"}


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_data_set_that_has_grown_continues(tmp_path: Path, version: str) -> None:
    """Its statistics, totals and task texts are others then."""
    root, out = tmp_path / "set", tmp_path / "store"
    write_lerobot(root, version, lengths=(5, 9))
    run(root, out)
    shutil.rmtree(root)
    write_lerobot(root, version, lengths=(5, 9, 3, 7))
    assert run(root, out).store.episodes.length.tolist() == [5, 9, 3, 7]
    run(root, tmp_path / "whole")
    grown, whole = contents(out), contents(tmp_path / "whole")
    if version == "v3.0":  # several episodes in a video, which was coded anew
        del grown["frames.npy"], whole["frames.npy"]
    assert grown == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_mended_episode_comes_behind_the_others(tmp_path: Path, workers: int) -> None:
    root, out = tmp_path / "set", tmp_path / "store"
    write_lerobot(root, "v2.1")
    video = next((root / "videos").rglob("episode_000001.mp4"))
    kept = video.read_bytes()
    video.unlink()
    assert [index for index, _ in run(root, out, workers=workers, max_episodes=2).skipped] == [1]
    assert [index for index, _ in run(root, out, workers=workers).skipped] == [1]
    before = contents(out)
    assert [index for index, _ in run(root, out, workers=workers).skipped] == [1]  # what is left out is said again
    assert contents(out) == before
    video.write_bytes(kept)
    mended = run(root, out, workers=workers)
    assert mended.skipped == ()
    assert mended.store.episodes.seed.tolist() == [0, 2, 3, 1]
    run(root, tmp_path / "whole")
    whole = Store(tmp_path / "whole")
    for place, index in enumerate(mended.store.episodes.seed.tolist()):
        for name in ("frames", "actions"):
            mine, wanted = getattr(mended.store, name), getattr(whole, name)
            np.testing.assert_array_equal(mine[mended.store.episode(place)], wanted[whole.episode(index)])


def test_a_file_between_others_is_found_by_its_name(tmp_path: Path) -> None:
    """Its episodes change the numbers of all that follow."""
    root, out = tmp_path / "demos", tmp_path / "store"
    write_demos(root / "a.hdf5", [0, 1])
    (root / "b.hdf5").write_bytes(b"not yet copied")
    write_demos(root / "c.hdf5", [4])
    first = run(root, out)
    assert [index for index, _ in first.skipped] == [2]
    write_demos(root / "b.hdf5", [2, 3])
    write_demos(root / "a0.hdf5", [5])
    mended = run(root, out)
    assert mended.skipped == ()
    assert [source.split()[0] for source in mended.store.episodes.source] == [
        "a.hdf5", "a.hdf5", "c.hdf5", "a0.hdf5", "b.hdf5", "b.hdf5",
    ]  # fmt: skip
    assert run(root, out).store.num_episodes == 6
    (root / "a.hdf5").unlink()  # to save space
    assert run(root, out).store.num_episodes == 6


def test_a_video_between_others_is_found_by_its_name(tmp_path: Path) -> None:
    root, out = tmp_path / "videos", tmp_path / "store"
    root.mkdir()
    for name in ("a", "c"):
        write_video(root / f"{name}.mp4", 8)
        write_table(root / f"{name}.csv", actions_at(frame_times(8)))
    run(root, out)
    write_video(root / "b.mp4", 8)
    assert [index for index, _ in run(root, out).skipped] == [1]
    write_table(root / "b.csv", actions_at(frame_times(8)))
    assert run(root, out).store.episodes.source == ["a.mp4", "c.mp4", "b.mp4"]


def test_further_discrete_actions_are_taken(tmp_path: Path) -> None:
    path, out = tmp_path / "demos.hdf5", tmp_path / "store"
    write_demos(path, [0], discrete=3)
    assert run(path, out).store.meta.action_size == 3
    with h5py.File(path, "a") as file:
        file["data/demo_1/actions"] = np.array([4, 0])
        file["data/demo_1/obs/front_image"] = np.zeros((2, 16, 16, 3), np.uint8)
    store = run(path, out).store
    store.validate()
    assert (store.meta.action_size, store.num_episodes) == (5, 2)


def test_a_recording_that_has_moved_is_known_by_its_episodes(tmp_path: Path) -> None:
    root, out = tmp_path / "set", tmp_path / "store"
    write_lerobot(root, lengths=(5, 9))
    run(root, out)
    shutil.rmtree(root)
    write_lerobot(tmp_path / "moved", lengths=(5, 9, 3))
    store = run(tmp_path / "moved", out).store
    assert store.num_episodes == 3
    assert store.meta.origin["path"] == str(tmp_path / "moved")
    write_demos(tmp_path / "one.hdf5", [0, 1])
    run(tmp_path / "one.hdf5", tmp_path / "demos")
    (tmp_path / "one.hdf5").rename(tmp_path / "two.hdf5")  # which renames its episodes
    assert "neither the first nor the last of them is found there" in refused(tmp_path / "two.hdf5", tmp_path / "demos")


def test_another_recording_of_the_same_kind_is_refused(tmp_path: Path) -> None:
    root, out = tmp_path / "set", tmp_path / "store"
    write_lerobot(root, lengths=(5, 9))
    run(root, out)
    write_lerobot(tmp_path / "other", lengths=(9, 5))
    assert "its episode 0 is not the one that the store" in refused(tmp_path / "other", out)
    shutil.rmtree(root)
    write_lerobot(root, lengths=(5, 4, 3))  # recorded anew where the first was
    assert "its episode 1 is not the one" in refused(root, out)
    write_demos(tmp_path / "demos.hdf5", [0, 1])
    run(tmp_path / "demos.hdf5", tmp_path / "demos")
    write_demos(tmp_path / "demos.hdf5", [0, 1, 2], seed=1)
    assert "its episode 0 is not the one" in refused(tmp_path / "demos.hdf5", tmp_path / "demos")


def test_images_are_known_by_their_groups(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "pets", {"cat": 12, "dog": 9}), tmp_path / "store"
    run(root, out, max_episodes=2)
    root = root.rename(tmp_path / "moved")
    assert run(root, out).store.num_frames == 21
    numbered(77).save(root / "cat" / "new.png")
    assert refused(root, out).startswith("images=22: the store has 21; ")
    (root / "dog" / "00012.png").unlink()
    assert refused(root, out).startswith("digest=")  # other images, as many
    names = [f"{k:03d}" for k in range(40)]
    for name in names:
        members = [(f"{name}.png", encoded(numbered(int(name)))), (f"{name}.cls", b"1")]
        make_shard(tmp_path / "shards" / f"{name}.tar", members)
    run(tmp_path / "shards", tmp_path / "sharded", max_episodes=12)
    assert run(tmp_path / "shards", tmp_path / "sharded").store.num_episodes == 40


@pytest.mark.slow
def test_a_try_that_stored_nothing_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "set"
    cameras = {"observation.images.top": "h264", "observation.images.wrist": "h264"}
    write_lerobot(root, "v2.1", cameras=cameras)
    for video in (root / "videos").rglob("*top/*.mp4"):
        video.write_bytes(b"not yet copied")
    for workers in (1, 2):
        for out in (tmp_path / "deep" / "store", tmp_path / "there"):
            (tmp_path / "there").mkdir(exist_ok=True)
            top, wrist = (ImportOptions(image_size=16, cameras=(name,)) for name in ("top", "wrist"))
            assert "none of its 4 episodes can be imported" in refused(root, out, options=top, workers=workers)
            assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "there"]
            assert list((tmp_path / "there").iterdir()) == []
            assert run(root, out, options=wrist, workers=workers).store.num_episodes == 4
            shutil.rmtree(out if out.name == "there" else out.parent)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGINT", -signal.SIGINT), ("SIGKILL", -signal.SIGKILL)])
def test_an_import_that_is_stopped_before_its_first_episode_binds_nobody(
    tmp_path: Path, name: str, status: int
) -> None:
    path, out = write_demos(tmp_path / "demos.hdf5", [0]), tmp_path / "store"
    code = (
        "import os, signal, time\n"
        "from lewm.data import importing\n"
        "def stop(recording, options, file):\n"
        "    file.write_bytes(b'half a frame')\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "    time.sleep(1)\n"  # if this is not the main thread, which is the one that is interrupted
        "importing._fit_episode = stop\n"
        f"importing.import_recording({str(path)!r}, {str(out)!r}, workers=1, progress=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == status
    assert out.exists() == (name == "SIGKILL")
    assert run(path, out).store.num_episodes == 1  # at another size than the first try's
    assert sorted(file.name for file in out.iterdir()) == [
        ".lock", "actions.npy", "episodes.parquet", "frames.npy", "meta.json",
    ]  # fmt: skip


META = StoreMeta(
    task="t", image_size=16, action_kind="continuous", action_size=2, action_names=("a", "b"), fps=30.0, source="s",
    origin={"format": "lerobot", "path": "/a", "camera_keys": ["top"], "cameras": [], "fit": "crop", "notes": []},
)  # fmt: skip


def changed(**changes: Any) -> StoreMeta:
    values = {name: getattr(META, name) for name in META.__slots__ if name != "schema_version"}
    origin = dict(META.origin) | changes.pop("origin", {})
    return StoreMeta(**values | {"origin": origin} | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "other"},
        {"source": "other"},
        {"fps": 30.2},
        {"origin": {"path": "/b", "notes": ["more"], "statistics": {"mean": [0.0] * 1000}, "cameras": ["top"]}},
    ],
)
def test_what_locates_nothing_may_change(change: dict[str, Any]) -> None:
    kept = meta_to_go_on(META, changed(**change))
    assert (kept.task, kept.source, kept.fps) == ("t", "s", 30.0)
    assert kept.origin == changed(**change).origin


def test_names_and_a_frame_rate_may_come_later() -> None:
    kept = meta_to_go_on(dataclasses.replace(META, action_names=(), fps=None), META)
    assert (kept.action_names, kept.fps) == (("a", "b"), 30.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fps": 15.0}, "fps=15.0: the store has 30.0"),
        ({"fps": None}, "fps=None: the store has 30.0"),
        ({"action_names": ("a", "c")}, r"action_names=\('a', 'c'\): the store has \('a', 'b'\)"),
        ({"image_size": 32}, "image_size=32: the store has 16"),
        ({"origin": {"fit": "pad"}}, "fit='pad': the store has 'crop'"),
        ({"origin": {"camera_keys": [f"camera {k}" for k in range(1000)]}}, r"camera_keys=.*\.\.\..*: the store has"),
    ],
)
def test_what_locates_or_decodes_may_not(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}.*; append the same kind of data or give another folder$") as error:
        meta_to_go_on(META, changed(**change))
    assert len(str(error.value)) <= LONGEST_MESSAGE


def test_what_a_repair_left_out_does_not_come_back() -> None:
    with pytest.raises(ValueError, match="the store was repaired"):
        meta_to_go_on(changed(source="s, repaired"), META)


def test_the_control_mode_of_the_store_is_kept() -> None:
    given = changed(control_mode="position", control_evidence="given")
    assert meta_to_go_on(given, changed(control_mode="velocity")).control_mode == "position"
    assert meta_to_go_on(META, given).control_mode == "position"


def test_messages_are_short_wherever_they_come_from(tmp_path: Path) -> None:
    deep = tmp_path / ("folder-of-a-long-name" * 4) / ("another-folder-of-a-long-name" * 4)
    write_lerobot(deep / "set", "v2.1", lengths=(3,))
    assert "does not exist" in refused(deep / "nothing", tmp_path / "store")
    video = next((deep / "set").rglob("*.mp4"))
    for content in (b"", b"no video at all" * 100):
        video.write_bytes(content)
        assert "none of its 1 episodes can be imported" in refused(deep / "set", tmp_path / "store")
    shutil.rmtree(deep / "set" / "videos")
    assert "have no files; copy the images or videos too" in refused(deep / "set", tmp_path / "store")
    info = json.loads((deep / "set/meta/info.json").read_text())
    for k in range(200):
        info["features"][f"observation.images.camera_{k}"] = info["features"]["observation.images.top"]
    (deep / "set/meta/info.json").write_text(json.dumps(info))
    assert "camera_0, " in refused(deep / "set", tmp_path / "store")
    (deep / "set/meta/info.json").write_text("{" * 10_000)
    assert "is not JSON" in refused(deep / "set", tmp_path / "store")


def test_shorten_keeps_the_ends() -> None:
    assert shorten("all\nof  it") == "all of it"
    long = "/data" * 100 + ": is missing; " + "copy " * 10 + "it again"
    assert len(shorten(long)) <= LONGEST_MESSAGE
    assert "is missing; copy" in shorten(long)  # the path alone is cut
    words = " ".join(f"name{k}" for k in range(1000))
    assert len(shorten(words)) == LONGEST_MESSAGE
    assert shorten(words).startswith("name0 name1")
    assert shorten(words).endswith("name999")
    assert len(shorten("x" * 1000, 70)) == 70
