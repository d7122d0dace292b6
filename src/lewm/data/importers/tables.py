"""Tables of actions, times and states beside videos and pictures: CSV or Parquet, one row a moment.

The actions are the columns whose names begin with `action`, the states those that begin with `state` or
`observation.state`, unless the import names others. A name that is no column stands for all that begin with it and a
dot, an underscore or a bracket.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lewm.data.importers.listing import listed, visible
from lewm.data.importers.source import ImportOptions

TABLES = (".csv", ".parquet")
_UNITS = {"": 1.0, "_s": 1.0, "_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}
TIMES = {name + unit: scale for name in ("timestamp", "time", "t") for unit, scale in _UNITS.items()}
"""Seconds in the unit of each name of a column of times."""
_NAMES = ("file", "video", "episode")
_PREFIXES = {"action": ("action",), "state": ("state", "observation.state")}

# Bounds of what a file may ask for. A damaged or hostile one may claim any size.
_MAX_BYTES = 2**30
_MAX_ROWS = 2**26
_MAX_COLUMNS = 4096
_MAX_ACTIONS = 2**16


@dataclass(frozen=True, slots=True)
class Columns:
    """The actions and states of a table's rows.

    Args:
        actions: (N, A) float64.
        states: (N, S) float64.
        action_names: names of the action columns.
        state_names: names of the state columns.
        discrete: whether there is one action column, of whole numbers.
    """

    actions: npt.NDArray[np.float64]
    states: npt.NDArray[np.float64]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    discrete: bool


@dataclass(frozen=True, slots=True)
class Log(Columns):
    """What a table says about one video.

    Args:
        times: (N,) float64, seconds from the video's first frame, ascending.
        clock: name of their column.
    """

    times: npt.NDArray[np.float64]
    clock: str


def read_logs(path: Path, videos: list[Path], options: ImportOptions) -> tuple[dict[Path, Log | str], list[str]]:
    """Return what the tables say about each video, or why it cannot be told, and what else is wrong with them."""
    folder = path if path.is_dir() else path.parent
    tables = [file for file in visible(folder) if file.suffix.lower() in TABLES and file.is_file()]
    own: dict[str, list[Path]] = {video.stem: [] for video in videos}
    for table in tables:
        if table.stem in own:
            own[table.stem].append(table)
    if path.is_dir() and not any(own.values()):
        if len(tables) > 1:
            raise ValueError(
                f"{path}: has several tables, {tables[0].name} and {tables[1].name}; name them as the videos"
            )
        if tables:
            return _read_shared(tables[0], folder, videos, options)
    logs: dict[Path, Log | str] = {}
    for video in videos:
        try:
            if path.is_dir():
                check_inside(video, folder)
            found = own[video.stem]
            if len(found) != 1:
                what = "has several tables" if found else "has no table"
                raise ValueError(f"{video.name}: {what} of its name beside it; give one with its times and actions")
            check_inside(found[0], folder)
            logs[video] = _log(read_table(found[0], options), found[0].name, options)
        except ValueError as error:
            logs[video] = str(error)
    return logs, []


def _read_shared(
    table: Path, folder: Path, videos: list[Path], options: ImportOptions
) -> tuple[dict[Path, Log | str], list[str]]:
    """Return what one table says about all videos."""
    check_inside(table, folder)
    rows = read_table(table, options, also=_NAMES)
    key = next((name for name in _NAMES if name in rows.column_names), None)
    if key is None:
        raise ValueError(
            f"{table.name}: has the columns {listed(rows.column_names)}; must have {' or '.join(_NAMES)} to name the "
            "video of each row, or be named as a video"
        )
    given = group_rows(rows, key, table.name)
    logs: dict[Path, Log | str] = {}
    for video in videos:
        try:
            check_inside(video, folder)
            stems = sum(other.stem == video.stem for other in videos)
            found = [
                given.pop(name) for name in {video.name, video.stem if stems == 1 else video.name} if name in given
            ]
            if len(found) != 1:
                raise ValueError(
                    f"{video.name}: is named in no row of {table.name}, or in two ways; name it in one way"
                )
            logs[video] = _log(rows.take(found[0]), f"{table.name}, {video.name}", options)
        except ValueError as error:
            logs[video] = str(error)
    problems = []
    if given:
        problems.append(
            f"{table.name}: names {len(given)} videos that are not in the folder, the first {next(iter(given))!r}; put "
            "them there or remove their rows"
        )
    return logs, problems


def group_rows(table: pa.Table, key: str, where: str) -> dict[str, npt.NDArray[np.int64]]:
    """Return the rows of each value of a column, in their order.

    Args:
        table: the table.
        key: the column.
        where: names the table in errors.

    Raises:
        ValueError: it has no rows, or cells that are empty.
    """
    if table.num_rows == 0:
        raise ValueError(f"{where}: has no rows; record some")
    try:
        named = table[key].cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        raise ValueError(f"{where}: its column {key} must be text; name the file of each row") from error
    if named.null_count:
        raise ValueError(f"{where}: its column {key} has empty cells; name the file of each row")
    places = named.indices.to_numpy()
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(places, minlength=len(named.dictionary)))[:-1])
    return dict(zip(named.dictionary.to_pylist(), groups, strict=True))


def read_table(path: Path, options: ImportOptions, also: Sequence[str] = ()) -> pa.Table:
    """Read a CSV or Parquet table; of Parquet, only the columns that are used.

    Args:
        path: the table.
        options: names of the action and the state.
        also: columns that are read beside times, actions and states.

    Raises:
        ValueError: it cannot be read, is too large, has two columns of one name, or of Parquet not those wanted.
    """
    try:
        if path.suffix.lower() == ".csv":
            if (size := path.stat().st_size) > _MAX_BYTES:
                raise ValueError(f"{path.name}: is {size} bytes, more than {_MAX_BYTES}; split it or use Parquet")
            table = pyarrow.csv.read_csv(path, read_options=pyarrow.csv.ReadOptions(use_threads=False))
            table = table.rename_columns([name.strip() for name in table.column_names])
        else:
            with pq.ParquetFile(path) as file:
                actions, states = _chosen(file.schema_arrow.names, path.name, options)
                known = {*TIMES, *also, *actions, *states}
                names = [name for name in file.schema_arrow.names if name in known]
                if file.metadata.num_rows > _MAX_ROWS or len(names) > _MAX_COLUMNS:
                    raise ValueError(
                        f"{path.name}: has {file.metadata.num_rows} rows and {len(names)} columns; must be at most "
                        f"{_MAX_ROWS} and {_MAX_COLUMNS}"
                    )
                table = file.read(names, use_threads=False) if names else file.schema_arrow.empty_table()
                table.validate(full=True)  # of texts only this reads the bytes
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise ValueError(f"{path.name}: is no {path.suffix[1:]} table ({reason}); write it again") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError(f"{path.name}: has two columns of one name in {listed(table.column_names)}; rename one")
    return table


def _columns(names: Sequence[str], kind: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of an action or a state; of a wanted name that is none, nothing."""
    if not wanted:
        return tuple(name for name in names if name.startswith(_PREFIXES[kind]))
    found: dict[str, None] = {}
    for one in wanted:
        parts = (
            [one] if one in names else [name for name in names if name.startswith((f"{one}.", f"{one}_", f"{one}["))]
        )
        found |= dict.fromkeys(parts)
    return tuple(found)


def _chosen(names: Sequence[str], where: str, options: ImportOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of the action and of the state."""
    actions, states = _columns(names, "action", options.action), _columns(names, "state", options.state)
    for kind, wanted in (("action", options.action), ("state", options.state)):
        if missing := [name for name in wanted if not _columns(names, kind, (name,))]:
            raise ValueError(f"{kind}={missing[0]}: {where} has the columns {listed(names)}; name some of them")
    if not actions:
        raise ValueError(
            f"{where}: has the columns {listed(names)}; must have some that begin with action, or name the action's "
            "with --action"
        )
    return actions, states


def choose_columns(table: pa.Table, where: str, options: ImportOptions) -> Columns:
    """Return the actions and states of a table.

    Args:
        table: the table.
        where: names it in errors.
        options: names of the action and the state.

    Raises:
        ValueError: there are no actions or no rows, a wanted column is missing, or a value is no finite number.
    """
    actions, states = _chosen(table.column_names, where, options)
    if len(actions) + len(states) > _MAX_COLUMNS:
        raise ValueError(f"{where}: has {len(actions) + len(states)} columns; must be at most {_MAX_COLUMNS}")
    if table.num_rows == 0:
        raise ValueError(f"{where}: has no rows; record some")
    values = numbers(table, actions, where)
    single = actions == (options.action or ("action",))[:1]
    discrete = single and len(options.action) < 2 and pa.types.is_integer(table.schema.field(actions[0]).type)
    if discrete and (values.min() < 0 or values.max() >= _MAX_ACTIONS):
        raise ValueError(
            f"{where}: {actions[0]} is whole numbers of {values.min():.0f} to {values.max():.0f}; number discrete "
            f"actions from 0 to {_MAX_ACTIONS - 1}, or write real ones as 1.0"
        )
    return Columns(values, numbers(table, states, where), actions, states, discrete)


def _log(table: pa.Table, where: str, options: ImportOptions) -> Log:
    """Check the rows of one video."""
    names = table.column_names
    clocks = [name for name in names if name in TIMES]
    if len(clocks) != 1:
        raise ValueError(f"{where}: has the columns {listed(names)}; must have one of timestamp, time or t")
    columns = choose_columns(table, where, options)
    times = numbers(table, clocks, where)[:, 0] * TIMES[clocks[0]]
    if (back := np.flatnonzero(np.diff(times) < 0)).size:
        raise ValueError(f"{where}: {clocks[0]} goes back in row {back[0] + 2}; sort the rows, or split the recording")
    return Log(
        actions=columns.actions,
        states=columns.states,
        action_names=columns.action_names,
        state_names=columns.state_names,
        discrete=columns.discrete,
        times=times,
        clock=clocks[0],
    )


def numbers(table: pa.Table, names: Sequence[str], where: str) -> npt.NDArray[np.float64]:
    """Return columns as (N, columns) finite numbers."""
    values = np.empty((table.num_rows, len(names)), dtype=np.float64)
    for k, name in enumerate(names):
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise ValueError(f"{where}: column {name} is {str(kind)[:40]}; must be numbers")
        values[:, k] = table[name].cast(pa.float64(), safe=False).to_numpy()
    if (bad := np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max))).size:
        row, column = bad[0]
        raise ValueError(f"{where}: {names[column]} is empty or not finite in row {row + 1}; repair or remove the row")
    return values


def check_inside(file: Path, folder: Path) -> None:
    """Refuse a link that leads out of a recording's folder."""
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{file.name}: links out of {folder}; copy it in")
