"""Episodes of LeRobot data sets: what finds them, their rows and their frames, and what may be wrong or missing."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lerobot_edit import ANY, STARTS, TOP, V3_DATA, V3_EPISODES, V3_VIDEO, edit_rows, import_to, skipped
from lerobot_fixture import FPS, number_of, task_of, write_lerobot
from lewm.data import Store
from lewm.data.importers.lerobot import LeRobotSource
from lewm.data.importing import import_recording

VIDEO = f"videos/{TOP}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        *({"length": length} for length in (8, 10, 0, -9, 10**15, None)),
        {"dataset_from_index": 10**6, "dataset_to_index": 3},
        {"dataset_from_index": None, "dataset_to_index": None},
        {"data/chunk_index": -1},
        {"data/file_index": None},
        {"data/file_index": 7},
        {"tasks": None},
        *({f"{VIDEO}/to_timestamp": end} for end in (1.3, 0.5, 0.2, -1.0, 1e300, float("nan"), None, 99.0)),
    ],
)
def test_what_locates_nothing_may_be_wrong(lerobot_v3: Path, tmp_path: Path, edit: dict[str, Any]) -> None:
    edit_rows(lerobot_v3 / V3_EPISODES[0], lambda rows: rows[1].update(edit))
    assert skipped(lerobot_v3, tmp_path / "store") == {}


@pytest.mark.parametrize(
    "columns",
    [
        ("length",), ("tasks",), ("dataset_from_index", "dataset_to_index"), ("data/chunk_index", "data/file_index"),
        (f"{VIDEO}/to_timestamp",),
    ],
)  # fmt: skip
def test_columns_that_locate_nothing_may_be_missing(lerobot_v3: Path, tmp_path: Path, columns: tuple[str, ...]) -> None:
    for name in V3_EPISODES:
        edit_rows(lerobot_v3 / name, lambda rows: [row.pop(column) for row in rows for column in columns])
    assert skipped(lerobot_v3, tmp_path / "store") == {}


@pytest.mark.parametrize("offset", [-1 / FPS, 0.0, 1e-4])
def test_the_end_may_be_the_last_frame(tmp_path: Path, offset: float) -> None:
    write_lerobot(tmp_path / "data", per_file=4)
    for name in V3_EPISODES:
        edit_rows(
            tmp_path / "data" / name,
            lambda rows: [row.update({f"{VIDEO}/to_timestamp": row[f"{VIDEO}/to_timestamp"] + offset}) for row in rows],
        )
    assert skipped(tmp_path / "data", tmp_path / "store") == {}


def test_frames_of_another_episode_are_not_taken(lerobot_v3: Path, tmp_path: Path) -> None:
    # Episode 1 has 9 rows, but its frames are followed by those of episode 2 after the third.
    end = {f"{VIDEO}/to_timestamp": 0.8}
    edit_rows(lerobot_v3 / V3_EPISODES[0], lambda rows: rows[1].update(end))
    edit_rows(lerobot_v3 / V3_EPISODES[1], lambda rows: rows[0].update({f"{VIDEO}/from_timestamp": 0.8}))
    with pytest.raises(ValueError, match=r"begin at 0\.500 s in .* and end at 0\.800 s, and episode 2 begins before"):
        LeRobotSource(lerobot_v3, ANY).episode(1)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        ({f"{VIDEO}/file_index": -3}, "episode 1, camera .*: the episode table names no video file"),
        ({f"{VIDEO}/file_index": 2**62}, r"file-4611686018427387904\.mp4: is missing"),
        ({f"{VIDEO}/from_timestamp": -1.0}, r"episode 1, camera .*: begins at -1\.0 s in its video"),
        ({f"{VIDEO}/from_timestamp": float("nan")}, "episode 1, camera .*: begins at None s in its video"),
        (
            {f"{VIDEO}/from_timestamp": 1.2, f"{VIDEO}/to_timestamp": 2.1},
            r"episode 1, camera .*: has no frame at 1\.700 s \(frame 5\) in .*file-000\.mp4; repair the video",
        ),
        (
            {f"{VIDEO}/from_timestamp": 9e6, f"{VIDEO}/to_timestamp": 1e7},
            r"episode 1, camera .*: has no frame at 9000000\.000 s \(frame 0\)",
        ),
    ],
)
def test_a_bad_row_costs_its_episode_only(lerobot_v3: Path, tmp_path: Path, edit: dict[str, Any], match: str) -> None:
    edit_rows(lerobot_v3 / V3_EPISODES[0], lambda rows: rows[1].update(edit))
    with pytest.raises(ValueError, match=match) as error:
        list(LeRobotSource(lerobot_v3, ANY).episode(1).frames)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300
    assert skipped(lerobot_v3, tmp_path / "store") == {1: str(error.value)}


@pytest.mark.parametrize("index", [-1, 4])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_no_such_episode(lerobot_sets: dict[tuple[str, str], Path], version: str, index: int) -> None:
    source = LeRobotSource(lerobot_sets[version, "h264"], ANY)
    with pytest.raises(ValueError, match=rf"episode={index}: there are 4; use 0 to 3"):
        source.episode(index)


def test_part_of_the_table(lerobot_v3: Path, tmp_path: Path) -> None:
    path = lerobot_v3 / V3_EPISODES[1]
    table = pq.read_table(path)
    texts = pa.array([[b"\xff"], [b"good"]], pa.list_(pa.binary())).view(pa.list_(pa.string()))
    pq.write_table(table.set_column(table.column_names.index("tasks"), "tasks", texts), path)
    assert [LeRobotSource(lerobot_v3, ANY).episode(i).text for i in (2, 3)] == ["", "good"]
    edit_rows(lerobot_v3 / V3_EPISODES[0], lambda rows: rows.reverse())  # any order is good
    assert LeRobotSource(lerobot_v3, ANY).episode(1).text == task_of(1)
    for bad in (-2, None, 1e300, "second"):
        pq.write_table(table, path)
        edit_rows(path, lambda rows, bad=bad: [row.update(episode_index=bad) for row in rows])
        source = LeRobotSource(lerobot_v3, ANY)
        assert source.num_episodes == 3
        with pytest.raises(ValueError, match=r"^meta/episodes: episode_index is missing in 2 rows"):
            source.episode(2)
    path.write_bytes(path.read_bytes()[:-100])
    done = import_recording(lerobot_v3, tmp_path / "store", options=ANY, workers=1, progress=False)
    assert done.store.num_episodes == 2
    assert [index for index, _ in done.skipped] == [2]
    assert done.skipped[0][1].startswith(f"{V3_EPISODES[1]}: cannot be read")
    for name in V3_EPISODES:
        (lerobot_v3 / name).unlink()
    with pytest.raises(ValueError, match=r"^meta/episodes: has no table of episodes"):
        LeRobotSource(lerobot_v3, ANY)


def test_hidden_files_are_no_part_of_the_table(lerobot_v3: Path, tmp_path: Path) -> None:
    for name in (*V3_EPISODES, V3_DATA, V3_VIDEO):
        place = (lerobot_v3 / name).parent
        for hidden in (f"._{Path(name).name}", ".DS_Store", "Thumbs.db"):
            (place / hidden).write_bytes(b"\x00\x05\x16\x07")
    (lerobot_v3 / "meta" / "._info.json").write_bytes(b"\x00\x05\x16\x07")
    assert skipped(lerobot_v3, tmp_path / "store") == {}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"length": 7}', '{"episode_index": -3}', '{"episode_index": "3"}', "\xff", None]
)
def test_the_data_files_stand_in_for_lines(lerobot_v2: Path, tmp_path: Path, line: str | None) -> None:
    path = lerobot_v2 / "meta" / "episodes.jsonl"
    lines = path.read_text().splitlines()
    if line is None:
        path.unlink()
    else:
        path.write_text("\n".join([*lines[:3], line]), encoding="latin-1")
    (lerobot_v2 / "data" / "chunk-000" / "._episode_000007.parquet").write_bytes(b"\x00\x05\x16\x07")
    assert skipped(lerobot_v2, tmp_path / "store") == {}
    (note, *_) = Store(tmp_path / "store").meta.origin["notes"]
    assert note.endswith("the data files say which episodes there are")


@pytest.mark.parametrize(
    "line",
    [
        '{"episode_index": 3, "length": "long"}',
        f'{{"episode_index": 3, "length": {10**30}}}',
        '{"episode_index": 3, "length": 7, "tasks": 5}',
        '{"episode_index": 3, "length": 7, "tasks": ["\\ud800"]}',
        '{"episode_index": 3, "length": 1}\n{"episode_index": 3, "length": 7}',
    ],
)
def test_odd_lines(lerobot_v2: Path, tmp_path: Path, line: str) -> None:
    path = lerobot_v2 / "meta" / "episodes.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[2], line, lines[0], lines[1]]))  # any order is good
    assert skipped(lerobot_v2, tmp_path / "store") == {}


def test_some_of_the_episodes(lerobot_v2: Path, tmp_path: Path) -> None:
    """Of a set that was copied in part, the episodes keep their numbers, in the table's order."""
    path = lerobot_v2 / "meta" / "episodes.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[3], lines[1]]))
    store = import_to(lerobot_v2, tmp_path / "store")
    assert [number_of(frame) for frame in store.frames] == [*range(STARTS[1], STARTS[2]), *range(STARTS[3], STARTS[4])]
    assert [text.split(" of ")[0] for text in store.episodes.source] == ["episode 1", "episode 3"]
