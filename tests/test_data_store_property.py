"""Any small store is read back as it was written; a damaged one is refused in one line, or reads the same."""

import dataclasses
import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lewm.data import Store, StoreMeta, StoreWriter
from lewm.data.store_files import read_table

TEXTS = st.text(max_size=12)
FINITE = st.floats(-1e6, 1e6, width=32)
Episode = tuple[np.ndarray, np.ndarray, np.ndarray | None, str, int, str]


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one example: a test's `tmp_path` is the same for all of them."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def metas(draw: st.DrawFn) -> StoreMeta:
    kind: Any = draw(st.sampled_from(["continuous", "discrete", "none"]))
    size = 0 if kind == "none" else draw(st.integers(1, 5))
    return StoreMeta(
        task=draw(TEXTS),
        image_size=draw(st.integers(1, 5)),
        action_kind=kind,
        action_size=size,
        action_names=tuple(draw(st.lists(TEXTS, min_size=size, max_size=size))) if kind == "continuous" else (),
        control_mode=draw(st.sampled_from(["unknown", "position", "velocity"])) if kind == "continuous" else "unknown",
        control_evidence=draw(TEXTS),
        state_names=tuple(draw(st.lists(TEXTS, max_size=3))),
        fps=draw(st.none() | st.integers(1, 60) | st.floats(0, 100, exclude_min=True)),
        source=draw(TEXTS),
        origin=draw(st.dictionaries(TEXTS, st.none() | st.booleans() | TEXTS | st.lists(FINITE), max_size=2)),
    )


@st.composite
def episodes(draw: st.DrawFn, meta: StoreMeta) -> Episode:
    length = draw(st.integers(1, 4))
    frames = draw(arrays.arrays(np.uint8, (length, meta.image_size, meta.image_size, 3)))
    actions = np.empty((length, 0), np.float32)
    if meta.action_kind == "continuous":
        actions = draw(arrays.arrays(np.float32, (length, meta.action_size), elements=FINITE))
    elif meta.action_kind == "discrete":
        actions = draw(arrays.arrays(np.int64, length, elements=st.integers(0, meta.action_size - 1)))
    states = draw(arrays.arrays(np.float32, (length, len(meta.state_names)), elements=FINITE))
    seed = draw(st.integers(-(2**63), 2**63 - 1))
    return frames, actions, states if meta.state_names else None, draw(TEXTS), seed, draw(TEXTS)


def write(path: Path, meta: StoreMeta, written: list[Episode]) -> None:
    with StoreWriter(path, meta) as writer:
        for frames, actions, states, source, seed, text in written:
            writer.append(frames, actions, states, source=source, seed=seed, text=text)


def check(store: Store, written: list[Episode]) -> None:
    """Check that a store holds these episodes and no other."""
    assert store.num_episodes == len(written)
    for number, (frames, actions, states, source, seed, text) in enumerate(written):
        here, table = store.episode(number), store.episodes
        np.testing.assert_array_equal(store.frames[here], frames)
        np.testing.assert_array_equal(store.actions[here], actions)
        if states is None:
            assert store.states is None
        else:
            assert store.states is not None
            np.testing.assert_array_equal(store.states[here], states)
        assert (table.source[number], table.seed[number], table.text[number]) == (source, seed, text)


def one_line(error: ValueError, path: Path) -> None:
    text = str(error).replace(str(path), "store")
    assert re.fullmatch(r"store[^:]*: [^\n]+; [^\n]+", text), text
    assert len(text) <= 300, text


def of_its_types(meta: StoreMeta) -> None:
    """Check the types of a description; a letter of its texts may be another, which nothing tells."""
    types = {field.name: type(getattr(PLAIN, field.name)) for field in dataclasses.fields(StoreMeta)}
    assert [name for name, kind in types.items() if not isinstance(getattr(meta, name), kind)] in ([], ["fps"])
    assert meta.fps is None or 0 < float(meta.fps) < np.inf


@pytest.mark.slow
@given(data=st.data(), meta=metas(), stops=st.booleans())
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
def test_any_store_is_read_back(data: st.DataObject, meta: StoreMeta, stops: bool) -> None:
    written = data.draw(st.lists(episodes(meta), min_size=1, max_size=3))
    with folder() as path:
        write(path / "store", meta, written[:1] if stops else written)
        if stops:  # and goes on
            write(path / "store", meta, written[1:])
        store = Store(path / "store")
        store.validate()
        assert store.meta == meta
        check(store, written)


PLAIN = StoreMeta(
    task="arm",
    image_size=2,
    action_kind="continuous",
    action_size=2,
    action_names=("x", "y"),
    control_mode="position",
    control_evidence="given",
    state_names=("x",),
    fps=10.0,
    source="here",
    origin={"format": "table", "cameras": ["top"]},
)
KEPT: list[Episode] = [
    (
        np.full((length, 2, 2, 3), length, np.uint8),
        np.full((length, 2), length / 8, np.float32),
        np.ones((length, 1), np.float32),
        f"robot {length}",
        length,
        "push",
    )
    for length in (3, 1, 2)
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damaged") / "store"
    write(path, PLAIN, KEPT)
    return path


@pytest.mark.slow
@given(
    name=st.sampled_from(["meta.json", "episodes.parquet", "frames.npy", "actions.npy", "states.npy"]),
    at=st.floats(0, 1),
    put=st.binary(max_size=12),
    taken=st.integers(0, 12) | st.just(10**6),
)
@settings(max_examples=400, derandomize=True, deadline=None, database=None)
def test_a_damaged_store_is_refused_or_reads_the_same(kept: Path, name: str, at: float, put: bytes, taken: int) -> None:
    """Of an array its header is damaged: nothing tells what its values were."""
    file = kept / name
    whole = file.read_bytes()
    place = int(at * (127 if name.endswith(".npy") else len(whole)))
    if name.endswith(".npy"):
        taken = min(taken, 128 - place) if taken < 10**6 else taken
        put = put[:taken].ljust(taken, b" ") if taken < 10**6 else b""
    try:
        file.write_bytes(whole[:place] + put + whole[place + taken :])
        try:
            store = Store(kept)
            store.validate()
        except ValueError as error:
            one_line(error, kept)
            return
        check(store, KEPT)
        of_its_types(store.meta)
    finally:
        file.write_bytes(whole)


HUGE = 10**400
ONE = st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats() | st.text(max_size=400)
JSON = ONE | st.lists(ONE, max_size=4) | st.dictionaries(st.text(max_size=4), ONE, max_size=2)


@given(field=st.sampled_from([field.name for field in dataclasses.fields(StoreMeta)]), value=JSON)
@example(field="image_size", value=HUGE)
@example(field="image_size", value=2**62)
@example(field="fps", value=HUGE)
@settings(max_examples=300, derandomize=True, deadline=None, database=None)
def test_any_value_in_the_description_is_refused_or_of_its_type(kept: Path, field: str, value: Any) -> None:
    file = kept / "meta.json"
    whole = file.read_bytes()
    try:
        file.write_text(json.dumps(json.loads(whole) | {field: value}), encoding="utf-8")
        try:
            store = Store(kept)
        except ValueError as error:
            one_line(error, kept)
            return
        if store.meta.state_names:  # without names, the states are left alone
            check(store, KEPT)
        of_its_types(store.meta)
    finally:
        file.write_bytes(whole)


@pytest.mark.slow
def test_every_damaged_byte_of_the_table_is_noticed(kept: Path, tmp_path: Path) -> None:
    """Texts and numbers in it have no other form that would be wrong."""
    file = tmp_path / "episodes.parquet"
    whole, table = (kept / file.name).read_bytes(), read_table(kept / file.name)
    for place, bit in itertools.product(range(len(whole)), (1, 128)):  # a name with the latter is no text any more
        file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            same = read_table(file).equals(table)
        except ValueError as error:
            one_line(error, tmp_path)
        else:
            assert same, place


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"image_size": HUGE},
            f"image_size=1{'0' * 27}...{'0' * 29}: must be a positive integer; give the frames' side",
        ),
        ({"image_size": 2**16 + 1}, "image_size=65537: must be a positive integer"),
        ({"action_size": HUGE}, f"action_size=1{'0' * 27}...{'0' * 29}: must be a positive integer"),
        ({"fps": HUGE}, f"fps=1{'0' * 27}...{'0' * 29}: must be frames a second, more than 0"),
        ({"task": ["arm"]}, "task=['arm']: must be a text; give a few words"),
        ({"source": None}, "source=None: must be a text"),
        ({"control_evidence": 3}, "control_evidence=3: must be a text"),
        ({"action_kind": "x" * 400}, f"action_kind='{'x' * 27}...{'x' * 28}': unknown; use 'continuous'"),
        ({"state_names": [0] * 200}, "state_names=[0, 0, 0, "),
        ({"c" * 400: 1}, f"unknown field '{'c' * 27}...{'c' * 28}'; remove it"),
        ({"schema_version": HUGE}, f"schema_version=1{'0' * 27}...{'0' * 29}, but this version reads 1; update"),
    ],
)
def test_a_description_that_is_wrong_is_refused_in_one_line(kept: Path, changes: dict[str, Any], told: str) -> None:
    file = kept / "meta.json"
    whole = file.read_bytes()
    try:
        file.write_text(json.dumps(json.loads(whole) | changes), encoding="utf-8")
        with pytest.raises(ValueError, match=r"^.*$") as error:
            Store(kept)
    finally:
        file.write_bytes(whole)
    one_line(error.value, kept)
    assert str(error.value).startswith(f"{file}: {told}")


def test_a_description_nested_without_end_is_refused(kept: Path) -> None:
    file = kept / "meta.json"
    whole = file.read_bytes()
    try:
        file.write_text("[" * 100_000, encoding="utf-8")
        with pytest.raises(ValueError, match=r"meta\.json: is not JSON \([^\n]*\); restore it") as error:
            Store(kept)
    finally:
        file.write_bytes(whole)
    one_line(error.value, kept)


def test_a_text_that_is_no_text_is_refused(kept: Path) -> None:
    """Where there are no checksums, as in tables of earlier versions."""
    file = kept / "episodes.parquet"
    whole, table = file.read_bytes(), read_table(file)
    source = pa.array([b"a", b"\xff\x80", b"c"]).view(pa.string())
    try:
        pq.write_table(table.set_column(table.schema.get_field_index("source"), "source", source), file)
        with pytest.raises(
            ValueError, match=r"episodes\.parquet: is not an episode table \(.*UTF8.*\); restore"
        ) as error:
            Store(kept)
    finally:
        file.write_bytes(whole)
    one_line(error.value, kept)


@pytest.mark.parametrize("header", ["(", "{'shape': (", "[" * 60, "1 +", "\0", "{[]: 1}"])
def test_a_header_that_is_no_python_is_refused(kept: Path, header: str) -> None:
    """NumPy reads the header as a literal of Python, and lets errors of the language through."""
    file = kept / "frames.npy"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:10] + header.ljust(117).encode() + b"\n" + whole[128:])
        with pytest.raises(ValueError, match=r"frames\.npy: is not a NumPy array \([^\n]*\); restore it") as error:
            Store(kept)
    finally:
        file.write_bytes(whole)
    one_line(error.value, kept)
