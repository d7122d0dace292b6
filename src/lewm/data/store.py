"""The clip store: everything that is trained on, in one folder that NumPy opens without this package.

    meta.json          what the data is, with a schema version
    frames.npy         (T, height, width, 3) uint8, the frames of all episodes one after the other
    actions.npy        (T, A) float32, or (T,) int64 for discrete actions; none for images without actions
    states.npy         (T, S) float32, only when the task knows its state
    episodes.parquet   one row an episode: start, length, source, seed, text, group

An episode of L frames has L actions: action t is taken at frame t, and the last one leads out of the episode. The
episode table is the truth. The arrays grow first and the table is then replaced in one step, so that an episode is in
the store completely or not at all, whenever the writer is killed.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lewm.config import ControlMode
from lewm.config.checks import shown
from lewm.data.store_files import (
    EPISODES,
    HEADER_BYTES,
    LOCK,
    META,
    TABLE_SCHEMA,
    array_header,
    check_array,
    count_frames,
    describe_array,
    open_array,
    open_lock,
    read_table,
    remove_empty,
    replace_file,
    row_bytes,
    table_bytes,
    take_lock,
    write_all,
    write_rows,
)
from lewm.files import plain_os_error, shorten

SCHEMA_VERSION = 1

_ARRAYS = ("frames", "actions", "states")
_LONGEST_VALUE = 70  # characters of a field in an error
_MOST = 2**16  # of pixels along a side, and of entries of a continuous action: more is a mistake
_KEPT = "the complete episodes in it are safe"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreMeta:
    """Describe the data of a store; saved as `meta.json`."""

    task: str
    """Name of the task or robot."""
    image_size: int
    """Height and width of a frame in pixels."""
    action_kind: Literal["continuous", "discrete", "none"]
    """Real vectors, one integer out of `action_size`, or none: frames that are images of their own."""
    action_size: int
    """A: length of the action vector, the number of discrete actions, or 0 for none."""
    action_names: tuple[str, ...] = ()
    """Names of the entries of a continuous action; empty when they have none."""
    control_mode: ControlMode = "unknown"
    """What a continuous action commands: where to be, how far to move from here, or how fast to move."""
    control_evidence: str = ""
    """How the control mode is known, in a few words: given, or what it was guessed from."""
    state_names: tuple[str, ...] = ()
    """Names of the S state variables; empty when states are not stored."""
    fps: float | None = None
    """Frames a second, where time is real; None if that is not known."""
    source: str = ""
    """Where the data comes from."""
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else the source said, as JSON: `format` and `name` of what it was; of an import its cameras and settings."""
    schema_version: int = dataclasses.field(default=SCHEMA_VERSION, init=False)
    """Version of the layout on disk."""

    def __post_init__(self) -> None:
        for field in ("task", "control_evidence", "source"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field}={shown(getattr(self, field), repr)}: must be a text; give a few words")
        if not _is_count(self.image_size):
            raise ValueError(
                f"image_size={shown(self.image_size, repr)}: must be a positive integer; give the frames' side"
            )
        if self.action_kind not in ("continuous", "discrete", "none"):
            raise ValueError(
                f"action_kind={shown(self.action_kind, repr)}: unknown; use 'continuous', 'discrete' or 'none'"
            )
        if self.action_kind == "none":
            if self.action_size != 0:
                raise ValueError(
                    f"action_size={shown(self.action_size, repr)}: must be 0 where there are no actions; use 0"
                )
        elif not _is_count(self.action_size, most=sys.maxsize if self.action_kind == "discrete" else _MOST):
            raise ValueError(
                f"action_size={shown(self.action_size, repr)}: must be a positive integer; give the actions' size"
            )
        if self.control_mode not in get_args(ControlMode):
            raise ValueError(
                f"control_mode={shown(self.control_mode, repr)}: must be 'position', 'displacement' or 'velocity'; use "
                "'unknown' if none is known"
            )
        if self.control_mode != "unknown" and self.action_kind != "continuous":
            raise ValueError(
                f"control_mode={self.control_mode!r}: is of continuous actions, and these are {self.action_kind}; "
                "leave it out"
            )
        if self.fps is not None and not (_is_number(self.fps) and 0 < self.fps <= sys.float_info.max):
            raise ValueError(
                f"fps={shown(self.fps, repr)}: must be frames a second, more than 0; leave it out if it is not known"
            )
        for field in ("state_names", "action_names"):
            names = getattr(self, field)
            if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{field}={shown(names, repr)}: must be a tuple of names; give one name a variable")
            object.__setattr__(self, field, tuple(names))  # JSON has lists only
        if self.action_names and (self.action_kind != "continuous" or len(self.action_names) != self.action_size):
            raise ValueError(
                f"action_names={shown(self.action_names, repr)}: must name each of the {self.action_size} entries of a "
                "continuous action; correct the names or leave them out"
            )
        try:
            # As it is read back, so that what was written equals what is there.
            object.__setattr__(self, "origin", json.loads(json.dumps(dict(self.origin), allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"origin: must be an object of JSON values ({shown(error)}); leave out what is not"
            ) from error


@dataclass(frozen=True, slots=True)
class Episodes:
    """The episode table, one entry an episode.

    Args:
        start: (E,) int64, index of the first frame.
        length: (E,) int64, number of frames.
        source: where each episode comes from.
        seed: (E,) int64, the seed it was collected with, or the episode's number in the recording it comes from.
        text: the task of each episode in words, or nothing.
        group: (E,) int64, what each episode was made from, such as a demonstration: training and evaluation never
            share a group. An episode that was given none has a negative number, which no other has.
    """

    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    source: list[str]
    seed: npt.NDArray[np.int64]
    text: list[str]
    group: npt.NDArray[np.int64]


class Store:
    """Open a store for reading.

    The arrays are read-only memory maps cut to the complete episodes, whatever a writer has left behind them. Shapes,
    types and lengths are checked here; `validate` also reads the values.

    Args:
        path: folder of the store.

    Raises:
        ValueError: the store is missing, empty, truncated, or of another layout.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / META).is_file():
            raise ValueError(f"{self.path}: is not a store (no {META}); collect or import data into it first")
        self.meta: StoreMeta = _read_meta(self.path / META)
        table = read_table(self.path / EPISODES)
        start, length, seed = (table[name].to_numpy() for name in ("start", "length", "seed"))
        source, text = table["source"].to_pylist(), table["text"].to_pylist()
        self.num_episodes: int = len(start)
        own = pa.array(np.arange(self.num_episodes) - self.num_episodes)  # below 0, in the order of the episodes
        group = pc.coalesce(table["group"].combine_chunks(), own).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        self.episodes: Episodes = Episodes(start=start, length=length, source=source, seed=seed, text=text, group=group)
        self.num_frames: int = int(length.sum())
        if self.num_episodes == 0:
            raise ValueError(f"{self.path}: holds no complete episode; collect or import data into it first")
        arrays = {
            name: open_array(self.path / f"{name}.npy", dtype, row, self.num_frames)
            for name, (dtype, row) in _layout(self.meta).items()
        }
        self.frames: npt.NDArray[np.uint8] = arrays["frames"]
        self.actions: npt.NDArray[np.float32] | npt.NDArray[np.int64] = arrays.get(
            "actions", np.empty((self.num_frames, 0), dtype=np.float32)
        )
        self.states: npt.NDArray[np.float32] | None = arrays.get("states")

    def episode(self, index: int) -> slice:
        """Return the frames of one episode as a slice of the arrays.

        Args:
            index: number of the episode, from 0.

        Raises:
            ValueError: there is no such episode.
        """
        if not 0 <= index < self.num_episodes:
            raise ValueError(f"episode={index}: {self.path} has {self.num_episodes}; use 0 to {self.num_episodes - 1}")
        start = int(self.episodes.start[index])
        return slice(start, start + int(self.episodes.length[index]))

    def split(self, *, held_out: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Split the episodes, whole groups of them, into those for training and those held out; see `split_episodes`.

        Raises:
            ValueError: as `split_episodes`.
        """
        return split_episodes(self.num_episodes, held_out=held_out, seed=seed, group=self.episodes.group)

    def validate(self) -> None:
        """Check the values that training relies on: finite actions and states, discrete actions in range.

        Raises:
            ValueError: the first bad value, with its episode and its frame in that episode.
        """
        if self.meta.action_kind == "continuous":
            self._reject("actions", ~np.isfinite(self.actions), "not finite")
        elif self.meta.action_kind == "discrete":
            bad = (self.actions < 0) | (self.actions >= self.meta.action_size)
            self._reject("actions", bad, f"outside 0 to {self.meta.action_size - 1}")
        if self.states is not None:
            self._reject("states", ~np.isfinite(self.states), "not finite")

    def _reject(self, name: str, bad: npt.NDArray[np.bool_], what: str) -> None:
        rows = np.flatnonzero(bad.reshape(self.num_frames, -1).any(axis=1))
        if rows.size == 0:
            return
        episodes = np.searchsorted(self.episodes.start, rows, side="right") - 1
        first = int(episodes[0])
        raise ValueError(
            f"{self.path / name}.npy: {name} {what} in {np.unique(episodes).size} of {self.num_episodes} episodes, "
            f"first at frame {rows[0] - self.episodes.start[first]} of episode {first}; repair or leave out episodes"
        )


def same_meta(stored: StoreMeta, new: StoreMeta) -> StoreMeta:
    """Return the metadata of a store that goes on with data of the same description; the control mode may differ.

    Action names, frame rate and entries of `origin` that the store lacks, as those of earlier versions do, are added.

    Raises:
        ValueError: anything else differs; it names the first field.
    """
    added: dict[str, Any] = {}
    for field in dataclasses.fields(StoreMeta):
        if field.name in ("control_mode", "control_evidence"):
            continue  # they may be guessed or given after the first episodes are there; see `set_control_mode`
        old, wanted = getattr(stored, field.name), getattr(new, field.name)
        if old == wanted:
            continue
        lacks = field.name in ("action_names", "fps") and not old
        if lacks or (field.name == "origin" and wanted | old == wanted):
            added[field.name] = wanted
            continue
        raise ValueError(differs(field.name, old, wanted))
    return dataclasses.replace(stored, **added)


def differs(name: str, old: object, new: object) -> str:
    """Say that a store does not go on because something of the data has changed, both shortened."""
    return (
        f"{name}={shorten(repr(new), _LONGEST_VALUE)}: the store has {shorten(repr(old), _LONGEST_VALUE)}; append the "
        "same kind of data or give another folder"
    )


class StoreWriter:
    """Append complete episodes to a new store, or to one that is already there.

    Each `append` is one transaction: a kill at any moment, or a full disk, leaves a store with every episode that was
    appended before, and opening the writer again goes on from there. One writer at a time may have a store open. The
    files are made by the first `append`: a writer that stored nothing leaves nothing behind, and a store without
    episodes binds nobody.

    Args:
        path: folder of the store; made if missing.
        meta: what the data is.
        go_on: from the metadata of a store that has episodes and `meta`, returns those that the store gets with its
            next episode, or raises; by default they must be equal.

    Raises:
        ValueError: the folder holds something else, or a store of other data, or another writer is at work.
        OSError: the store could not be written.
    """

    def __init__(
        self, path: str | Path, meta: StoreMeta, *, go_on: Callable[[StoreMeta, StoreMeta], StoreMeta] = same_meta
    ) -> None:
        self.path = Path(path)
        self.meta = meta
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path}: is a file; give the folder of a store")
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        with contextlib.ExitStack() as stack, plain_os_error(self.path, _KEPT):
            stack.callback(remove_empty, made)
            self.path.mkdir(parents=True, exist_ok=True)
            had_lock = (self.path / LOCK).exists()
            self._lock = stack.enter_context(open_lock(self.path))
            try:
                self._table: pa.Table = self._open(go_on)
                if self.num_episodes:
                    self._trim()
            except BaseException:
                if not had_lock:
                    (self.path / LOCK).unlink()
                raise
            self._prepared = False
            stack.callback(self._clear)
            self._stack = stack.pop_all()

    @property
    def num_episodes(self) -> int:
        """Complete episodes in the store."""
        return self._table.num_rows

    @property
    def num_frames(self) -> int:
        """Frames of the complete episodes."""
        return count_frames(self._table)

    def append(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.ArrayLike,
        states: npt.ArrayLike | None = None,
        *,
        source: str = "",
        seed: int = 0,
        text: str = "",
        group: int | None = None,
    ) -> None:
        """Write one complete episode.

        Values are stored as they are; `Store.validate` says what is wrong with them.

        Args:
            frames: (L, height, width, 3) uint8.
            actions: (L, A) real, (L,) integer for discrete actions, or (L, 0) for none; the last one leads out of the
                episode.
            states: (L, S) real; given exactly when the store has state names.
            source: where the episode comes from.
            seed: the seed it was collected with, or its number in the recording it comes from.
            text: its task in words.
            group: number, from 0, of what several episodes were made from, so that they are held out together.

        Raises:
            ValueError: a shape or type differs from the store's, or the group is below 0.
            OSError: the disk is full, or could not be written; the episode is not in the store, all others are.
        """
        if self._lock.closed:
            raise ValueError(f"{self.path}: this writer is closed; open a new one to append")
        rows = self._checked(frames, actions, states)
        if group is not None and group < 0:
            raise ValueError(f"group={group}: must not be negative; number groups from 0, or leave it out")
        start, length = self.num_frames, len(rows["frames"])
        added = {"start": [start], "length": [length], "source": [source], "seed": [int(seed)], "text": [text]}
        added["group"] = [group]
        table = pa.concat_tables([self._table, pa.table(added, schema=TABLE_SCHEMA)]).combine_chunks()
        with plain_os_error(self.path, _KEPT):
            try:
                self._prepare()
                for name, values in rows.items():
                    write_rows(self.path / f"{name}.npy", values, start)
                replace_file(self.path / EPISODES, table_bytes(table))
            except OSError:
                # Only gives the space back: what lies behind the table's last episode is never read.
                with contextlib.suppress(OSError):
                    self._trim()
                raise
        self._table = table

    def close(self) -> None:
        """Let another writer open the store."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, go_on: Callable[[StoreMeta, StoreMeta], StoreMeta]) -> pa.Table:
        """Check what is there, take over its metadata, and return the episode table."""
        meta_path, table_path = self.path / META, self.path / EPISODES
        if not meta_path.is_file():
            if names := [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]:
                raise ValueError(
                    f"{self.path}: has {names[0]!r} but no {META}, so is not a store; give an empty folder"
                )
            return TABLE_SCHEMA.empty_table()
        stored = _read_meta(meta_path)
        if not table_path.is_file():
            for name in _ARRAYS:
                path = self.path / f"{name}.npy"
                if path.is_file() and path.stat().st_size > HEADER_BYTES:
                    raise ValueError(f"{self.path}: {path.name} without {EPISODES}; restore it or give another folder")
            return TABLE_SCHEMA.empty_table()
        table = read_table(table_path)
        if table.num_rows == 0:
            return table
        for name, (dtype, row) in _layout(stored).items():
            path = self.path / f"{name}.npy"
            if check_array(path, dtype, row, count_frames(table)) != HEADER_BYTES:
                raise ValueError(f"{path}: has another header than this writer's; append its episodes to a new store")
        self.meta = go_on(stored, self.meta)
        assert _layout(self.meta) == _layout(stored)
        return table

    def _prepare(self) -> None:
        """Write what must be there before an episode: the table last, because it says that the arrays are there."""
        if self._prepared:
            return
        meta_path = self.path / META
        if not (meta_path.is_file() and _read_meta(meta_path) == self.meta):
            _write_meta(meta_path, self.meta)
        if self.num_episodes == 0:
            for name in _ARRAYS:
                (self.path / f"{name}.npy").unlink(missing_ok=True)
            for name, (dtype, row) in _layout(self.meta).items():
                replace_file(self.path / f"{name}.npy", array_header(dtype, (0, *row)))
            replace_file(self.path / EPISODES, table_bytes(self._table))
        self._prepared = True

    def _clear(self) -> None:
        """Remove what there is of a store without episodes, down to the lock."""
        if self.num_episodes == 0:
            for name in (EPISODES, *(f"{name}.npy" for name in _ARRAYS), META, LOCK):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()

    def _trim(self) -> None:
        """Cut the arrays to the complete episodes."""
        for name, (dtype, row) in _layout(self.meta).items():
            with open(self.path / f"{name}.npy", "r+b", buffering=0) as file:
                write_all(file, 0, array_header(dtype, (self.num_frames, *row)))
                file.truncate(HEADER_BYTES + self.num_frames * row_bytes(dtype, row))

    def _checked(
        self, frames: npt.NDArray[np.uint8], actions: npt.ArrayLike, states: npt.ArrayLike | None
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the episode's arrays as they are stored, or say what does not fit."""
        given: dict[str, npt.NDArray[Any]] = {"frames": np.asarray(frames), "actions": np.asarray(actions)}
        if states is not None:
            given["states"] = np.asarray(states)
        layout = _layout(self.meta)
        if self.meta.action_kind == "none":
            shape = given.pop("actions").shape
            if shape != (len(given["frames"]), 0):
                raise ValueError(f"actions={shape}: the store {self.path} has none; give an array (L, 0)")
        for name in layout.keys() ^ given.keys():
            has, but = ("no states", "were given") if name in given else (f"{layout[name][1][0]} states", "are missing")
            raise ValueError(f"{name}: {but}, and the store {self.path} has {has}; make state_names and states agree")
        length = len(given["frames"]) if given["frames"].ndim else 0
        if length == 0:
            raise ValueError("frames: an episode has at least one frame; leave out empty episodes")
        rows = {}
        for name, (dtype, row) in layout.items():
            values = given[name]
            # Any real type becomes float32 and any integer int64; frames of another type would have another scale.
            kinds = {"u": "u", "f": "f", "i": "iu"}[dtype.kind]
            fits = values.dtype.kind in kinds and (name != "frames" or values.dtype == dtype)
            if values.shape != (length, *row) or not fits:
                raise ValueError(
                    f"{name}={describe_array(values.dtype, values.shape)}: the store {self.path} takes "
                    f"{describe_array(dtype, (length, *row))}; convert the episode"
                )
            rows[name] = np.ascontiguousarray(values, dtype=dtype)
        return rows


def split_episodes(
    num_episodes: int, *, held_out: float, seed: int, group: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split episodes into those for training and those held out, fixed by the seed.

    Stores that have the same groups hold out the same ones, however many episodes they have of each.

    Args:
        num_episodes: episodes of the store.
        held_out: share of the groups that is held out, between 0 and 1; at least one falls on either side.
        seed: seed of the split.
        group: (E,) the group of each episode; None makes each its own.

    Returns:
        Training episodes and held-out episodes: sorted int64 arrays.

    Raises:
        ValueError: fewer than two episodes or groups, or a share that is not between 0 and 1.
    """
    if num_episodes < 2:
        raise ValueError(f"num_episodes={num_episodes}: a split needs at least 2; collect more episodes")
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"held_out={held_out}: must lie between 0 and 1; use 0.1")
    each, member = np.unique(np.arange(num_episodes) if group is None else group, return_inverse=True)
    groups = len(each)
    if groups < 2:
        raise ValueError(f"group: all {num_episodes} episodes are of one, and a split needs at least 2; add others")
    count = min(max(round(held_out * groups), 1), groups - 1)
    order = np.random.default_rng(seed).permutation(groups)
    out = np.isin(member, order[:count])
    return np.flatnonzero(~out), np.flatnonzero(out)


def _is_count(value: object, *, most: int = _MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _layout(meta: StoreMeta) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return type and shape of one row for every array of the store."""
    layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "frames": (np.dtype("u1"), (meta.image_size, meta.image_size, 3)),
    }
    if meta.action_kind == "continuous":
        layout["actions"] = (np.dtype("<f4"), (meta.action_size,))
    elif meta.action_kind == "discrete":
        layout["actions"] = (np.dtype("<i8"), ())
    if meta.state_names:
        layout["states"] = (np.dtype("<f4"), (len(meta.state_names),))
    return layout


def frame_bytes(meta: StoreMeta) -> int:
    """Return what a frame takes on disk, with its action and state."""
    return sum(row_bytes(dtype, row) for dtype, row in _layout(meta).values())


def _read_meta(path: Path) -> StoreMeta:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); restore it or write the store again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must be a JSON object; restore it or write the store again")
    # The version first: another version may well have other fields.
    version = values.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version={shown(version, repr)}, but this version reads {SCHEMA_VERSION}; update the "
            "package or write the store again"
        )
    fields = {field.name: field for field in dataclasses.fields(StoreMeta) if field.init}
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"{path}: unknown field {shown(unknown[0], repr)}; remove it")
    required = {name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING}
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{path}: field {missing[0]!r} is missing; add it")
    try:
        return StoreMeta(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _write_meta(path: Path, meta: StoreMeta) -> None:
    replace_file(path, json.dumps(dataclasses.asdict(meta), indent=2).encode() + b"\n")


def set_control_mode(path: str | Path, control_mode: str, evidence: str) -> StoreMeta:
    """Write into a store what its continuous actions command, and how that is known.

    Args:
        path: folder of the store.
        control_mode: "position", "displacement", "velocity" or "unknown".
        evidence: "given", or what it was guessed from, in a few words.

    Returns:
        The store's new metadata.

    Raises:
        ValueError: there is no such control mode, the actions are not continuous, or the store is missing or locked.
    """
    folder = Path(path)
    if not (folder / META).is_file():
        raise ValueError(f"{folder}: is not a store (no {META}); collect or import data into it first")
    with plain_os_error(folder, _KEPT), open(folder / LOCK, "wb") as lock:
        take_lock(lock, folder)
        changes: dict[str, Any] = {"control_mode": control_mode, "control_evidence": evidence}
        meta = dataclasses.replace(_read_meta(folder / META), **changes)
        _write_meta(folder / META, meta)
    return meta
