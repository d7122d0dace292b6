"""What `meta/` of LeRobot data sets says: needed, wrong, missing, or leading out of the folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lerobot_edit import (
    ANY,
    STARTS,
    TOP,
    V3_DATA,
    V3_EPISODES,
    V3_VIDEO,
    edit_info,
    skipped,
)
from lerobot_fixture import actions_of
from lewm.data import Store
from lewm.data.importers.lerobot import LeRobotSource
from lewm.data.importers.lerobot_files import fill
from lewm.data.importing import import_recording


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda info: info.update(codebase_version="v1.6"), "format v1 .*; convert it to v2 with LeRobot"),
        (lambda info: info.update(codebase_version="v4.0"), "codebase_version='v4.0': must be v2.0, v2.1 or v3.0"),
        (lambda info: info.update(codebase_version=["v2.1"]), "codebase_version=.*: must be v2.0, v2.1 or v3.0"),
        (lambda info: info.update(features=[]), "has no camera"),
        (lambda info: info["features"].pop(TOP), "has no camera"),
    ],
)
def test_bad_info(lerobot_v3: Path, edit: Callable[[dict[str, Any]], object], match: str) -> None:
    edit_info(lerobot_v3, edit)
    with pytest.raises(ValueError, match=match) as error:
        LeRobotSource(lerobot_v3, ANY)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def vector(**entries: object) -> Callable[[dict[str, Any]], object]:
    return lambda info: info["features"]["action"].update(entries)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize(
    "edit",
    [
        *(lambda info, name=name: info.pop(name) for name in (
            "codebase_version", "fps", "total_episodes", "total_frames", "total_tasks", "chunks_size", "splits",
            "data_path", "video_path", "robot_type",
        )),
        *(lambda info, fps=fps: info.update(fps=fps) for fps in (0, float("nan"), float("inf"), "ten", True, None)),
        *(lambda info, n=n: info.update(total_episodes=n, total_frames=n) for n in (10**400, -4, 5, 1, "many")),
        lambda info: info.update(data_path=7, video_path=None),
        lambda info: info["features"].update(more=3),
        lambda info: info["features"].pop("action"),
        *(vector(dtype=dtype) for dtype in ("string", ["float32"], None)),
        *(vector(shape=shape) for shape in ([10**12], [2, 3], [-3], 3, [True], None, [])),
        *(vector(names=names) for names in ("xyz", {"x": None}, [None], {"x": 0.5})),
        lambda info: info["features"].update({"action.hand": {"dtype": "float32", "shape": [2]}}),  # without a column
    ],
)  # fmt: skip
def test_what_locates_nothing_is_not_needed(
    lerobot_v2: Path, lerobot_v3: Path, tmp_path: Path, version: str, edit: Callable[[dict[str, Any]], object]
) -> None:
    root = lerobot_v2 if version == "v2" else lerobot_v3
    edit_info(root, edit)
    assert skipped(root, tmp_path / "store") == {}
    np.testing.assert_array_equal(Store(tmp_path / "store").actions, actions_of(range(STARTS[-1])))


def test_totals_that_are_wrong_are_noted(lerobot_v3: Path) -> None:
    assert LeRobotSource(lerobot_v3, ANY).info.origin["notes"] == []
    edit_info(lerobot_v3, lambda info: info.update(total_episodes=100, total_frames=7))
    assert LeRobotSource(lerobot_v3, ANY).info.origin["notes"] == [
        "meta/info.json counts 100 episodes, and there are 4",
        "meta/info.json counts 7 frames, and the episodes have 24",
    ]


@pytest.mark.parametrize("mark", ["info.json", "episode_data_index.safetensors"])
def test_the_first_version_is_named(tmp_path: Path, mark: str) -> None:
    (tmp_path / "pusht" / "meta_data").mkdir(parents=True)
    (tmp_path / "pusht" / "meta_data" / mark).write_text(json.dumps({"fps": 10, "video": 1}))
    (tmp_path / "pusht" / "train").mkdir()
    (tmp_path / "pusht" / "train" / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^pusht: is a LeRobot data set of format v1 .*; convert it to v2 with "
    ) as error:
        import_recording(tmp_path / "pusht", tmp_path / "store", workers=1, progress=False)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize(
    "text", [None, "", "{", "[1]", '{"action": {"mean": null, "std": [null], "max": [[]]}}', '{"action": 3}']
)
def test_statistics_and_tasks_are_no_reason(
    lerobot_v2: Path, lerobot_v3: Path, tmp_path: Path, version: str, text: str | None
) -> None:
    root = lerobot_v2 if version == "v2" else lerobot_v3
    for name in ("stats.json", "episodes_stats.jsonl", "tasks.jsonl", "tasks.parquet"):
        (root / "meta" / name).unlink(missing_ok=True)
        if text is not None:
            (root / "meta" / name).write_text(text)
    assert skipped(root, tmp_path / "store") == {}
    origin = Store(tmp_path / "store").meta.origin
    assert origin["statistics"].get("action", {}) == {}
    assert origin["tasks"] == []


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
def test_info_that_is_no_json(lerobot_v3: Path, text: bytes, match: str) -> None:
    (lerobot_v3 / "meta" / "info.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"info\.json: {match}"):
        LeRobotSource(lerobot_v3, ANY)


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
def test_a_path_takes_known_fields_only(lerobot_v3: Path, name: str, template: str) -> None:
    edit_info(lerobot_v3, lambda info: info.update({name: template}))
    with pytest.raises(ValueError, match=r"meta/info\.json: path .*: may hold no fields but chunk_index, file_index"):
        LeRobotSource(lerobot_v3, ANY)


@pytest.mark.parametrize("template", ["data\0", "\ud800", "data\n{chunk_index}"])
def test_what_is_no_path(lerobot_v3: Path, template: str) -> None:
    edit_info(lerobot_v3, lambda info: info.update(data_path=template))
    with pytest.raises(ValueError, match="is no path; repair the data set") as error:
        LeRobotSource(lerobot_v3, ANY)
    assert str(error.value).isprintable()


def test_fields_of_a_path() -> None:
    assert fill("{a:03d}/{b}-{a}{a:012d}.x", {"a": 7, "b": "{a}"}) == "007/{a}-7000000000007.x"


@pytest.mark.parametrize(
    "template", ["../outside/{chunk_index}", "/etc/hostname", "data/../../outside", "//etc/passwd"]
)
@pytest.mark.parametrize("name", ["data_path", "video_path"])
def test_a_path_that_leaves_the_folder(lerobot_v3: Path, name: str, template: str) -> None:
    edit_info(lerobot_v3, lambda info: info.update({name: template}))
    with pytest.raises(ValueError, match="leads out of the folder; copy the data set with its links resolved"):
        LeRobotSource(lerobot_v3, ANY)


def test_a_camera_whose_name_leaves_the_folder(lerobot_v3: Path) -> None:
    edit_info(lerobot_v3, lambda info: info["features"].update({"../../outside": info["features"].pop(TOP)}))
    with pytest.raises(ValueError, match=r"'videos/\.\./\.\./outside/.*leads out of the folder"):
        LeRobotSource(lerobot_v3, ANY)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/stats.json", "meta/tasks.parquet", *V3_EPISODES, "meta"])
def test_a_link_that_leaves_the_folder(lerobot_v3: Path, tmp_path: Path, name: str) -> None:
    (lerobot_v3 / name).rename(tmp_path / "outside")
    (lerobot_v3 / name).symlink_to(tmp_path / "outside")
    if name in ("meta/info.json", "meta"):
        with pytest.raises(ValueError, match="leads out of the folder"):
            LeRobotSource(lerobot_v3, ANY)
        return
    source = LeRobotSource(lerobot_v3, ANY)
    if name in V3_EPISODES:  # costs the episodes that are listed there
        assert source.num_episodes == 3
        with pytest.raises(ValueError, match="leads out of the folder"):
            source.episode(2)
    else:  # is not read
        origin = source.info.origin
        assert not origin["statistics" if "stats" in name else "tasks"]
        (note,) = origin["notes"]
        assert note.startswith(f"'{name}': leads out of the folder")


@pytest.mark.parametrize("name", [V3_DATA, V3_VIDEO, f"videos/{TOP}/chunk-000"])
def test_a_data_file_that_is_a_link(lerobot_v3: Path, tmp_path: Path, name: str) -> None:
    inside = lerobot_v3 / "elsewhere"
    (lerobot_v3 / name).rename(inside)
    (lerobot_v3 / name).symlink_to(inside)
    assert not skipped(lerobot_v3, tmp_path / "inside")
    inside.rename(tmp_path / "outside")
    (lerobot_v3 / name).unlink()
    (lerobot_v3 / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out of the folder"):
        LeRobotSource(lerobot_v3, ANY).episode(0)


def test_what_is_no_plain_file(lerobot_v3: Path, tmp_path: Path) -> None:
    for name in (V3_DATA, V3_VIDEO):
        (lerobot_v3 / name).unlink()
    with pytest.raises(ValueError, match=r"episode 0: has no rows in .*file-000\.parquet"):
        LeRobotSource(lerobot_v3, ANY).episode(0)
    os.mkfifo(lerobot_v3 / V3_DATA)  # would wait for a writer
    with pytest.raises(ValueError, match=r"episode 0: has no rows in .*file-000\.parquet"):
        LeRobotSource(lerobot_v3, ANY).episode(0)
    (lerobot_v3 / V3_DATA).unlink()
    (lerobot_v3 / V3_DATA).symlink_to(lerobot_v3 / V3_DATA)
    with pytest.raises(ValueError, match=r"episode 0: has no rows in .*file-000\.parquet"):
        LeRobotSource(lerobot_v3, ANY).episode(0)
    assert not LeRobotSource.matches(tmp_path)
    with pytest.raises(ValueError, match=r"info\.json: is missing"):
        LeRobotSource(tmp_path, ANY)
