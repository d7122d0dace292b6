"""Data sets of LeRobot, formats v2.0, v2.1 and v3.0, in a folder.

    meta/info.json     version, frames a second, features, and templates of the paths of all other files
    data/              Parquet, one row a frame: actions, states, and images where these are no videos
    videos/            mp4, one a camera

In v2 every episode has files of its own, and `meta/episodes.jsonl` lists them. In v3 a file holds many episodes, which
the tables in `meta/episodes/` find in it. A frame of a video is found by its time.
"""

import json
import multiprocessing
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any, ClassVar

import av
import av.container
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from lewm.data.importing import Format, Frame, ImportOptions, Recording, Source, SourceInfo

_VERSIONS = ("v2.0", "v2.1", "v3.0")
_INFO = "meta/info.json"
_STATE = "observation.state"
_FIELD = re.compile(r"\{(\w+)(?::0(\d{1,2})d)?\}")
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_short = _SHORT.repr
_NUMBERS: tuple[str, ...] = ("chunk_index", "file_index")
_STATISTICS = ("mean", "std", "min", "max")

# Bounds of what a file may ask for. A damaged or hostile one may claim any size.
_JSON_BYTES = 16 * 2**20
_MAX_EPISODES = 2**20
_MAX_FRAMES = 2**24  # of an episode
_MAX_ENTRIES = 4096  # of an action or a state
_MAX_PIXELS = 2**26
_MAX_SECONDS = 1e7
_MAX_FPS = 1e4
_MAX_TEXTS, _MAX_TEXT = 100, 1000
_MAX_NESTING = 4

_BAD_TABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
_IMAGE_MAGIC = {"png": b"\x89PNG", "mjpeg": b"\xff\xd8"}  # by decoder
_ROWS, _IMAGE_ROWS = 4096, 16  # read at once
_BUFFER_BYTES = 2**18  # without it, a column is read as a whole


class LeRobotSource(Source):
    """Episodes of a LeRobot data set.

    Cameras are all features of the kinds video and image but depth maps; `top` is short for `observation.images.top`.
    The states are `observation.state`, if there is one.

    Args:
        path: folder of the data set, with `meta/info.json` in it.
        options: the wanted cameras.

    Raises:
        ValueError: nothing can be imported.
    """

    format: ClassVar[Format] = "lerobot"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return os.path.isfile(path / _INFO)

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self._root = Path(os.path.realpath(path))
        where = self._root / _INFO
        info = _read_json(_find(self._root, _INFO))
        self._version: str = _get(info, "codebase_version", str, where)
        if self._version not in _VERSIONS:
            raise ValueError(
                f"{where}: codebase_version={_short(self._version)}: must be one of {', '.join(_VERSIONS)}; convert "
                "the data set with LeRobot's own script"
            )
        self._is_v3 = self._version == "v3.0"
        self._fps = float(_get(info, "fps", (int, float), where, most=_MAX_FPS))
        self._num_episodes: int = _get(info, "total_episodes", int, where, most=_MAX_EPISODES)
        self._chunks_size: int = 1 if self._is_v3 else _get(info, "chunks_size", int, where)
        self._features: dict[str, Any] = _get(info, "features", dict, where)
        for name, feature in self._features.items():
            if not isinstance(feature, dict):
                raise ValueError(f"{where}: feature {_short(name)} must be an object; repair the file")
        robot = info.get("robot_type")
        self._robot: str | None = robot[:_MAX_TEXT] if isinstance(robot, str) else None

        if "action" not in self._features:
            raise ValueError(
                f"{where}: has no feature 'action', only {_short(sorted(self._features))}; name the feature with the "
                "actions so"
            )
        self._sizes = {
            name: _size(self._features, name, where) for name in ("action", _STATE) if name in self._features
        }
        self._cameras = _choose_cameras(self._features, options.cameras, where)
        self._videos = [key for key in self._cameras if self._features[key]["dtype"] == "video"]

        self._data_path: str = _get(info, "data_path", str, where)
        self._video_path: str = _get(info, "video_path", str, where) if self._videos else ""
        first: dict[str, int | str] = dict.fromkeys(_NUMBERS if self._is_v3 else ("episode_chunk", "episode_index"), 0)
        _inside(self._root, _fill(self._data_path, first))
        for key in self._videos:
            _inside(self._root, _fill(self._video_path, first | {"video_key": key}))
        self._table = self._read_table()

    @property
    def info(self) -> SourceInfo:
        """What `meta/` says."""
        names = {name: _flat_names(self._features[name].get("names"), size) for name, size in self._sizes.items()}
        num_states = self._sizes.get(_STATE, 0)
        texts = self._read_texts()
        return SourceInfo(
            task=self._root.name,
            action_kind="continuous",
            action_size=self._sizes["action"],
            action_names=names["action"],
            state_names=names.get(_STATE) or tuple(f"state_{i}" for i in range(num_states)),
            fps=self._fps,
            origin={
                "version": self._version,
                "robot_type": self._robot,
                "camera_keys": self._cameras,
                "statistics": self._read_statistics(),
                "num_tasks": len(texts),
                "tasks": [text[:_MAX_TEXT] for text in texts[:_MAX_TEXTS]],
            },
        )

    @property
    def num_episodes(self) -> int:
        """Episodes, as `meta/info.json` and the episode table say."""
        return self._num_episodes

    def length(self, index: int) -> int:
        """Return the number of frames that the episode table gives."""
        return min(max(self._table["length"][index].as_py(), 0), _MAX_FRAMES)

    def episode(self, index: int) -> Recording:
        """Open one episode: its rows are read and checked, and its videos found."""
        row = self._row(index)
        length = row["length"]
        if empty := [name for name, value in row.items() if value is None and name != "tasks"]:
            raise ValueError(f"episode {index}: {empty[0]} is missing; repair the episode table")
        if not 1 <= length <= _MAX_FRAMES:
            raise ValueError(f"episode {index}: length={length}: must be 1 to {_MAX_FRAMES}; repair the episode table")
        if self._is_v3 and row["dataset_to_index"] - row["dataset_from_index"] != length:
            raise ValueError(
                f"episode {index}: length={length}, but its rows are {row['dataset_from_index']} to "
                f"{row['dataset_to_index']}; repair the episode table"
            )
        name = _fill(self._data_path, self._numbers(index, row, "data"))
        data = _find(self._root, name)
        arrays = _read_vectors(data, index, length, self._sizes)
        views = [self._view(key, index, row, data) for key in self._cameras]
        return Recording(
            frames=views[0] if len(views) == 1 else zip(*views, strict=True),
            actions=arrays["action"],
            states=arrays.get(_STATE),
            source=f"episode {index} of {name}",
            text="; ".join(row["tasks"] or ())[:_MAX_TEXT],
        )

    def _row(self, index: int) -> dict[str, Any]:
        """Return one row of the episode table."""
        if not 0 <= index < self._num_episodes:
            raise ValueError(
                f"episode={index}: {self._root} has {self._num_episodes}; use 0 to {self._num_episodes - 1}"
            )
        try:
            return self._table.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise ValueError(f"episode {index}: its task is no text; repair the episode table") from error

    def _numbers(self, index: int, row: Mapping[str, Any], of: str) -> dict[str, int]:
        """Return what stands for the fields of the path templates."""
        if not self._is_v3:
            return {"episode_chunk": index // self._chunks_size, "episode_index": index}
        fields = {name: row[f"{of}/{name}"] for name in _NUMBERS}
        for name, value in fields.items():
            if value < 0:
                raise ValueError(f"episode {index}: {of}/{name}={value}: is no file number; repair the episode table")
        return fields

    def _view(self, key: str, index: int, row: Mapping[str, Any], data: Path) -> Iterator[Frame]:
        """Return an iterator over the frames of one camera."""
        length, where = row["length"], f"episode {index}, camera {key}"
        if key not in self._videos:
            return _image_frames(data, index, key, length, where)
        start = 0.0
        if self._is_v3:
            start, end = (row[f"videos/{key}/{name}_timestamp"] for name in ("from", "to"))
            if not 0 <= start <= end <= _MAX_SECONDS:
                raise ValueError(f"{where}: lies at {start} to {end} s in its video; repair the episode table")
            if (end - start) * self._fps < length - 0.5:
                raise ValueError(
                    f"{where}: has {end - start:.3f} s of video for {length} frames at {self._fps:g} a second; repair "
                    "the episode table"
                )
        fields = self._numbers(index, row, f"videos/{key}") | {"video_key": key}
        path = _find(self._root, _fill(self._video_path, fields))
        return _video_frames(path, start, length, self._fps, where)

    def _read_table(self) -> pa.Table:
        """Return the episode table: the columns that are needed, one row an episode, in order."""
        schema = [("episode_index", pa.int64()), ("length", pa.int64()), ("tasks", pa.list_(pa.string()))]
        if self._is_v3:
            of = ["data", *(f"videos/{key}" for key in self._videos)]
            schema += [(f"{part}/{name}", pa.int64()) for part in of for name in _NUMBERS]
            schema += [(f"dataset_{end}_index", pa.int64()) for end in ("from", "to")]
            schema += [(f"{part}/{end}_timestamp", pa.float64()) for part in of[1:] for end in ("from", "to")]
            where = self._root / "meta" / "episodes"
            names = sorted(path.relative_to(self._root) for path in where.glob("chunk-*/file-*.parquet"))
            paths = [_find(self._root, str(name)) for name in names]
            parts = [_read_columns(path, pa.schema(schema), self._num_episodes) for path in paths]
            table = pa.concat_tables(parts) if parts else pa.schema(schema).empty_table()
        else:
            where = _find(self._root, "meta/episodes.jsonl")
            rows = _read_json_lines(where, self._num_episodes)
            try:
                table = pa.Table.from_pylist(rows, pa.schema(schema))
            except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
                raise ValueError(f"{where}: {_line(error)}; repair the file") from error
        for name in ("episode_index", "length"):
            if table[name].null_count:
                raise ValueError(f"{where}: {name} is missing in {table[name].null_count} rows; repair the file")
        if table.num_rows != self._num_episodes:
            raise ValueError(
                f"{where}: lists {table.num_rows} episodes, but {_INFO} counts {self._num_episodes}; copy the data set "
                "again, or correct the count"
            )
        numbers = _to_numpy(table["episode_index"].combine_chunks())
        order = np.argsort(numbers)
        if (numbers[order] != np.arange(self._num_episodes)).any():
            raise ValueError(f"{where}: episodes must be numbered from 0 without gaps; repair the file")
        return table if (numbers[:-1] < numbers[1:]).all() else table.take(order)

    def _read_texts(self) -> list[str]:
        """Return the texts of all tasks."""
        name = "meta/tasks.parquet" if self._is_v3 else "meta/tasks.jsonl"
        if not os.path.exists(self._root / name):
            return []
        path = _find(self._root, name)
        if not self._is_v3:
            return [text for row in _read_json_lines(path, _MAX_EPISODES) if isinstance(text := row.get("task"), str)]
        try:
            with pq.ParquetFile(path) as file:
                # The texts are the index of a table of pandas, which has a name or not.
                names = [name for name in ("task", "__index_level_0__") if name in file.schema_arrow.names]
            schema = pa.schema([((names or ["task"])[0], pa.string())])
            return [text for text in _read_columns(path, schema, _MAX_EPISODES)[0].to_pylist() if text is not None]
        except _BAD_TABLE as error:
            raise ValueError(f"{path}: cannot be read ({_line(error)}); copy it again") from error

    def _read_statistics(self) -> dict[str, dict[str, list[float]]]:
        """Return mean, standard deviation, least and greatest value of actions and states, as far as recorded."""
        if not self._is_v3 and os.path.exists(self._root / "meta/episodes_stats.jsonl"):
            path = _find(self._root, "meta/episodes_stats.jsonl")
            stats = [row.get("stats") for row in _read_json_lines(path, self._num_episodes)]
            return {
                name: _pooled([_statistics(one, name, size) for one in stats]) for name, size in self._sizes.items()
            }
        if not os.path.exists(self._root / "meta/stats.json"):
            return {}
        stats = _read_json(_find(self._root, "meta/stats.json"))
        found = {name: _statistics(stats, name, size) for name, size in self._sizes.items()}
        return {name: {key: one[key].tolist() for key in _STATISTICS if key in one} for name, one in found.items()}


def _get(info: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: Path, most: float = 2**62) -> Any:
    """Return an entry of `info.json` of the right kind; a number is positive and at most `most`."""
    value = info.get(name)
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if fits and isinstance(value, (int, float)):
        fits = 0 < value <= most
    if not fits:
        raise ValueError(f"{where}: {name}={_short(value)}: is missing or makes no sense; repair the file")
    return value


def _size(features: Mapping[str, Any], name: str, where: Path) -> int:
    """Return the number of entries of a vector."""
    dtype, shape = features[name].get("dtype"), features[name].get("shape")
    if not isinstance(dtype, str) or not re.fullmatch(r"float(16|32|64)|u?int(8|16|32|64)", dtype):
        raise ValueError(f"{where}: {name} has dtype={_short(dtype)}: must be numbers; leave it out or convert it")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or not 0 < shape[0] <= _MAX_ENTRIES:
        raise ValueError(
            f"{where}: {name} has shape={_short(shape)}: must be a vector of 1 to {_MAX_ENTRIES} entries; convert it"
        )
    return shape[0]


def _choose_cameras(features: Mapping[str, Any], wanted: tuple[str, ...], where: Path) -> list[str]:
    """Return the features that are the wanted cameras."""
    cameras = [key for key, feature in features.items() if feature.get("dtype") in ("video", "image")]
    cameras = [key for key in cameras if not _is_depth(features[key])]
    if not cameras:
        raise ValueError(f"{where}: has no camera; give a data set with images or videos")
    listed = ", ".join(cameras[:_MAX_TEXTS])[:_MAX_TEXT]
    if not wanted and len(cameras) > 1:
        raise ValueError(f"cameras: {where} has {len(cameras)}; name one or more of {listed}")
    chosen = []
    for name in wanted or cameras:
        found = [key for key in cameras if key == name] or [key for key in cameras if key.rpartition(".")[2] == name]
        if len(found) != 1:
            what = "is several cameras" if found else "is no camera"
            raise ValueError(f"cameras={name}: {what} of {where}; name one or more of {listed}")
        chosen += found
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"cameras={', '.join(wanted)}: a camera is named twice; name each once")
    return chosen


def _is_depth(feature: Mapping[str, Any]) -> bool:
    details = [feature.get(name) for name in ("info", "video_info")]
    keys = ("is_depth_map", "video.is_depth_map")
    return any(one.get(key) is True for one in details if isinstance(one, dict) for key in keys)


def _flat_names(names: object, size: int) -> tuple[str, ...]:
    """Return the names of a vector's entries, or nothing if there is not one for each."""
    flat = _flatten(names, _MAX_NESTING)
    return tuple(name[:_MAX_TEXT] for name in flat) if len(flat) == size else ()


def _flatten(names: object, nesting: int) -> list[str]:
    if isinstance(names, str):
        return [names]
    if isinstance(names, dict):
        places = list(names.values())
        if places and all(type(place) is int for place in places):  # {"x": 0, "y": 1}
            return sorted(names, key=lambda name: names[name])
        names = places  # {"motors": ["x", "y"]}
    if not isinstance(names, list) or nesting == 0:
        return []
    return [name for part in names for name in _flatten(part, nesting - 1)]


def _statistics(stats: object, name: str, size: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the statistics of one feature that can be read; they are a note, and no reason to refuse a data set."""
    values, found = stats.get(name) if isinstance(stats, dict) else None, {}
    if not isinstance(values, dict):
        return found
    for key in (*_STATISTICS, "count"):
        try:
            array = np.asarray(values.get(key), dtype=np.float64).reshape(-1)
        except (TypeError, ValueError, OverflowError):
            continue
        if len(array) == (1 if key == "count" else size) and np.isfinite(array).all():
            found[key] = array
    return found


def _pooled(stats: list[dict[str, npt.NDArray[np.float64]]]) -> dict[str, list[float]]:
    """Return the statistics of all episodes together, or nothing if some lack theirs."""
    if not stats or any(len(one) <= len(_STATISTICS) for one in stats):
        return {}
    weight = np.stack([one["count"] for one in stats])  # (E, 1)
    mean, std, least, most = (np.stack([one[key] for one in stats]) for key in _STATISTICS)  # (E, A) each
    weight = weight / weight.sum()
    middle = (weight * mean).sum(axis=0)
    spread = np.sqrt((weight * (std**2 + (mean - middle) ** 2)).sum(axis=0))
    pooled = (middle, spread, least.min(axis=0), most.max(axis=0))
    return {key: array.tolist() for key, array in zip(_STATISTICS, pooled, strict=True)}


def _fill(template: str, fields: Mapping[str, int | str]) -> str:
    """Put values in a path template, which may hold `{name}` and `{name:03d}` for the given names and nothing else."""
    if re.search("[{}]", _FIELD.sub("", template)) or any(
        name not in fields or (width and isinstance(fields[name], str)) for name, width in _FIELD.findall(template)
    ):
        raise ValueError(
            f"{_INFO}: path {_short(template)}: may hold no fields but {', '.join(fields)}; repair the file"
        )
    return _FIELD.sub(lambda match: str(fields[match[1]]).zfill(int(match[2] or 0)), template)


def _inside(root: Path, name: str) -> Path:
    """Return a path in the folder with all links resolved, and refuse those that leave it."""
    if not name.isprintable():
        raise ValueError(f"{root}: {_short(name)} is no path; repair the data set")
    path = Path(os.path.realpath(root / name))
    if path.is_relative_to(root):
        return path
    raise ValueError(f"{root}: {_short(name)} leads out of the folder; copy the data set with its links resolved")


def _find(root: Path, name: str) -> Path:
    """Return the path of a regular file in the folder."""
    path = _inside(root, name)
    if not os.path.isfile(path):
        raise ValueError(f"{path}: is missing or no file; copy the data set again")
    return path


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not JSON ({_line(error)}); repair the file") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be a JSON object; repair the file")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read(_JSON_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); see to the permissions") from error
    if len(text) > _JSON_BYTES:
        raise ValueError(f"{path}: has more than {_JSON_BYTES} bytes; repair the file")
    return _parse(text, str(path))


def _read_json_lines(path: Path, most: int) -> list[dict[str, Any]]:
    """Return the objects of a file with one on each line."""
    rows = []
    try:
        with open(path, "rb") as file:
            # A longer line is cut, and then no JSON.
            for number, line in enumerate(iter(lambda: file.readline(_JSON_BYTES), b""), 1):
                if line.strip():
                    rows.append(_parse(line, f"{path}, line {number}"))
                if len(rows) > most:
                    raise ValueError(f"{path}: has more than {most} lines; correct the counts in {_INFO}")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); see to the permissions") from error
    return rows


def _read_columns(path: Path, schema: pa.Schema, most: int) -> pa.Table:
    """Return columns of a table of at most so many rows."""
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > most:
                raise ValueError(f"{path}: has more than {most} rows; correct the counts in {_INFO}")
            _check_columns(path, file, schema.names)
            return file.read(columns=schema.names, use_threads=False).select(schema.names).cast(schema)
    except _BAD_TABLE as error:
        raise ValueError(f"{path}: cannot be read ({_line(error)}); copy it again") from error


def _check_columns(path: Path, file: pq.ParquetFile, names: list[str]) -> None:
    for name in names:
        if name not in file.schema_arrow.names:
            raise ValueError(f"{path}: has no column {name!r}; repair the file")


def _episode_rows(path: Path, index: int, columns: list[str], most: int, at_once: int) -> Iterator[pa.RecordBatch]:
    """Yield the first rows of one episode, at most so many, of the row groups that may hold them."""
    columns = ["episode_index", *columns]
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            _check_columns(path, file, columns)
            groups = _groups_with(path, file, index)
            for batch in file.iter_batches(at_once, groups, columns, use_threads=False) if groups else ():
                numbers = batch.column("episode_index")
                if numbers.null_count:
                    raise ValueError(f"{path}: episode_index is missing in some rows; repair the file")
                places = np.flatnonzero(_to_numpy(numbers) == index)[:most]
                if not len(places):
                    continue
                if places[-1] - places[0] >= len(places):
                    raise ValueError(f"{path}: the rows of episode {index} are not together; sort the file")
                yield batch.slice(places[0], len(places))
                most -= len(places)
                if most == 0:
                    return
    except _BAD_TABLE as error:
        raise ValueError(f"{path}: cannot be read ({_line(error)}); copy it again") from error


def _groups_with(path: Path, file: pq.ParquetFile, index: int) -> list[int]:
    """Return the row groups that may hold rows of an episode, by their statistics where they have them."""
    if not pa.types.is_integer(file.schema_arrow.field("episode_index").type):
        raise ValueError(f"{path}: episode_index must be integers; repair the file")
    metadata, groups = file.metadata, []
    place = [file.schema.column(number).path for number in range(metadata.num_columns)].index("episode_index")
    for number in range(metadata.num_row_groups):
        known = metadata.row_group(number).column(place).statistics
        if known is None or not known.has_min_max or known.min <= index <= known.max:
            groups.append(number)
    return groups


def _read_vectors(path: Path, index: int, length: int, sizes: Mapping[str, int]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the vectors of an episode, (L, size) each."""
    where = f"{path}, episode {index}"
    vectors: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in sizes}
    seen = 0
    for rows in _episode_rows(path, index, ["frame_index", *sizes], length + 1, _ROWS):
        places = rows.column("frame_index")
        if not pa.types.is_integer(places.type) or places.null_count:
            raise ValueError(f"{where}: frame_index must be integers; repair the file")
        if (_to_numpy(places) != np.arange(seen, seen + rows.num_rows)).any():
            raise ValueError(f"{where}: frame_index does not count from 0; repair the file")
        seen += rows.num_rows
        for name, size in sizes.items():
            vectors[name].append(_vectors(rows.column(name), size, f"{where}: {name}"))
    if seen != length:
        has = "more" if seen > length else str(seen)
        raise ValueError(f"{where}: has {has} rows, but the episode table counts {length}; repair one of them")
    return {name: np.concatenate(parts) for name, parts in vectors.items()}


def _vectors(column: pa.Array, size: int, where: str) -> npt.NDArray[np.float32]:
    """Return a column of vectors as (n, size), or of single numbers as (n, 1)."""
    values, kind, fits = column, column.type, size == 1
    if pa.types.is_fixed_size_list(kind):
        values, fits = column.flatten(), kind.list_size == size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values, fits = column.flatten(), not column.null_count and (_to_numpy(column.value_lengths()) == size).all()
    kind = values.type
    fits = fits and not column.null_count and not values.null_count
    if not fits or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise ValueError(
            f"{where} must be {size} numbers in every row, and is {str(column.type)[:_MAX_TEXT]}; repair the file"
        )
    with np.errstate(over="ignore"):  # becomes infinite, which the check of a store reports
        return _to_numpy(values).astype(np.float32).reshape(-1, size)


def _to_numpy(column: pa.Array) -> npt.NDArray[Any]:
    """Return numbers without gaps. Arrow's own `to_numpy` imports pandas, which takes longer than a short episode."""
    return np.from_dlpack(column)


def _video_frames(path: Path, start: float, length: int, fps: float, where: str) -> Iterator[av.VideoFrame]:
    """Yield the frames of a video that are nearest to `start + i / fps`, each at most half a frame away."""
    try:
        # The format is fixed because others, playlists among them, make a file name other files.
        with av.open(str(path), format="mp4", metadata_errors="replace") as container:
            place, best, distance = 0, None, 0.0
            for frame in _decoded(container, path, start - 0.5 / fps):
                if frame.time is None:
                    raise ValueError(f"{where}: {path} has a frame without a time; encode it again")
                offset = (frame.time - start) * fps
                slot = round(offset)
                if slot > place:
                    if best is not None:
                        yield best
                        best, place = None, place + 1
                    if place == length or slot > place:
                        break
                if slot == place and (best is None or abs(offset - slot) < distance):
                    if frame.is_corrupt:
                        raise ValueError(f"{where}: {path} is damaged at {frame.time:.3f} s; copy it again")
                    best, distance = frame, abs(offset - slot)
            if best is not None:
                yield best
                place += 1
    except FFmpegError as error:
        raise ValueError(f"{where}: {path} cannot be decoded ({error.strerror}); copy it again") from error
    if place < length:
        raise ValueError(
            f"{where}: has no frame at {start + place / fps:.3f} s (frame {place}) in {path}; repair the video"
        )


def _decoded(container: av.container.InputContainer, path: Path, start: float) -> Iterator[av.VideoFrame]:
    """Yield the frames of a video from the last key frame at or before `start` on."""
    if not container.streams.video:
        raise ValueError(f"{path}: holds no video; copy it again")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None or context.codec.name == "av1":  # FFmpeg's own decoder of that name needs hardware
        kind = "of an unknown kind" if context is None else "AV1 and needs PyAV with libdav1d"
        raise ValueError(f"{path}: is {kind}, so this PyAV cannot decode it; install a newer one, or encode it again")
    context.options = {"max_pixels": str(_MAX_PIXELS)}
    if multiprocessing.parent_process() is None:
        context.thread_type = "AUTO"
    else:  # with one worker a core, further threads only cost
        context.thread_count = 1
    if start > 0:
        assert stream.time_base is not None
        container.seek(int(start / stream.time_base), stream=stream)
    yield from container.decode(stream)


def _image_frames(path: Path, index: int, key: str, length: int, where: str) -> Iterator[av.VideoFrame]:
    """Yield the images of an episode that lie in the table itself."""
    decoders: dict[str, VideoCodecContext] = {}
    frame = 0
    for rows in _episode_rows(path, index, [key], length, _IMAGE_ROWS):
        cells = rows.column(key)
        if not pa.types.is_struct(cells.type) or cells.type.get_field_index("bytes") < 0:
            raise ValueError(f"{where}: is {str(cells.type)[:_MAX_TEXT]} in {path}, not images; repair the file")
        for cell in cells.flatten()[cells.type.get_field_index("bytes")]:
            yield _image(cell.as_py(), decoders, f"{where}, frame {frame}")
            frame += 1


def _image(data: bytes | None, decoders: dict[str, VideoCodecContext], where: str) -> av.VideoFrame:
    """Decode one image; a decoder is made once."""
    name = next((name for name, magic in _IMAGE_MAGIC.items() if (data or b"").startswith(magic)), None)
    if data is None or name is None:
        raise ValueError(f"{where}: is not embedded as {' or '.join(_IMAGE_MAGIC)}; convert the images")
    if name not in decoders:
        decoders[name] = context = av.Codec(name, "r").create("video")
        context.thread_count = 1  # threads would delay the image by some packets
        context.options = {"max_pixels": str(_MAX_PIXELS)}
    packet = av.Packet(data)
    packet.is_keyframe = True  # or the decoder of PNG adds the image before
    try:
        frames = decoders[name].decode(packet)
    except FFmpegError as error:
        raise ValueError(f"{where}: cannot be decoded ({error.strerror}); leave the episode out") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise ValueError(f"{where}: is damaged; leave the episode out")
    return frames[0]
