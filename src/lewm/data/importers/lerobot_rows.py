"""The tables of a LeRobot data set: where the rows of one episode are in a file, and what they hold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.importers.lerobot_files import DataFile, clipped, line_of

BAD_TABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
MAX_FRAMES = 2**24  # of an episode
_EPISODE, _FRAME, _TIME = "episode_index", "frame_index", "timestamp"
_MAX_ENTRIES = 4096  # of an action or a state
_ROWS, _NUMBER_ROWS = 4096, 2**16  # read at once
_BUFFER_BYTES = 2**18  # without it, a column is read as a whole
_PAUSE, _STEP = 3.0, 1.5  # median intervals: more is a gap; more is a row left out where the numbers say so too


@dataclass(frozen=True, slots=True)
class Column:
    """A column with as many numbers in each row.

    Args:
        size: of a row.
        whole: whether the numbers are integers or truth values.
    """

    size: int
    whole: bool


def table_columns(file: DataFile) -> tuple[dict[str, Column], list[str]]:
    """Return the columns of numbers of a table, measured on its first row, and the names of those of images."""
    numbers: dict[str, Column] = {}
    try:
        with pq.ParquetFile(file.path, buffer_size=_BUFFER_BYTES) as opened:
            kinds = {field.name: field.type for field in opened.schema_arrow}
            names = [name for name, kind in kinds.items() if _is_number(_leaf(kind))]
            first = next(opened.iter_batches(1, columns=names, use_threads=False), None) if names else None
    except BAD_TABLE as error:
        raise unreadable(file, error) from error
    if first is not None and first.num_rows:
        for name in names:
            size = len(_leaves(first.column(name)))
            if 0 < size <= _MAX_ENTRIES:
                numbers[name] = Column(size, not pa.types.is_floating(_leaf(kinds[name])))
    return numbers, [name for name, kind in kinds.items() if holds_images(kind)]


def episode_rows(file: DataFile, number: int, *, own: bool) -> range:
    """Return which rows of a table are an episode's, by their episode number.

    Args:
        file: the table.
        number: of the episode.
        own: whether the table is of this episode alone. Then all of its rows are, if none has the number.
    """
    places: list[npt.NDArray[np.int64]] = []
    try:
        with pq.ParquetFile(file.path, buffer_size=_BUFFER_BYTES) as opened:
            metadata, start = opened.metadata, 0
            found = opened.schema_arrow.get_field_index(_EPISODE)
            if found < 0 or not pa.types.is_integer(opened.schema_arrow.field(found).type):
                if own:
                    return range(metadata.num_rows)
                what = "has no column episode_index" if found < 0 else "episode_index must be integers"
                raise ValueError(f"{file}: {what}; repair the file")
            for group in range(metadata.num_row_groups):
                if _may_hold(opened, group, number):
                    first = start
                    for batch in opened.iter_batches(_NUMBER_ROWS, [group], [_EPISODE], use_threads=False):
                        numbers = batch.column(0)
                        if numbers.null_count:
                            numbers = numbers.fill_null(-1)
                        places.append(first + np.flatnonzero(to_numpy(numbers) == number))
                        first += batch.num_rows
                start += metadata.row_group(group).num_rows
            total = metadata.num_rows
    except BAD_TABLE as error:
        raise unreadable(file, error) from error
    rows = np.concatenate([*places, np.zeros(0, dtype=np.int64)])
    if not len(rows):
        return range(total if own else 0)
    if rows[-1] - rows[0] >= len(rows):
        raise ValueError(f"{file}: the rows of episode {number} are not together; sort the file")
    return range(int(rows[0]), int(rows[-1]) + 1)


def read_numbers(
    file: DataFile, rows: range, columns: dict[str, Column], where: str
) -> tuple[dict[str, npt.NDArray[np.float64]], npt.NDArray[np.float64] | None]:
    """Return columns of an episode and the times of its rows.

    Args:
        file: the table.
        rows: the episode's.
        columns: the wanted ones.
        where: what to call the episode.

    Returns:
        (L, size) of each column; and (L,) seconds, ascending, or None where the table tells none.

    Raises:
        ValueError: a column does not hold as many numbers in every row, or the rows are in no order.
    """
    parts: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in columns}
    order: dict[str, list[npt.NDArray[np.float64]]] = {_TIME: [], _FRAME: []}
    for batch in read_batches(file, rows, [*columns, *order], _ROWS):
        for name, column in columns.items():
            if name not in batch.schema.names:
                raise ValueError(f"{where}: has no column {name}; repair the file")
            parts[name].append(_vectors(batch.column(name), column.size, f"{where}: {clipped(name)}"))
        for name, part in order.items():
            if name in batch.schema.names and (values := _scalars(batch.column(name))) is not None:
                part.append(values)
    clock, numbers = (np.concatenate([np.zeros(0), *part]) for part in order.values())
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    return arrays, _checked_order(clock, numbers, len(rows), where)


def read_batches(file: DataFile, rows: range, names: Iterable[str], at_once: int) -> Iterator[pa.RecordBatch]:
    """Yield some rows of a table, of those columns that it has, reading the row groups that hold them."""
    try:
        with pq.ParquetFile(file.path, buffer_size=_BUFFER_BYTES) as opened:
            names = [name for name in dict.fromkeys(names) if name in opened.schema_arrow.names]
            start = 0
            for group in range(opened.metadata.num_row_groups):
                first, start = start, start + opened.metadata.row_group(group).num_rows
                if start <= rows.start or first >= rows.stop:
                    continue
                for batch in opened.iter_batches(at_once, [group], names, use_threads=False):
                    skipped = max(rows.start - first, 0)
                    wanted = batch.slice(skipped, max(min(rows.stop - first, batch.num_rows) - skipped, 0))
                    first += batch.num_rows
                    if wanted.num_rows:
                        yield wanted
                    if first >= rows.stop:
                        break
    except BAD_TABLE as error:
        raise unreadable(file, error) from error


def value_range(files: Iterable[DataFile], name: str) -> tuple[float, float, bool] | None:
    """Return the least and the greatest number of a column of single numbers, and whether all are whole."""
    low, high, whole = np.inf, -np.inf, True
    for file in files:
        try:
            for batch in read_batches(file, range(2**62), [name], _NUMBER_ROWS):
                values = _scalars(batch.column(name)) if batch.num_columns else None
                if values is not None and len(values):
                    low, high = min(low, float(values.min())), max(high, float(values.max()))
                    whole = whole and bool((values == np.floor(values)).all())
        except ValueError:  # costs its episodes when they are read
            continue
    return (low, high, whole) if low <= high else None


def holds_images(kind: pa.DataType) -> bool:
    """Tell whether a column may hold images as files: bytes, or a struct of them and a name."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def unreadable(file: DataFile, error: Exception) -> ValueError:
    """Return what to say of a table that cannot be read."""
    return ValueError(f"{file}: cannot be read ({line_of(error)}); copy it again")


def to_numpy(column: pa.Array) -> npt.NDArray[np.generic]:
    """Return numbers without gaps. Arrow's own `to_numpy` imports pandas, which takes longer than a short episode."""
    return np.from_dlpack(column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column)


def _checked_order(
    clock: npt.NDArray[np.float64], numbers: npt.NDArray[np.float64], length: int, where: str
) -> npt.NDArray[np.float64] | None:
    """Return the times of rows if they go forward, and refuse rows that are in no order.

    Times and numbers may be missing or mean nothing: it is enough that one of them shows the order.
    """
    steps, counts = np.diff(clock), np.diff(numbers)
    timed, numbered = len(clock) == length, len(numbers) == length
    forward = timed and bool((steps > 0).all())
    if numbered and (counts == 1).all():
        return clock if forward else None
    numbered = numbered and bool(counts.any())
    if forward:
        limit = (_STEP if numbered else _PAUSE) * float(np.median(steps)) if length > 1 else 0.0
        if (late := np.flatnonzero(steps > limit)).size:
            before, after = clock[late[0]], clock[late[0] + 1]
            raise ValueError(f"{where}: has no row from {before:g} to {after:g} s; split or leave out the episode")
        return clock
    if numbered and (wrong := np.flatnonzero(counts != 1)).size:
        before, after = numbers[wrong[0]], numbers[wrong[0] + 1]
        raise ValueError(f"{where}: frame_index {before:g} is followed by {after:g}; sort, split or leave out the rows")
    if timed and (wrong := np.flatnonzero(steps < 0)).size:
        raise ValueError(f"{where}: timestamp goes back after {clock[wrong[0]]:g} s; sort the rows")
    return None


def _may_hold(file: pq.ParquetFile, group: int, number: int) -> bool:
    """Tell whether a row group may hold rows of an episode, by its statistics where it has them."""
    group_of = file.metadata.row_group(group)
    paths = [group_of.column(k).path_in_schema for k in range(group_of.num_columns)]
    known = group_of.column(paths.index(_EPISODE)).statistics
    return known is None or not known.has_min_max or known.min <= number <= known.max


def _vectors(column: pa.Array, size: int, where: str) -> npt.NDArray[np.float64]:
    """Return a column of single numbers or of lists of them, nested or not, as (n, size)."""
    values, count, fits = column, 1, not column.null_count
    while fits and _is_list(values.type):
        lengths = set(_lengths(values))
        values, fits = values.flatten(), len(lengths) == 1
        count, fits = count * next(iter(lengths), 0), fits and not values.null_count
    if not fits or count != size or not _is_number(values.type):
        raise ValueError(f"{where} must be {size} numbers in every row, and is {clipped(str(column.type))}; repair it")
    return to_numpy(values).astype(np.float64).reshape(-1, size)


def _scalars(column: pa.Array) -> npt.NDArray[np.float64] | None:
    """Return a column of one finite number in each row, or None if it is none."""
    try:
        values = _vectors(column, 1, "")[:, 0]
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _lengths(column: pa.Array) -> Sequence[int]:
    if pa.types.is_fixed_size_list(column.type):
        return [column.type.list_size]
    return np.unique(to_numpy(column.value_lengths())).tolist()


def _leaves(column: pa.Array) -> pa.Array:
    while _is_list(column.type):
        column = column.flatten()
    return column


def _leaf(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
