"""The store: what is written is read, a kill or a full disk loses no episode, a bad store says what is wrong."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lewm.data import Store, StoreMeta, StoreWriter, split_episodes, store_files
from lewm.data import store as store_module
from lewm.data.store import set_control_mode

META = StoreMeta(
    task="test", image_size=4, action_kind="continuous", action_size=2, state_names=("x", "y", "angle"), fps=10.0
)
DISCRETE = StoreMeta(task="test", image_size=4, action_kind="discrete", action_size=5)


def episode(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, actions and states that depend on the number alone; 3 to 7 frames long."""
    rng = np.random.default_rng(number)
    length = 3 + number % 5
    frames = rng.integers(0, 256, (length, 4, 4, 3), dtype=np.uint8)
    return frames, rng.standard_normal((length, 2)).astype(np.float32), rng.random((length, 3), dtype=np.float32)


def append(writer: StoreWriter, number: int) -> None:
    frames, actions, states = episode(number)
    writer.append(frames, actions, states, source=f"robot {number}", seed=number)


def write(path: Path, count: int, meta: StoreMeta = META) -> Path:
    with StoreWriter(path, meta) as writer:
        for number in range(writer.num_episodes, count):
            append(writer, number)
    return path


def check(path: Path, count: int) -> None:
    """Check that the store holds exactly the first `count` episodes, and that NumPy opens every file alone."""
    store = Store(path)
    store.validate()
    assert store.num_episodes == count
    assert store.states is not None
    assert store.num_frames == len(store.frames) == len(store.actions) == len(store.states)
    assert store.num_frames == sum(3 + number % 5 for number in range(count))
    for number in range(count):
        here = store.episode(number)
        for stored, written in zip((store.frames, store.actions, store.states), episode(number), strict=True):
            assert stored.dtype == written.dtype
            np.testing.assert_array_equal(stored[here], written)
    assert store.episodes.seed.tolist() == list(range(count))
    assert store.episodes.source == [f"robot {number}" for number in range(count)]
    for name, array in (("frames", store.frames), ("actions", store.actions), ("states", store.states)):
        alone = np.load(path / f"{name}.npy")
        assert len(alone) >= len(array)
        np.testing.assert_array_equal(alone[: len(array)], array)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert ";" in text, "an error says the remedy after a semicolon"
    return text


def test_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "store", 6)
    check(path, 6)
    store = Store(str(path))
    assert store.meta == META
    assert store.episodes.start.tolist() == [0, 3, 7, 12, 18, 25]
    assert store.episodes.length.tolist() == [3, 4, 5, 6, 7, 3]
    assert store.episode(1) == slice(3, 7)
    for name in ("frames", "actions", "states"):
        assert np.load(path / f"{name}.npy", mmap_mode="r").shape[0] == 28
    with pytest.raises(ValueError, match="read-only"):
        store.frames[0] = 0
    with pytest.raises(ValueError, match="episode=6") as error:
        store.episode(6)
    one_line(error)


def test_discrete_actions_without_states(tmp_path: Path) -> None:
    actions = np.array([0, 4, 2], dtype=np.int32)
    with StoreWriter(tmp_path, DISCRETE) as writer:
        writer.append(np.zeros((3, 4, 4, 3), np.uint8), actions)
    store = Store(tmp_path)
    store.validate()
    assert store.states is None
    assert store.actions.dtype == np.int64
    np.testing.assert_array_equal(store.actions, actions)
    assert not (tmp_path / "states.npy").exists()


def test_resume(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with StoreWriter(tmp_path, META) as writer:
        assert (writer.num_episodes, writer.num_frames) == (3, 12)
    check(tmp_path, 3)
    write(tmp_path, 8)
    check(tmp_path, 8)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to count threads")
def test_reading_starts_no_threads(tmp_path: Path) -> None:
    """Arrow's would abort a process that ends right after, such as a command's."""
    path = write(tmp_path / "store", 2)
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from lewm.data import Store\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = count()\n"
        f"store = Store(Path({str(path)!r}))\n"
        "print(store.num_episodes, count() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "0"]


@pytest.mark.parametrize("rows", [1, 5])
def test_uncommitted_rows_are_ignored_and_cut(tmp_path: Path, rows: int) -> None:
    path = write(tmp_path, 3)
    sizes = {name: (path / name).stat().st_size for name in ("frames.npy", "actions.npy", "states.npy")}
    frames = np.load(path / "frames.npy")
    np.save(path / "frames.npy", np.concatenate([frames, np.full((rows, 4, 4, 3), 7, np.uint8)]))
    with open(path / "actions.npy", "ab") as file:
        file.write(b"half a row"[: 2 * rows])
    check(path, 3)
    StoreWriter(path, META).close()
    assert {name: (path / name).stat().st_size for name in sizes} == sizes
    assert len(np.load(path / "frames.npy")) == 12


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package handles it."""


# The calls that change the disk; an append makes several of each.
PRIMITIVES = ("_write_all", "fsync", "replace")


@contextlib.contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> Iterator[list[str]]:
    """Let the at-th primitive fail, a write after half of its bytes; yield the names of the calls made."""
    calls: list[str] = []
    write_all, fsync, replace = store_files.write_all, os.fsync, os.replace

    def step(name: str) -> bool:
        calls.append(name)
        return len(calls) - 1 == at

    def failing_write_all(file, offset, data) -> None:
        if step("_write_all"):
            view = memoryview(data).cast("B")
            write_all(file, offset, view[: len(view) // 2])
            raise error
        write_all(file, offset, data)

    def failing_fsync(descriptor) -> None:
        if step("fsync"):
            raise error
        fsync(descriptor)

    def failing_replace(source, target) -> None:
        if step("replace"):
            raise error
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_all", failing_write_all)
        patch.setattr(store_files, "write_all", failing_write_all)
        patch.setattr(os, "fsync", failing_fsync)
        patch.setattr(os, "replace", failing_replace)
        yield calls


def count_calls(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> int:
    with failing(monkeypatch, -1, Killed()) as calls:
        action()
    assert set(PRIMITIVES) == set(calls)
    return len(calls)


def test_kill_at_every_step_of_an_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StoreWriter(write(tmp_path / "count", 1), META) as writer:
        steps = count_calls(monkeypatch, lambda: append(writer, 1))
    assert steps >= 3 * 3 + 3  # data, header, fsync for 3 arrays; write, fsync, rename for the table
    for at in range(steps):
        path = write(tmp_path / f"append{at}", 2)
        writer = StoreWriter(path, META)
        with failing(monkeypatch, at, Killed()), pytest.raises(Killed):
            append(writer, 2)
        writer.close()
        check(path, 2)
        check(write(path, 4), 4)


def test_full_disk_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "count", 2)
    with StoreWriter(tmp_path / "count", META) as writer:
        steps = count_calls(monkeypatch, lambda: append(writer, 2))
    for at in range(steps):
        path = write(tmp_path / f"store{at}", 2)
        sizes = {file.name: file.stat().st_size for file in path.iterdir()}
        with StoreWriter(path, META) as writer:
            with (
                failing(monkeypatch, at, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
                pytest.raises(OSError, match="disk full") as error,
            ):
                append(writer, 2)
            assert error.value.errno == errno.ENOSPC
            assert str(path) in one_line(error)
            check(path, 2)
            assert {file.name: file.stat().st_size for file in path.iterdir()} == sizes  # the space is given back
            append(writer, 2)  # the same writer goes on when there is space again
            append(writer, 3)
        check(path, 4)


def test_real_write_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write(tmp_path, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StoreWriter(tmp_path, META) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "frames.npy").stat().st_size + 50, hard))
        try:
            with pytest.raises(OSError, match=r"cannot be written \(File too large\)") as error:
                append(writer, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        one_line(error)
        check(tmp_path, 2)
        append(writer, 2)
    check(tmp_path, 3)


def test_kill_while_a_store_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append_other(writer: StoreWriter) -> None:
        writer.append(np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64))

    with StoreWriter(tmp_path / "count", DISCRETE) as writer:
        steps = count_calls(monkeypatch, lambda: append_other(writer))
    for at in range(steps):
        path = tmp_path / f"store{at}"
        killed = StoreWriter(path, DISCRETE)  # of other data, which does not bind the folder
        with failing(monkeypatch, at, Killed()), pytest.raises(Killed):
            append_other(killed)
        killed._lock.close()  # all that a kill does; nothing is tidied
        with contextlib.suppress(ValueError):
            assert Store(path).num_episodes == 0
        check(write(path, 2), 2)


def left(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


def test_a_writer_that_stored_nothing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "new" / "deep", tmp_path):
        with StoreWriter(path, META):
            pass
        assert left(tmp_path) == []
        with pytest.raises(ValueError, match="frames"), StoreWriter(path, META) as writer:
            writer.append(FRAMES[:0], ACTIONS[:0], STATES[:0])
        assert left(tmp_path) == []
        with (
            pytest.raises(OSError, match="disk full"),
            StoreWriter(path, META) as writer,
            failing(monkeypatch, 20, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        ):
            append(writer, 0)
        assert left(tmp_path) == []
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a store"):
        StoreWriter(tmp_path, META)
    assert left(tmp_path) == ["thesis.txt"]


def test_a_store_without_episodes_binds_nobody(tmp_path: Path) -> None:
    """Such as one that an earlier version or a kill has left."""
    write(tmp_path, 2)
    pq.write_table(pq.read_table(tmp_path / "episodes.parquet").slice(0, 0), tmp_path / "episodes.parquet")
    with StoreWriter(tmp_path, DISCRETE) as writer:
        writer.append(np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64))
    assert Store(tmp_path).meta == DISCRETE
    assert not (tmp_path / "states.npy").exists()


def test_a_writer_whose_lock_was_removed_takes_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    take, taken = store_files.take_lock, []

    def late(lock, path: Path) -> None:
        if not taken:
            (path / ".lock").unlink()  # as a writer that stored nothing does
        taken.append(lock)
        take(lock, path)

    monkeypatch.setattr(store_files, "take_lock", late)
    with StoreWriter(tmp_path, META) as writer:
        assert len(taken) == 2
        assert os.path.samestat(os.fstat(writer._lock.fileno()), (tmp_path / ".lock").stat())


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_data_store import META, StoreWriter, append
writer = StoreWriter(Path(sys.argv[1]), META)
while True:
    append(writer, writer.num_episodes)
    print(writer.num_episodes, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    complete = 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "store"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        reported = int(process.stdout.readline())
        assert reported == complete + 1
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            reported = int(line) if line.endswith("\n") else reported
        process.stdout.close()
        process.wait()
        complete = Store(tmp_path / "store").num_episodes
        assert complete in (reported, reported + 1)  # killed between the commit and the report
        check(tmp_path / "store", complete)


def test_two_writers(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    write(tmp_path, 1)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.lockf(f, fcntl.LOCK_EX)"
    hold += "; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ValueError, match="another process") as error:
            StoreWriter(tmp_path, META)
        one_line(error)
        check(tmp_path, 1)
    check(write(tmp_path, 2), 2)


def test_closed_writer(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, META) as writer:
        append(writer, 0)
    with pytest.raises(ValueError, match="closed") as error:
        append(writer, 1)
    one_line(error)


@pytest.mark.parametrize(
    ("field", "value"), [("image_size", 8), ("action_size", 3), ("state_names", ()), ("task", "other"), ("fps", None)]
)
def test_resume_with_other_meta(tmp_path: Path, field: str, value: object) -> None:
    write(tmp_path, 1)
    values = {name: getattr(META, name) for name in META.__slots__ if name != "schema_version"}
    with pytest.raises(ValueError, match=f"^{field}=") as error:
        StoreWriter(tmp_path, StoreMeta(**{**values, field: value}))
    one_line(error)
    check(tmp_path, 1)


def test_resume_adds_what_an_earlier_version_did_not_say(tmp_path: Path) -> None:
    known = dataclasses.replace(META, action_names=("dx", "dy"), origin={"format": "collect", "name": "test"})
    write(tmp_path, 1, dataclasses.replace(META, fps=None, origin={"format": "collect"}))
    with StoreWriter(tmp_path, known) as writer:
        append(writer, 1)
    assert Store(tmp_path).meta == known
    with pytest.raises(ValueError, match=r"^origin=.*: the store has ") as error:
        StoreWriter(tmp_path, dataclasses.replace(known, origin={"format": "record", "name": "test"}))
    one_line(error)
    with pytest.raises(ValueError, match=r"^action_names=\('x', 'y'\): the store has ") as error:
        StoreWriter(tmp_path, dataclasses.replace(known, action_names=("x", "y")))
    one_line(error)


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf"), "10", True])
def test_a_frame_rate_is_a_positive_number(fps: Any) -> None:
    with pytest.raises(ValueError, match=r"^fps=.*: must be frames a second") as error:
        dataclasses.replace(META, fps=fps)
    one_line(error)


def test_writer_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.txt") as error:
        StoreWriter(tmp_path, META)
    one_line(error)
    with pytest.raises(ValueError, match="is a file") as error:
        StoreWriter(tmp_path / "thesis.txt", META)
    one_line(error)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_writer_does_not_start_over_when_the_table_is_lost(tmp_path: Path) -> None:
    path = write(tmp_path, 2)
    (path / "episodes.parquet").unlink()
    with pytest.raises(ValueError, match=r"frames\.npy without episodes\.parquet") as error:
        StoreWriter(path, META)
    one_line(error)
    assert len(np.load(path / "frames.npy")) == 7


FRAMES, ACTIONS, STATES = episode(0)


@pytest.mark.parametrize(
    ("frames", "actions", "states", "message"),
    [
        (FRAMES[:, :3], ACTIONS, STATES, r"^frames=uint8\[3, 3, 4, 3\].*uint8\[3, 4, 4, 3\]"),
        (FRAMES.astype(np.float32), ACTIONS, STATES, "^frames=float32"),
        (FRAMES.astype(np.uint16), ACTIONS, STATES, "^frames=uint16"),
        (FRAMES[:0], ACTIONS[:0], STATES[:0], "^frames: .*at least one"),
        (FRAMES, ACTIONS[:2], STATES, r"^actions=float32\[2, 2\]"),
        (FRAMES, ACTIONS[:, :1], STATES, r"^actions=float32\[3, 1\]"),
        (FRAMES, ACTIONS.astype(np.int64), STATES, r"^actions=int64\[3, 2\]"),
        (FRAMES, ACTIONS, STATES[:, :2], r"^states=float32\[3, 2\]"),
        (FRAMES, ACTIONS, None, "^states: are missing"),
    ],
)
def test_append_rejects_other_shapes(tmp_path: Path, frames, actions, states, message: str) -> None:
    path = write(tmp_path, 1)
    with StoreWriter(path, META) as writer:
        with pytest.raises(ValueError, match=message) as error:
            writer.append(frames, actions, states)
        one_line(error)
    check(path, 1)


def test_append_rejects_unexpected_states_and_real_discrete_actions(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, DISCRETE) as writer:
        with pytest.raises(ValueError, match=r"^states: were given") as error:
            writer.append(FRAMES, np.zeros(3, np.int64), STATES)
        one_line(error)
        with pytest.raises(ValueError, match=r"^actions=float32\[3\]") as error:
            writer.append(FRAMES, np.zeros(3, np.float32))
        one_line(error)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": 4.0}, "image_size"),
        ({"action_kind": "both"}, "action_kind"),
        ({"action_size": -1}, "action_size"),
        ({"state_names": "xy"}, "state_names"),
    ],
)
def test_meta_is_checked(values: dict, field: str) -> None:
    good = {"task": "t", "image_size": 4, "action_kind": "discrete", "action_size": 2}
    with pytest.raises(ValueError, match=f"^{field}=") as error:
        StoreMeta(**{**good, **values})
    one_line(error)


def change_meta(path: Path, **changes: object) -> None:
    meta = {**json.loads((path / "meta.json").read_text()), **changes}
    (path / "meta.json").write_text(json.dumps({name: value for name, value in meta.items() if value != "drop"}))


def cut(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        file.truncate(size)


def write_table(path: Path, **columns: list) -> None:
    columns.setdefault("text", [""] * len(columns["start"]))
    pq.write_table(pa.table(columns), path / "episodes.parquet")


BAD_STORES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no meta": (lambda path: (path / "meta.json").unlink(), "is not a store"),
    "meta not JSON": (lambda path: (path / "meta.json").write_text("{"), r"meta\.json: is not JSON"),
    "meta not text": (lambda path: (path / "meta.json").write_bytes(b"\xff\xfe\x00"), r"meta\.json: is not JSON"),
    "meta a list": (lambda path: (path / "meta.json").write_text("[]"), "must be a JSON object"),
    "schema from the future": (lambda path: change_meta(path, schema_version=99, new=1), "schema_version=99"),
    "no schema": (lambda path: change_meta(path, schema_version="drop"), "schema_version=None"),
    "unknown field": (lambda path: change_meta(path, colour="red"), "unknown field 'colour'"),
    "missing field": (lambda path: change_meta(path, task="drop"), "field 'task' is missing"),
    "bad field": (lambda path: change_meta(path, image_size="big"), "image_size='big'"),
    "bad names": (lambda path: change_meta(path, state_names=3), r"meta\.json: .*state_names"),
    "no table": (lambda path: (path / "episodes.parquet").unlink(), r"episodes\.parquet: missing"),
    "table cut": (lambda path: cut(path / "episodes.parquet", 100), "is not an episode table"),
    "table empty": (lambda path: cut(path / "episodes.parquet", 0), "is not an episode table"),
    "table lacks a column": (lambda path: write_table(path, start=[0], length=[3], seed=[0]), "not an episode table"),
    "table with text": (
        lambda path: write_table(path, start=["a"], length=[3], source=["s"], seed=[0]),
        "not an episode table",
    ),
    "table with a gap": (
        lambda path: write_table(path, start=[0, 4], length=[3, 3], source=["", ""], seed=[0, 0]),
        "without gaps",
    ),
    "table with a null": (
        lambda path: write_table(path, start=[0, None], length=[3, 3], source=["", ""], seed=[0, 0]),
        "empty cells",
    ),
    "no frames": (lambda path: (path / "frames.npy").unlink(), r"frames\.npy: missing"),
    "frames empty": (lambda path: cut(path / "frames.npy", 0), r"frames\.npy: is not a NumPy array"),
    "frames truncated": (lambda path: cut(path / "frames.npy", 200), r"frames\.npy: truncated, it has 1 rows .* 12"),
    "one byte short": (
        lambda path: cut(path / "states.npy", (path / "states.npy").stat().st_size - 1),
        r"states\.npy: truncated, it has 11 rows",
    ),
    "actions of another length": (
        lambda path: np.save(path / "actions.npy", np.zeros((11, 2), np.float32)),
        r"actions\.npy: truncated, it has 11 rows",
    ),
    "frames of another size": (
        lambda path: np.save(path / "frames.npy", np.zeros((12, 8, 8, 3), np.uint8)),
        r"frames\.npy: holds uint8\[12, 8, 8, 3\].*uint8\[T, 4, 4, 3\]",
    ),
    "frames of another type": (
        lambda path: np.save(path / "frames.npy", np.zeros((12, 4, 4, 3), np.float32)),
        r"frames\.npy: holds float32",
    ),
    "actions of another rank": (
        lambda path: np.save(path / "actions.npy", np.zeros(12, np.float32)),
        r"actions\.npy: holds float32\[12\].*float32\[T, 2\]",
    ),
    "Fortran order": (
        lambda path: np.save(path / "frames.npy", np.zeros((12, 4, 4, 3), np.uint8, order="F")),
        r"frames\.npy: holds",
    ),
}


@pytest.mark.parametrize("name", BAD_STORES)
def test_bad_store(tmp_path: Path, name: str) -> None:
    spoil, message = BAD_STORES[name]
    path = write(tmp_path, 3)
    spoil(path)
    with pytest.raises(ValueError, match=message) as error:
        Store(path)
    assert str(path) in one_line(error)


def test_missing_and_empty_store(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match="is not a store") as error:
            Store(path)
        one_line(error)
    path = write(tmp_path / "empty", 1)
    pq.write_table(pq.read_table(path / "episodes.parquet").slice(0, 0), path / "episodes.parquet")
    with pytest.raises(ValueError, match="no complete episode") as error:
        Store(path)
    one_line(error)


def spoil_value(path: Path, name: str, row: int, value: float) -> None:
    array = np.load(path / f"{name}.npy", mmap_mode="r+")
    array.reshape(len(array), -1)[row, -1] = value
    array.flush()


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("actions", 8, np.nan, r"actions not finite in 1 of 3 episodes, first at frame 1 of episode 2"),
        ("actions", 2, -np.inf, r"actions not finite in 1 of 3 episodes, first at frame 2 of episode 0"),
        ("states", 3, np.inf, r"states not finite in 1 of 3 episodes, first at frame 0 of episode 1"),
    ],
)
def test_validate_finds_values_that_are_not_finite(
    tmp_path: Path, name: str, row: int, value: float, message: str
) -> None:
    path = write(tmp_path, 3)
    Store(path).validate()
    spoil_value(path, name, row, value)
    with pytest.raises(ValueError, match=message) as error:
        Store(path).validate()
    assert f"{name}.npy" in one_line(error)


@pytest.mark.parametrize("value", [-1, 5])
def test_validate_finds_discrete_actions_out_of_range(tmp_path: Path, value: int) -> None:
    with StoreWriter(tmp_path, DISCRETE) as writer:
        for _ in range(2):
            writer.append(np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 4, 2]))
    spoil_value(tmp_path, "actions", 4, value)
    with pytest.raises(ValueError, match=r"actions outside 0 to 4 .* frame 1 of episode 1") as error:
        Store(tmp_path).validate()
    one_line(error)


@pytest.mark.parametrize(
    ("num_episodes", "held_out", "expected"), [(10, 0.1, 1), (10, 0.25, 2), (200, 0.1, 20), (2, 0.01, 1), (3, 0.99, 2)]
)
def test_split(num_episodes: int, held_out: float, expected: int) -> None:
    train, test = split_episodes(num_episodes, held_out=held_out, seed=3)
    assert train.dtype == test.dtype == np.int64
    assert len(test) == expected
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    assert sorted([*train, *test]) == list(range(num_episodes))
    again = split_episodes(num_episodes, held_out=held_out, seed=3)
    np.testing.assert_array_equal(train, again[0])
    np.testing.assert_array_equal(test, again[1])


def test_split_depends_on_the_seed() -> None:
    splits = {tuple(split_episodes(100, held_out=0.1, seed=seed)[1]) for seed in range(5)}
    assert len(splits) == 5


@pytest.mark.parametrize(("num_episodes", "held_out"), [(1, 0.1), (0, 0.1), (10, 0.0), (10, 1.0), (10, -0.2)])
def test_bad_split(num_episodes: int, held_out: float) -> None:
    with pytest.raises(ValueError, match=r"^(num_episodes|held_out)=") as error:
        split_episodes(num_episodes, held_out=held_out, seed=0)
    one_line(error)


def grouped(path: Path, groups: Sequence[int | None]) -> Store:
    """Write a store of one-frame episodes in these groups."""
    with StoreWriter(path, StoreMeta(task="arm", image_size=8, action_kind="continuous", action_size=2)) as writer:
        for group in groups:
            writer.append(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 2), np.float32), group=group)
    return Store(path)


def test_a_group_is_held_out_whole(tmp_path: Path) -> None:
    few = grouped(tmp_path / "few", [3, 0, 1, 2, 0, 1])
    many = grouped(tmp_path / "many", [0, 1, 2, 3] * 25)
    for seed in range(8):
        held = []
        for store in (few, many):
            train, test = store.split(held_out=0.3, seed=seed)
            assert train.dtype == test.dtype == np.int64
            assert sorted([*train, *test]) == list(range(store.num_episodes))
            inside, outside = (set(store.episodes.group[part].tolist()) for part in (train, test))
            assert (len(outside), inside & outside) == (1, set())
            held.append(outside)
        assert held[0] == held[1]  # the same ones, however many episodes there are of each
    one = grouped(tmp_path / "one", [7, 7, 7])
    with pytest.raises(ValueError, match=r"^group: all 3 episodes are of one, and a split needs at least 2; [^\n]*$"):
        one.split(held_out=0.1, seed=0)


def test_episodes_without_a_group_are_split_as_ever(tmp_path: Path) -> None:
    store = grouped(tmp_path / "none", [None] * 20)
    assert (store.episodes.group < 0).all()
    assert len(set(store.episodes.group.tolist())) == 20
    mixed = grouped(tmp_path / "mixed", [None, 5, None, 5])
    assert (mixed.episodes.group[1], mixed.episodes.group[3]) == (5, 5)
    assert len(set(mixed.episodes.group.tolist())) == 3
    for seed in range(3):
        train, test = store.split(held_out=0.2, seed=seed)
        order = np.random.default_rng(seed).permutation(20)  # as before there were groups
        np.testing.assert_array_equal(test, np.sort(order[:4]))
        np.testing.assert_array_equal(train, split_episodes(20, held_out=0.2, seed=seed)[0])


def test_a_table_of_before_there_were_groups_is_read_and_continued(tmp_path: Path) -> None:
    path = grouped(tmp_path / "store", [None, None]).path
    table = pq.read_table(path / "episodes.parquet").drop_columns(["group"])
    pq.write_table(table, path / "episodes.parquet")
    assert (Store(path).episodes.group < 0).all()
    assert grouped(path, [4]).episodes.group.tolist()[2] == 4


def test_a_bad_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^group=-1: must not be negative; "):
        grouped(tmp_path / "bad", [-1])
    path = grouped(tmp_path / "store", [1, 1]).path
    table = pq.read_table(path / "episodes.parquet")
    place = table.schema.get_field_index("group")
    pq.write_table(table.set_column(place, "group", [pa.array([1, -3])]), path / "episodes.parquet")
    with pytest.raises(ValueError, match=r"episodes\.parquet: has a group below 0, -3; ") as error:
        Store(path)
    one_line(error)


def test_control_mode_is_written_into_a_store(tmp_path: Path) -> None:
    meta = StoreMeta(task="arm", image_size=8, action_kind="continuous", action_size=2)
    with StoreWriter(tmp_path / "s", meta) as writer:
        writer.append(np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 2)))
    changed = set_control_mode(tmp_path / "s", "position", "given")
    assert Store(tmp_path / "s").meta == changed
    assert (changed.control_mode, changed.control_evidence) == ("position", "given")
    with StoreWriter(tmp_path / "s", meta) as writer:  # more episodes may come from who does not know it
        writer.append(np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 2)))
    assert Store(tmp_path / "s").meta.control_mode == "position"
    with pytest.raises(ValueError, match=r"control_mode='torque': must be"):
        set_control_mode(tmp_path / "s", "torque", "given")
    with pytest.raises(ValueError, match="is not a store"):
        set_control_mode(tmp_path / "t", "position", "given")


def test_control_mode_is_of_continuous_actions() -> None:
    with pytest.raises(ValueError, match=r"control_mode='velocity': is of continuous actions"):
        StoreMeta(task="", image_size=8, action_kind="discrete", action_size=2, control_mode="velocity")
