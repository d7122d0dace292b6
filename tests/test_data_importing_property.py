"""Small recordings of any content: their values come back; damaged ones are refused in one line, or read."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from lewm.data.importers.source import ImportOptions
from lewm.data.importers.tables import choose_columns, read_table
from lewm.data.importing import detect_format, open_source
from lewm.files import short_errors

FINITE = st.floats(-1e6, 1e6, width=32)
OPTIONS = ImportOptions(image_size=4)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one example: a test's `tmp_path` is the same for all of them."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def one_line(error: ValueError) -> None:
    text = str(error)
    assert re.fullmatch(r"[^\n]+: [^\n]+; [^\n]+", text), text
    assert len(text) <= 300, text


# Tables.

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=6)


def write_table(path: Path, columns: dict[str, list[Any]]) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    return path


@pytest.mark.slow
@given(data=st.data(), suffix=st.sampled_from([".csv", ".parquet"]), rows=st.integers(1, 4))
@settings(max_examples=120, derandomize=True, deadline=None, database=None)
def test_the_numbers_of_any_table_come_back(data: st.DataObject, suffix: str, rows: int) -> None:
    column = st.lists(FINITE, min_size=rows, max_size=rows)
    actions = data.draw(st.dictionaries(NAMES.map(lambda name: f"action.{name}"), column, min_size=1, max_size=3))
    states = data.draw(st.dictionaries(NAMES.map(lambda name: f"state_{name}"), column, max_size=2))
    with folder() as place:
        path = write_table(place / f"a{suffix}", {**states, "other": [0] * rows, **actions})
        found = choose_columns(read_table(path, ImportOptions()), path.name, ImportOptions())
    assert (found.action_names, found.state_names, found.discrete) == (tuple(actions), tuple(states), False)
    np.testing.assert_array_equal(found.actions.T, list(actions.values()))
    np.testing.assert_array_equal(found.states.T, np.reshape(list(states.values()), (-1, rows)))


BAD = st.sampled_from([None, float("nan"), float("inf"), -float("inf"), 1e39, -1e300])


@given(suffix=st.sampled_from([".csv", ".parquet"]), bad=BAD, row=st.integers(0, 3), kind=st.sampled_from("as"))
@settings(max_examples=40, derandomize=True, deadline=None, database=None)
def test_a_cell_that_is_no_finite_number_is_named(suffix: str, bad: float | None, row: int, kind: str) -> None:
    columns: dict[str, list[Any]] = {"action": [0.5, 1.5, 2.5, 3.5], "state": [4.5, 5.5, 6.5, 7.5]}
    name = "action" if kind == "a" else "state"
    columns[name][row] = bad
    with folder() as place:
        path = write_table(place / f"a{suffix}", columns)
        with pytest.raises(ValueError, match=rf"^a{suffix}: {name} is empty or not finite in row {row + 1}; repair"):
            choose_columns(read_table(path, ImportOptions()), path.name, ImportOptions())


@pytest.mark.slow
@given(
    suffix=st.sampled_from([".csv", ".parquet"]),
    at=st.floats(0, 1),
    put=st.binary(max_size=12),
    taken=st.integers(0, 12),
)
@settings(max_examples=300, derandomize=True, deadline=None, database=None)
def test_a_damaged_table_is_refused_or_has_numbers(suffix: str, at: float, put: bytes, taken: int) -> None:
    with folder() as place:
        path = write_table(place / f"a{suffix}", {"t": [0.0, 0.5], "action.x": [1.0, 2.0], "state": [3.0, 4.0]})
        whole = path.read_bytes()
        first = int(at * len(whole))
        path.write_bytes(whole[:first] + put + whole[first + taken :])
        try:
            with short_errors():  # as around every import: a damaged name may have two lines
                found = choose_columns(read_table(path, ImportOptions()), path.name, ImportOptions())
        except ValueError as error:
            one_line(error)
            return
    assert np.isfinite(found.actions).all()
    assert np.isfinite(found.states).all()
    assert len(found.actions) == len(found.states) > 0


@pytest.mark.parametrize("name", ["file", "image"])
def test_a_text_that_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    texts = pa.array([b"a.png", b"\xff\x80"]).view(pa.string())
    pq.write_table(pa.table({name: texts, "action": [1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"^a\.parquet: is no parquet table \(.*UTF8.*\); write it again$"):
        read_table(tmp_path / "a.parquet", ImportOptions(), also=(name,))


def test_a_table_whose_columns_have_no_names_has_no_actions(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    pq.write_table(pa.table({"action": [1.0, 2.0]}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"action", b"\xff\x80tion"))
    with pytest.raises(ValueError, match=r": has pictures without class folders and without a table; make a folder"):
        detect_format(tmp_path)


# HDF5 and zarr: one row a frame.


@dataclass(frozen=True)
class Made:
    """A recording as it is written: all episodes one after the other."""

    lengths: list[int]
    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray | None


@st.composite
def recordings(draw: st.DrawFn) -> Made:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    rows, side = sum(lengths), draw(st.integers(4, 6))
    width, states = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    actions = arrays.arrays(np.float32, (rows, width), elements=FINITE)
    if width == 0:  # discrete
        actions = arrays.arrays(draw(st.sampled_from([np.int64, np.uint8])), rows, elements=st.integers(0, 9))
    return Made(
        lengths,
        draw(arrays.arrays(np.uint8, (rows, side, side, 3))),
        draw(actions),
        draw(arrays.arrays(np.float32, (rows, states), elements=FINITE)) if states else None,
    )


def write_hdf5(place: Path, made: Made) -> Path:
    with h5py.File(place / "a.h5", "w") as file:
        file["pixels"], file["action"] = made.frames, made.actions
        if made.states is not None:
            file["state"] = made.states
        file["ep_len"], file["ep_offset"] = made.lengths, np.cumsum([0, *made.lengths[:-1]])
    return place / "a.h5"


def write_zarr(place: Path, made: Made, version: int = 2, suffix: str = "") -> Path:
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(str(place / "a.zarr"), mode="w", zarr_format=version)
    values = {"data/img": made.frames, "data/action": made.actions, "meta/episode_ends": np.cumsum(made.lengths)}
    for name, value in (values | ({} if made.states is None else {"data/state": made.states})).items():
        array = root.create_array(
            name,
            shape=value.shape,
            dtype=value.dtype,
            chunks=(2, *value.shape[1:]),
            config={"write_empty_chunks": True},
        )
        array[...] = value
    if suffix:
        shutil.make_archive(str(place / "a.zarr"), "zip", place / "a.zarr")
        shutil.rmtree(place / "a.zarr")
    return place / f"a.zarr{suffix}"


FORMS: dict[str, Callable[[Path, Made], Path]] = {
    "hdf5": write_hdf5,
    "zarr 2": write_zarr,
    "zarr 3": lambda place, made: write_zarr(place, made, 3),
    "zarr 2, zipped": lambda place, made: write_zarr(place, made, 2, ".zip"),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(made=recordings())
@settings(max_examples=15, derandomize=True, deadline=None, database=None)
def test_the_values_of_any_recording_come_back(form: str, made: Made) -> None:
    with folder() as place:
        source = open_source(FORMS[form](place, made), OPTIONS)
        assert source.num_episodes == len(made.lengths)
        assert source.info.action_kind == ("discrete" if made.actions.ndim == 1 else "continuous")
        start = 0
        for k, length in enumerate(made.lengths):
            rows, recording = slice(start, start + length), source.episode(k)
            np.testing.assert_array_equal(
                np.stack([np.asarray(frame) for frame in recording.frames]), made.frames[rows]
            )
            np.testing.assert_array_equal(recording.actions, made.actions[rows])
            if made.states is None:
                assert recording.states is None
            else:
                np.testing.assert_array_equal(recording.states, made.states[rows])
            assert source.length(k) == length
            start += length


PLAIN = Made(
    [3, 2],
    np.arange(5 * 48, dtype=np.uint8).reshape(5, 4, 4, 3),
    np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2),
    np.ones((5, 1), np.float32),
)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(data=st.data(), at=st.floats(0, 1), put=st.binary(max_size=12), taken=st.integers(0, 12))
@settings(max_examples=40, derandomize=True, deadline=None, database=None)
def test_a_damaged_recording_is_refused_or_has_frames_and_numbers(
    form: str, data: st.DataObject, at: float, put: bytes, taken: int
) -> None:
    with folder() as place:
        path = FORMS[form](place, PLAIN)
        files = sorted(file for file in path.rglob("*") if file.is_file()) or [path]
        file = data.draw(st.sampled_from(files))
        whole = file.read_bytes()
        first = int(at * len(whole))
        file.write_bytes(whole[:first] + put + whole[first + taken :])
        try:
            source = open_source(path, OPTIONS)
            for k in range(source.num_episodes):
                recording = source.episode(k)
                assert all(np.asarray(frame).dtype == np.uint8 for frame in recording.frames)
                assert np.isfinite(recording.actions).all()
                assert recording.states is None or np.isfinite(recording.states).all()
        except ValueError as error:
            one_line(error)
