"""The episode table of a LeRobot data set: which episodes there are, and in which files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.importers.lerobot_files import DataFile, exists, find, matching, read_json_lines
from lewm.data.importers.lerobot_meta import CHUNKS, MAX_EPISODES, MAX_TEXT, Meta
from lewm.data.importers.lerobot_rows import BAD_TABLE, to_numpy, unreadable
from lewm.data.importers.listing import is_hidden_path

_LINES = "meta/episodes.jsonl"
_TABLES = "meta/episodes"


@dataclass(frozen=True, slots=True)
class Episodes:
    """The episodes in the order of their numbers.

    Args:
        numbers: (E,) int64, ascending.
        lengths: (E,) float64, frames as far as the table says so, NaN where it does not.
        tasks: of each episode, a list of texts.
        places: (E,) float64 by column, NaN where missing: the files of an episode and its times in them, v3 only.
        problems: what of the table cannot be read, one line each.
        notes: what else is odd about it.
    """

    numbers: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.float64]
    tasks: list[object] | pa.Array
    places: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self, index: int) -> str:
        """Return the task of an episode in words, as far as the table says so."""
        try:
            tasks = self.tasks[index] if isinstance(self.tasks, list) else self.tasks.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            return ""
        texts = tasks if isinstance(tasks, list) else [tasks]
        text = "; ".join(text for text in texts if isinstance(text, str))[:MAX_TEXT]
        return text.encode(errors="replace").decode()

    def place(self, index: int, column: str) -> float | None:
        """Return a finite entry of the table, or None."""
        value = float(self.places[column][index]) if column in self.places else np.nan
        return value if np.isfinite(value) else None


def read_episodes(root: Path, meta: Meta, videos: Sequence[str]) -> Episodes:
    """Read the episode table.

    Args:
        root: folder of the data set.
        meta: what `meta/info.json` says.
        videos: the declared cameras.

    Raises:
        ValueError: it lists no episode.
    """
    return _read_tables(root, videos) if meta.is_v3 else _read_lines(root, meta)


def _read_lines(root: Path, meta: Meta) -> Episodes:
    """Read the table of v2: JSON, a line an episode. Where it is missing or damaged, the data files tell as much."""
    rows: dict[int, dict[str, object]] = {}
    notes: list[str] = []
    if exists(root, _LINES):
        bad = doubles = 0
        for row in read_json_lines(find(root, _LINES), MAX_EPISODES):
            number = row.get("episode_index") if isinstance(row, dict) else None
            if isinstance(row, str) or type(number) is not int or not 0 <= number < 2**53:
                bad += 1
                continue
            doubles += number in rows
            rows[number] = row  # the last one is LeRobot's as well
        if bad:
            notes.append(f"{_LINES}: {bad} lines cannot be read; the data files say which episodes there are")
        if doubles:
            notes.append(f"{_LINES}: {doubles} lines name an episode again; the last line counts")
    else:
        notes.append(f"{_LINES}: is missing; the data files say which episodes there are")
    if not rows or any("cannot be read" in note for note in notes):
        for number in matching(root, meta.data_path, "episode_index")[:MAX_EPISODES]:
            rows.setdefault(number, {})
    if not rows:
        raise ValueError(f"{_LINES}: lists no episode, and there is no data file; copy the data set again")
    numbers = sorted(rows)
    lengths = [length if type(length := rows[number].get("length")) is int else -1 for number in numbers]
    return Episodes(
        numbers=np.array(numbers, dtype=np.int64),
        lengths=np.array([length if 0 < length < 2**53 else np.nan for length in lengths]),
        tasks=[rows[number].get("tasks") for number in numbers],
        notes=tuple(notes),
    )


def _read_tables(root: Path, videos: Sequence[str]) -> Episodes:
    """Read the table of v3, which is in one or many Parquet files."""
    wanted = [f"data/{name}" for name in CHUNKS]
    wanted += [f"videos/{key}/{name}" for key in videos for name in (*CHUNKS, "from_timestamp", "to_timestamp")]
    parts: list[dict[str, npt.NDArray[np.float64]]] = []
    texts: list[pa.Array] = []
    problems: list[str] = []
    paths = (path.relative_to(root) for path in (root / _TABLES).glob("*/*.parquet"))
    for name in sorted(path.as_posix() for path in paths if not is_hidden_path(path.as_posix())):
        try:
            part, tasks = _read_part(find(root, name), ["episode_index", "length", *wanted])
        except ValueError as error:
            problems.append(str(error))
            continue
        parts.append(part)
        texts.append(tasks)
    numbers = np.concatenate([np.zeros(0), *(part["episode_index"] for part in parts)])
    good = np.flatnonzero((numbers >= 0) & (numbers < 2**53) & (numbers == np.floor(numbers)))
    if len(good) < len(numbers):
        problems.append(f"{_TABLES}: episode_index is missing in {len(numbers) - len(good)} rows; repair the table")
    if not len(good):
        reason = f"{_TABLES}: has no table of episodes; copy the data set again"
        raise ValueError(problems[0] if problems else reason)
    # Of several rows for one episode the last counts.
    unique, last = np.unique(numbers[good][::-1], return_index=True)
    rows = good[::-1][last]
    doubles = len(good) - len(rows)
    columns = {name: np.concatenate([part[name] for part in parts])[rows] for name in ["length", *wanted]}
    lengths = columns.pop("length")
    return Episodes(
        numbers=unique.astype(np.int64),
        lengths=np.where(lengths > 0, lengths, np.nan),
        tasks=pa.concat_arrays(texts).take(pa.array(rows)),
        places=columns,
        problems=tuple(problems),
        notes=(f"{_TABLES}: {doubles} rows name an episode again; the last row counts",) if doubles else (),
    )


def _read_part(file: DataFile, wanted: Sequence[str]) -> tuple[dict[str, npt.NDArray[np.float64]], pa.Array]:
    """Return the wanted columns of a table as numbers, NaN where there are none, and its texts."""
    kind = pa.list_(pa.string())
    try:
        with pq.ParquetFile(file.path) as opened:
            if opened.metadata.num_rows > MAX_EPISODES:
                raise ValueError(f"{file}: has more than {MAX_EPISODES} rows; split the data set")
            names = [name for name in (*wanted, "tasks") if name in opened.schema_arrow.names]
            table = opened.read(columns=names, use_threads=False).combine_chunks()
    except BAD_TABLE as error:
        raise unreadable(file, error) from error
    empty = np.full(table.num_rows, np.nan)
    part = {name: _as_numbers(table[name]) if name in table.column_names else empty for name in wanted}
    try:
        tasks = table["tasks"].cast(kind).combine_chunks()
    except (KeyError, pa.ArrowException):
        tasks = pa.nulls(table.num_rows, kind)
    return part, tasks


def _as_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    try:
        return to_numpy(column.cast(pa.float64(), safe=False).combine_chunks().fill_null(np.nan)).astype(np.float64)
    except pa.ArrowException:
        return np.full(len(column), np.nan)
