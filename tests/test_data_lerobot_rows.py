"""Rows of LeRobot data sets: which are an episode's, in which order, and what their columns hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lerobot_edit import ANY, LENGTHS, STARTS, V3_DATA, edit_rows, pixels_of, skipped
from lerobot_fixture import FPS, actions_of, number_of
from lewm.data.importers.lerobot import LeRobotSource

V2_DATA = "data/chunk-000/episode_000001.parquet"


def edit_column(path: Path, name: str, edit: Callable[[list[Any]], list[Any]] | None) -> None:
    """Rewrite a table with another column, or without it."""
    table = pq.read_table(path)
    place, column = table.column_names.index(name), table[name].to_pylist()
    table = table.remove_column(place) if edit is None else table.set_column(place, name, pa.array(edit(column)))
    pq.write_table(table, path)


def strings(column: list[Any]) -> list[Any]:
    return [["a", "b", "c"] for _ in column]


@pytest.mark.parametrize(
    ("name", "edit", "match"),
    [
        ("action", lambda column: [*column[:6], None, *column[7:]], "action must be 3 numbers in every row"),
        ("action", lambda column: [*column[:6], [1.0, None, 2.0], *column[7:]], "action must be 3 numbers"),
        ("action", lambda column: [*column[:5], [1.0] * 4, [1.0] * 2, *column[7:]], "action must be 3 numbers"),
        ("episode_index", lambda column: [0 for _ in column], r"episode 1: has no rows in data/.*parquet"),
    ],
)  # fmt: skip
def test_bad_rows(lerobot_v3: Path, name: str, edit: Callable[[list[Any]], list[Any]], match: str) -> None:
    edit_column(lerobot_v3 / V3_DATA, name, edit)
    with pytest.raises(ValueError, match=match) as error:
        LeRobotSource(lerobot_v3, ANY).episode(1)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize(
    ("name", "edit", "match"),
    [
        ("action", strings, "no action among the columns of numbers observation.state; name some with --action"),
        ("action", None, "no action among the columns of numbers observation.state; name some with --action"),
        ("episode_index", lambda column: [str(place) for place in column], "episode_index must be integers"),
        ("episode_index", None, "has no column episode_index"),
    ],
)
def test_columns_without_which_nothing_is_found(
    lerobot_v3: Path, tmp_path: Path, name: str, edit: Callable[[list[Any]], list[Any]] | None, match: str
) -> None:
    for path in (lerobot_v3 / "data").rglob("*.parquet"):
        edit_column(path, name, edit)
    with pytest.raises(ValueError, match=match) as error:
        LeRobotSource(lerobot_v3, ANY).episode(1)
    assert len(str(error.value)) <= 300


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("frame_index", lambda column: [place + 1 for place in column]),  # as they were in a longer recording
        ("frame_index", lambda column: [*column[:2], None, *column[3:]]),
        ("frame_index", lambda column: ["first" for _ in column]),
        ("frame_index", lambda column: [0 for _ in column]),
        ("frame_index", lambda column: list(range(len(column)))[::-1]),  # the times say otherwise
        ("frame_index", lambda column: [[place] for place in column]),
        ("frame_index", None),
        ("timestamp", None),
        ("timestamp", lambda column: [0.0 for _ in column]),
        ("timestamp", lambda column: [*column[:2], None, *column[3:]]),
        ("timestamp", lambda column: [float("nan") for _ in column]),
        ("timestamp", lambda column: [[time] for time in column]),
        ("timestamp", lambda column: [time + 1.7e9 for time in column]),  # of the clock on the wall
        ("timestamp", lambda column: [time + 1 / FPS for time in column]),  # after the step
        ("timestamp", lambda column: [1000 * time for time in column]),
        ("index", None),
        ("task_index", lambda column: [None for _ in column]),
    ],
)
def test_rows_are_found_without(
    lerobot_v2: Path, lerobot_v3: Path, tmp_path: Path, version: str, name: str,
    edit: Callable[[list[Any]], list[Any]] | None,
) -> None:  # fmt: skip
    root = lerobot_v2 if version == "v2" else lerobot_v3
    for path in (root / "data").rglob("*.parquet"):
        edit_column(path, name, edit)
    assert skipped(root, tmp_path / "store") == {}


@pytest.mark.parametrize("edit", [None, lambda column: [57 for _ in column], lambda column: ["57" for _ in column]])
def test_a_table_of_its_own_is_its_episode(
    lerobot_v2: Path, tmp_path: Path, edit: Callable[[list[Any]], list[Any]] | None
) -> None:
    edit_column(lerobot_v2 / V2_DATA, "episode_index", edit)
    assert skipped(lerobot_v2, tmp_path / "store") == {}


def shuffled(rows: list[dict[str, Any]]) -> None:
    rows[STARTS[1] + 2], rows[STARTS[1] + 5] = rows[STARTS[1] + 5], rows[STARTS[1] + 2]


def without(*names: str) -> Callable[[list[dict[str, Any]]], None]:
    """Leave rows out of episode 1, and some columns everywhere."""

    def edit(rows: list[dict[str, Any]]) -> None:
        del rows[STARTS[1] + 4 : STARTS[1] + 7]
        for row in rows:
            for name in names:
                row.pop(name)

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (shuffled, "frame_index 1 is followed by 5; sort, split or leave out the rows"),
        (lambda rows: (shuffled(rows), [row.pop("frame_index") for row in rows]), "timestamp goes back after 0.5 s"),
        (lambda rows: (shuffled(rows), [row.pop("timestamp") for row in rows]), "frame_index 1 is followed by 5"),
        (without(), "has no row from 0.3 to 0.7 s"),
        (without("frame_index"), "has no row from 0.3 to 0.7 s"),
        (without("timestamp"), "frame_index 3 is followed by 7"),
        (lambda rows: rows.insert(0, rows.pop(STARTS[1] + 2)), "the rows of episode 1 are not together; sort the file"),
    ],
)
def test_rows_in_no_order(lerobot_v3: Path, tmp_path: Path, edit: Callable[[list[Any]], object], match: str) -> None:
    edit_rows(lerobot_v3 / V3_DATA, edit)
    with pytest.raises(ValueError, match=match) as error:
        LeRobotSource(lerobot_v3, ANY).episode(1)
    assert len(str(error.value)) <= 300
    assert skipped(lerobot_v3, tmp_path / "store").keys() == {1}


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int32()), pa.list_(pa.float32(), 3),
        pa.list_(pa.list_(pa.float32(), 1), 3), pa.large_list(pa.list_(pa.int64())),
    ],
)  # fmt: skip
def test_vectors_of_other_types(lerobot_v3: Path, kind: pa.DataType) -> None:
    table = pq.read_table(lerobot_v3 / V3_DATA)
    values = (actions_of(range(len(table))) * 8).astype(np.int64)
    nested = values[..., None].tolist() if pa.types.is_nested(kind.value_type) else values.tolist()
    pq.write_table(table.set_column(0, "action", pa.array(nested, kind)), lerobot_v3 / V3_DATA)
    actions = LeRobotSource(lerobot_v3, ANY).episode(1).actions
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, 8 * actions_of(range(STARTS[1], STARTS[2])))


def test_truth_values_are_numbers(lerobot_v3: Path) -> None:
    edit_column(lerobot_v3 / V3_DATA, "action", lambda column: [[i % 2 == 0, True, False] for i in range(len(column))])
    actions = LeRobotSource(lerobot_v3, ANY).episode(1).actions
    np.testing.assert_array_equal(actions, [[(STARTS[1] + t) % 2 == 0, 1, 0] for t in range(LENGTHS[1])])


def test_only_the_row_group_of_an_episode_is_read(lerobot_images: Path) -> None:
    path = lerobot_images / V3_DATA
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == 3
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    data = bytearray(path.read_bytes())
    for column in columns:
        start = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
        data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    source = LeRobotSource(lerobot_images, ANY)
    frames = [pixels_of(frame) for frame in source.episode(1).frames]
    assert [number_of(frame) for frame in frames] == list(range(STARTS[1], STARTS[2]))
    with pytest.raises(ValueError, match=r"file-000\.parquet: cannot be read"):
        source.episode(0)
