"""What `meta/` of a LeRobot data set says: version, features, templates of paths, task texts and statistics.

Only what locates and decodes the data is required of it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.importers.columns import as_rate
from lewm.data.importers.lerobot_files import INFO, exists, find, read_json, read_json_lines, short
from lewm.data.importers.lerobot_rows import BAD_TABLE

V1_MARKS = ("meta_data/info.json", "meta_data/episode_data_index.safetensors", "meta_data/stats.safetensors")
"""Files of the format's first version, which stores Arrow files and safetensors."""
OPTIONAL = ("meta/tasks.jsonl", "meta/tasks.parquet", "meta/stats.json", "meta/episodes_stats.jsonl")
"""Files that are a note, and no reason to refuse a data set."""
CHUNKS = "chunk_index", "file_index"
_DATA_PATHS = (
    "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
)
_VIDEO_PATHS = (
    "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
)
_CHUNKS_SIZE = 1000
_STATISTICS = ("mean", "std", "min", "max")

# Bounds of what a file may ask for. A damaged or hostile one may claim any size.
MAX_EPISODES = 2**20
MAX_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Meta:
    """What `meta/info.json` says.

    Args:
        version: as written there, such as `v2.1`.
        is_v3: whether a file holds many episodes.
        fps: frames a second, if it says so.
        episodes: how many it counts, if it does.
        frames: how many it counts, if it does.
        chunks_size: episodes in a folder, v2 only.
        features: by name, in order.
        data_path: template of the paths of tables.
        video_path: template of the paths of videos.
        robot: what it calls the robot.
    """

    version: str
    is_v3: bool
    fps: float | None
    episodes: int | None
    frames: int | None
    chunks_size: int
    features: dict[str, dict[str, Any]]
    data_path: str
    video_path: str
    robot: str | None


def read_meta(root: Path) -> Meta:
    """Read `meta/info.json`.

    Raises:
        ValueError: it is no JSON object, or of a version that is not read.
    """
    if not exists(root, INFO) and any(exists(root, mark) for mark in V1_MARKS):
        raise ValueError(_OLD.format(root.name[:60]))
    info = read_json(find(root, INFO))
    version, data_path, video_path = (info.get(name) for name in ("codebase_version", "data_path", "video_path"))
    if version is None:
        is_v3 = "{chunk_index" in data_path if isinstance(data_path, str) else (root / "meta" / "episodes").is_dir()
        version = "v3.0" if is_v3 else "v2.0"
    major = re.fullmatch(r"v?([0-9]+)(\.[0-9]+)*", version) if isinstance(version, str) else None
    if major is not None and int(major[1]) < 2:
        raise ValueError(_OLD.format(root.name[:60]))
    if major is None or int(major[1]) > 3:
        raise ValueError(
            f"{INFO}: codebase_version={short(version)}: must be v2.0, v2.1 or v3.0; convert the data set with LeRobot"
        )
    is_v3 = major[1] == "3"
    features = info.get("features")
    features = features if isinstance(features, dict) else {}
    robot = info.get("robot_type")
    return Meta(
        version=str(version),
        is_v3=is_v3,
        fps=as_rate(info.get("fps")) or _video_fps(features),
        episodes=_count(info, "total_episodes"),
        frames=_count(info, "total_frames"),
        chunks_size=_count(info, "chunks_size") or _CHUNKS_SIZE,
        features={name: feature for name, feature in features.items() if isinstance(feature, dict)},
        data_path=data_path if isinstance(data_path, str) else _DATA_PATHS[is_v3],
        video_path=video_path if isinstance(video_path, str) else _VIDEO_PATHS[is_v3],
        robot=robot[:MAX_TEXT] if isinstance(robot, str) else None,
    )


_OLD = (
    "{}: is a LeRobot data set of format v1 (Arrow files and safetensors), which is not read; convert it to v2 with "
    "LeRobot 0.1's convert_dataset_v1_to_v2.py, then import it"
)


def read_texts(root: Path, *, is_v3: bool) -> list[str]:
    """Return the texts of all tasks, as far as they can be read."""
    name = "meta/tasks.parquet" if is_v3 else "meta/tasks.jsonl"
    try:
        if not is_v3:
            rows = read_json_lines(find(root, name), MAX_EPISODES)
            return [row["task"] for row in rows if isinstance(row, dict) and isinstance(row.get("task"), str)]
        with pq.ParquetFile(find(root, name).path) as file:
            if file.metadata.num_rows > MAX_EPISODES:
                return []
            # The texts are the index of a table of pandas, which has a name or not.
            (column,) = [name for name in ("task", "__index_level_0__") if name in file.schema_arrow.names][:1]
            texts = file.read(columns=[column], use_threads=False)[column].cast(pa.string()).to_pylist()
        return [text for text in texts if text is not None]
    except (ValueError, *BAD_TABLE):
        return []


def read_statistics(root: Path, sizes: Mapping[str, int], *, is_v3: bool) -> dict[str, dict[str, list[float]]]:
    """Return mean, standard deviation, least and greatest value of features, as far as recorded.

    They are a note, and no reason to refuse a data set.
    """
    try:
        if not is_v3 and exists(root, "meta/episodes_stats.jsonl"):
            rows = read_json_lines(find(root, "meta/episodes_stats.jsonl"), MAX_EPISODES)
            stats = [row.get("stats") if isinstance(row, dict) else None for row in rows]
            return {name: _pooled(_of_feature(one, name, size) for one in stats) for name, size in sizes.items()}
        whole = read_json(find(root, "meta/stats.json"))
    except ValueError:
        return {}
    found = {name: _of_feature(whole, name, size) for name, size in sizes.items()}
    return {name: {key: one[key].tolist() for key in _STATISTICS if key in one} for name, one in found.items()}


def _of_feature(stats: object, name: str, size: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the statistics of one feature that can be read."""
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


def _pooled(episodes: Iterable[dict[str, npt.NDArray[np.float64]]]) -> dict[str, list[float]]:
    """Return the statistics of all episodes together, or nothing if some lack theirs."""
    stats = list(episodes)
    if not stats or any(len(one) <= len(_STATISTICS) for one in stats):
        return {}
    weight = np.stack([one["count"] for one in stats])  # (E, 1)
    mean, std, least, most = (np.stack([one[key] for one in stats]) for key in _STATISTICS)  # (E, A) each
    if not (total := weight.sum()) > 0:
        return {}
    weight = weight / total
    middle = (weight * mean).sum(axis=0)
    spread = np.sqrt((weight * (std**2 + (mean - middle) ** 2)).sum(axis=0))
    pooled = (middle, spread, least.min(axis=0), most.max(axis=0))
    return {key: array.tolist() for key, array in zip(_STATISTICS, pooled, strict=True)}


def _count(info: Mapping[str, Any], name: str) -> int | None:
    value = info.get(name)
    return value if type(value) is int and value > 0 else None


def _video_fps(features: Mapping[str, Any]) -> float | None:
    """Return the rate that the videos are said to have."""
    details = [
        feature.get(name)
        for feature in features.values()
        if isinstance(feature, dict)
        for name in ("info", "video_info")
    ]
    rates = {as_rate(one.get("video.fps")) for one in details if isinstance(one, dict)} - {None}
    return rates.pop() if len(rates) == 1 else None
