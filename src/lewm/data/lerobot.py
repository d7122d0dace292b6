"""Data sets of LeRobot, formats v2.0, v2.1 and v3.0, in a folder.

    meta/info.json     version, frames a second, features, and templates of the paths of all other files
    data/              Parquet, one row a frame: actions, states, and images where these are no videos
    videos/            mp4, one a camera

In v2 every episode has files of its own, and `meta/episodes.jsonl` lists them. In v3 a file holds many episodes, which
the tables in `meta/episodes/` find in it. A frame of a video is found by its time.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.importing import Format, Frame, ImportOptions, Recording, Source, SourceInfo
from lewm.data.lerobot_files import INFO, fill, find, inside, line_of, read_json, read_json_lines, short
from lewm.data.lerobot_frames import image_frames, video_frames
from lewm.data.lerobot_rows import BAD_TABLE, read_columns, read_vectors, to_numpy

_VERSIONS = ("v2.0", "v2.1", "v3.0")
_STATE = "observation.state"
_NUMBERS: tuple[str, ...] = ("chunk_index", "file_index")
_STATISTICS = ("mean", "std", "min", "max")

# Bounds of what a file may ask for. A damaged or hostile one may claim any size.
_MAX_EPISODES = 2**20
_MAX_FRAMES = 2**24  # of an episode
_MAX_ENTRIES = 4096  # of an action or a state
_MAX_SECONDS = 1e7
_MAX_FPS = 1e4
_MAX_TEXTS, _MAX_TEXT = 100, 1000
_MAX_NESTING = 4


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
        return os.path.isfile(path / INFO)

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self._root = Path(os.path.realpath(path))
        where = self._root / INFO
        info = read_json(find(self._root, INFO))
        self._version: str = _get(info, "codebase_version", str, where)
        if self._version not in _VERSIONS:
            raise ValueError(
                f"{where}: codebase_version={short(self._version)}: must be one of {', '.join(_VERSIONS)}; convert "
                "the data set with LeRobot's own script"
            )
        self._is_v3 = self._version == "v3.0"
        self._fps = float(_get(info, "fps", (int, float), where, most=_MAX_FPS))
        self._num_episodes: int = _get(info, "total_episodes", int, where, most=_MAX_EPISODES)
        self._chunks_size: int = 1 if self._is_v3 else _get(info, "chunks_size", int, where)
        self._features: dict[str, Any] = _get(info, "features", dict, where)
        for name, feature in self._features.items():
            if not isinstance(feature, dict):
                raise ValueError(f"{where}: feature {short(name)} must be an object; repair the file")
        robot = info.get("robot_type")
        self._robot: str | None = robot[:_MAX_TEXT] if isinstance(robot, str) else None

        if "action" not in self._features:
            raise ValueError(
                f"{where}: has no feature 'action', only {short(sorted(self._features))}; name the feature with the "
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
        inside(self._root, fill(self._data_path, first))
        for key in self._videos:
            inside(self._root, fill(self._video_path, first | {"video_key": key}))
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
        name = fill(self._data_path, self._numbers(index, row, "data"))
        data = find(self._root, name)
        arrays = read_vectors(data, index, length, self._sizes)
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
            return image_frames(data, index, key, length, where)
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
        path = find(self._root, fill(self._video_path, fields))
        return video_frames(path, start, length, self._fps, where)

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
            paths = [find(self._root, str(name)) for name in names]
            parts = [read_columns(path, pa.schema(schema), self._num_episodes) for path in paths]
            table = pa.concat_tables(parts) if parts else pa.schema(schema).empty_table()
        else:
            where = find(self._root, "meta/episodes.jsonl")
            rows = read_json_lines(where, self._num_episodes)
            try:
                table = pa.Table.from_pylist(rows, pa.schema(schema))
            except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
                raise ValueError(f"{where}: {line_of(error)}; repair the file") from error
        for name in ("episode_index", "length"):
            if table[name].null_count:
                raise ValueError(f"{where}: {name} is missing in {table[name].null_count} rows; repair the file")
        if table.num_rows != self._num_episodes:
            raise ValueError(
                f"{where}: lists {table.num_rows} episodes, but {INFO} counts {self._num_episodes}; copy the data set "
                "again, or correct the count"
            )
        numbers = to_numpy(table["episode_index"].combine_chunks())
        order = np.argsort(numbers)
        if (numbers[order] != np.arange(self._num_episodes)).any():
            raise ValueError(f"{where}: episodes must be numbered from 0 without gaps; repair the file")
        return table if (numbers[:-1] < numbers[1:]).all() else table.take(order)

    def _read_texts(self) -> list[str]:
        """Return the texts of all tasks."""
        name = "meta/tasks.parquet" if self._is_v3 else "meta/tasks.jsonl"
        if not os.path.exists(self._root / name):
            return []
        path = find(self._root, name)
        if not self._is_v3:
            return [text for row in read_json_lines(path, _MAX_EPISODES) if isinstance(text := row.get("task"), str)]
        try:
            with pq.ParquetFile(path) as file:
                # The texts are the index of a table of pandas, which has a name or not.
                names = [name for name in ("task", "__index_level_0__") if name in file.schema_arrow.names]
            schema = pa.schema([((names or ["task"])[0], pa.string())])
            return [text for text in read_columns(path, schema, _MAX_EPISODES)[0].to_pylist() if text is not None]
        except BAD_TABLE as error:
            raise ValueError(f"{path}: cannot be read ({line_of(error)}); copy it again") from error

    def _read_statistics(self) -> dict[str, dict[str, list[float]]]:
        """Return mean, standard deviation, least and greatest value of actions and states, as far as recorded."""
        if not self._is_v3 and os.path.exists(self._root / "meta/episodes_stats.jsonl"):
            path = find(self._root, "meta/episodes_stats.jsonl")
            stats = [row.get("stats") for row in read_json_lines(path, self._num_episodes)]
            return {
                name: _pooled([_statistics(one, name, size) for one in stats]) for name, size in self._sizes.items()
            }
        if not os.path.exists(self._root / "meta/stats.json"):
            return {}
        stats = read_json(find(self._root, "meta/stats.json"))
        found = {name: _statistics(stats, name, size) for name, size in self._sizes.items()}
        return {name: {key: one[key].tolist() for key in _STATISTICS if key in one} for name, one in found.items()}


def _get(info: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: Path, most: float = 2**62) -> Any:
    """Return an entry of `info.json` of the right kind; a number is positive and at most `most`."""
    value = info.get(name)
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if fits and isinstance(value, (int, float)):
        fits = 0 < value <= most
    if not fits:
        raise ValueError(f"{where}: {name}={short(value)}: is missing or makes no sense; repair the file")
    return value


def _size(features: Mapping[str, Any], name: str, where: Path) -> int:
    """Return the number of entries of a vector."""
    dtype, shape = features[name].get("dtype"), features[name].get("shape")
    if not isinstance(dtype, str) or not re.fullmatch(r"float(16|32|64)|u?int(8|16|32|64)", dtype):
        raise ValueError(f"{where}: {name} has dtype={short(dtype)}: must be numbers; leave it out or convert it")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or not 0 < shape[0] <= _MAX_ENTRIES:
        raise ValueError(
            f"{where}: {name} has shape={short(shape)}: must be a vector of 1 to {_MAX_ENTRIES} entries; convert it"
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
