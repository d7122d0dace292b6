"""Recordings as video files with a table of actions and times beside them.

    run1.mp4  run1.csv          a table of the same name beside each video, CSV or Parquet,
    run2.mp4  run2.parquet
    actions.csv                 or one table for all, whose column `file`, `video` or `episode` names the video

A table has a column `timestamp`, `time` or `t`: seconds from the video's first frame, or other units that the name
says, as in `timestamp_ms`, `_us` and `_ns`. Its actions are the columns whose names begin with `action`, its states
those that begin with `state`; a single column `action` of whole numbers is a discrete action. Rows go forward in time.

Videos and tables are aligned by time, so that frame rates may vary and differ from the rate of the actions. An action
is in force until the next one, and a frame gets the one in force. Where actions are faster than frames, a frame gets
the mean of all that come into force until the next frame: unlike every n-th action, it keeps the sum of velocities and
displacements. Of discrete actions, which have no mean, those between are lost. States are those of the frame's time.

An action that comes at most a quarter of an interval after a frame counts as simultaneous: times in tables are rounded,
and a robot acts a moment after it has seen.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from lewm.data.importing import Format, Frame, ImportOptions, Recording, Source, SourceInfo

_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
_TABLES = (".csv", ".parquet")
_UNITS = {"": 1.0, "_s": 1.0, "_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}
_TIMES = {name + unit: scale for name in ("timestamp", "time", "t") for unit, scale in _UNITS.items()}
_NAMES = ("file", "video", "episode")

_GAP = 3.0
"""An interval this many times the median one is a gap, at which an episode ends and another begins."""
_SLACK = 0.25
_SENTENCES = 100

# Bounds of what a file may ask for. A damaged or hostile one may claim any size.
_MAX_BYTES = 2**30
_MAX_ROWS = 2**26
_MAX_COLUMNS = 4096
_MAX_ACTIONS = 2**16
_MAX_FRAMES = 2**24
_MAX_PIXELS = 2**26


@dataclass(frozen=True, slots=True)
class _Log:
    """What a table says about one video.

    Args:
        times: (N,) float64, seconds from the video's first frame, ascending.
        actions: (N, A) float64.
        states: (N, S) float64.
        action_names: names of the action columns.
        state_names: names of the state columns.
        discrete: whether there is one column of whole numbers.
    """

    times: npt.NDArray[np.float64]
    actions: npt.NDArray[np.float64]
    states: npt.NDArray[np.float64]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    discrete: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a video without gaps: an episode.

    Args:
        video: the file.
        pts: (L,) int64, times of its frames in the units of the file.
        seek: whether it does not begin with the video.
        actions: (L, A) float32, or (L,) int64 for discrete actions.
        states: (L, S) float32, or None.
        source: the file, and where in it.
    """

    video: Path
    pts: npt.NDArray[np.int64]
    seek: bool
    actions: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    states: npt.NDArray[np.float32] | None
    source: str


class VideoSource(Source):
    """Videos of a folder, or one video, with their tables of actions.

    A video is split at every gap of more than three median intervals, in its frames or its actions (of actions faster
    than frames: three frame intervals); frames without an action are dropped. The last action before a gap or the end
    is in force for one interval. What was split and dropped is in `info.origin["notes"]`.

    Args:
        path: the folder or video.
        options: of several cameras there is no support.

    Raises:
        ValueError: nothing can be imported.
    """

    format: ClassVar[Format] = "video"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return bool(_videos(path))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        if options.cameras:
            raise ValueError(f"cameras={options.cameras[0]}: a video is one camera; leave it out")
        videos = _videos(path)
        if not videos:
            raise ValueError(f"{path}: holds no video of {', '.join(_CONTAINERS)}; give a folder of videos or a video")
        logs, problems = _read_logs(path, videos)
        good = [log for log in logs.values() if isinstance(log, _Log)]
        discrete = all(log.discrete for log in good)
        gaps: list[str] = []
        steps: list[float] = []
        self._episodes: list[_Part | str] = []
        for video in videos:
            try:
                log = logs[video]
                if isinstance(log, str):
                    raise ValueError(log)
                if (log.action_names, log.state_names) != (good[0].action_names, good[0].state_names):
                    raise ValueError(f"{video.name}: its table has other columns than those before; import it alone")
                step, parts = _plan(video, log, discrete, gaps)
                steps.append(step)
                self._episodes += parts
            except ValueError as error:
                self._episodes.append(str(error))
        self._episodes += problems
        if not steps:
            raise ValueError(self._episodes[0])
        if max(steps) > 1.05 * min(steps):
            gaps.insert(0, f"frame rates differ from video to video: {1 / max(steps):.2f} to {1 / min(steps):.2f}")
        if len(gaps) > _SENTENCES:
            gaps[_SENTENCES:] = [f"and {len(gaps) - _SENTENCES} more"]
        size = int(max(log.actions.max() for log in good)) + 1 if discrete else len(good[0].action_names)
        self._info = SourceInfo(
            task=path.stem if path.is_file() else path.name,
            action_kind="discrete" if discrete else "continuous",
            action_size=size,
            action_names=() if discrete else good[0].action_names,
            state_names=good[0].state_names,
            fps=1 / float(np.median(steps)),
            origin={"videos": len(videos), "notes": gaps},
        )

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def length(self, index: int) -> int:
        episode = self._episodes[index]
        return 0 if isinstance(episode, str) else len(episode.pts)

    def episode(self, index: int) -> Recording:
        episode = self._episodes[index]
        if isinstance(episode, str):
            raise ValueError(episode)
        return Recording(
            frames=_frames(episode),
            actions=episode.actions,
            states=episode.states,
            source=episode.source,
        )


def _videos(path: Path) -> list[Path]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in files if file.suffix.lower() in _CONTAINERS and file.is_file()]


def _plan(video: Path, log: _Log, discrete: bool, gaps: list[str]) -> tuple[float, list[_Part]]:
    """Align a video with its actions and return its frame interval and its parts; add to `gaps` what is left out."""
    pts, times = _frame_times(video, gaps)
    step = _interval(times)
    rows, parts_of_frames, sentences = _align(times, step, log.times)
    parts = []
    for frames in parts_of_frames:
        taken = rows[frames]
        actions = log.actions[taken, 0].astype(np.int64) if discrete else _means(log.actions, taken).astype(np.float32)
        parts.append(
            _Part(
                video=video,
                pts=pts[frames],
                seek=bool(frames[0] > 0),
                actions=actions,
                states=log.states[taken].astype(np.float32) if log.state_names else None,
                source=video.name if len(parts_of_frames) == 1 else f"{video.name} from {times[frames[0]]:.3f} s",
            )
        )
    if not parts:
        raise ValueError(
            f"{video.name}: no two frames in a row have actions, with frames at 0 to {times[-1]:.3f} s and actions at "
            f"{log.times[0]:.3f} to {log.times[-1]:.3f} s; give seconds from the first frame"
        )
    gaps += [f"{video.name}: {sentence}" for sentence in sentences]
    return step, parts


def _align(
    frames: npt.NDArray[np.float64], step: float, actions: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]], list[str]]:
    """Find the action of each frame by time.

    Args:
        frames: (F,) seconds of the frames.
        step: the frame interval.
        actions: (N,) seconds of the actions, ascending.

    Returns:
        For each frame the last action at or before it; the frames of each part without gaps; and what was left out.
    """
    action_step = _interval(actions) if actions[-1] > actions[0] else step
    slack = _SLACK * min(step, action_step)
    rows = np.searchsorted(actions, frames + slack, side="right") - 1

    # A pause shorter than a frame is none, however fast the actions are.
    pauses = np.append(np.diff(actions), np.inf)
    gap_follows = pauses > _GAP * max(action_step, step) + slack
    used = (rows >= 0) & (frames <= np.where(gap_follows, actions + action_step + slack, np.inf)[rows])
    gaps_before = np.concatenate([[0], np.cumsum(gap_follows)])[np.maximum(rows, 0)]
    frame_gap, action_gap = np.diff(frames) > _GAP * step + slack, np.diff(gaps_before) > 0

    sentences, gap_rows = [], np.flatnonzero(gap_follows)
    for k in np.flatnonzero(frame_gap | action_gap):
        if frame_gap[k]:
            sentences.append(
                f"split at {frames[k]:.3f} s, where no frame follows for {frames[k + 1] - frames[k]:.3f} s"
            )
        else:
            last = gap_rows[np.searchsorted(gap_rows, rows[k + 1]) - 1]
            sentences.append(f"split at {actions[last]:.3f} s, where no action follows for {pauses[last]:.3f} s")
    part = np.concatenate([[0], np.cumsum(frame_gap | action_gap)])
    chosen = np.flatnonzero(used)
    kept = [whole for whole in np.split(chosen, np.flatnonzero(np.diff(part[chosen])) + 1) if len(whole) > 1]
    before = int((rows < 0).sum())
    other = len(frames) - before - sum(map(len, kept))
    if before:
        sentences.append(f"{before} frames before its first action are dropped")
    if other:
        sentences.append(f"{other} frames behind its last action, in gaps or alone are dropped")
    return rows, kept, sentences


def _means(actions: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return for each frame the mean of the actions from its row to that of the next frame, or its row's alone."""
    sums = np.add.reduceat(actions[: rows[-1] + 1], rows, axis=0)
    return sums / np.maximum(np.diff(rows, append=rows[-1] + 1), 1)[:, None]


def _interval(times: npt.NDArray[np.float64]) -> float:
    """Return the median time between two events."""
    steps = np.diff(times)
    return float(np.median(steps[steps > 0]))


# Tables.


def _read_logs(path: Path, videos: list[Path]) -> tuple[dict[Path, _Log | str], list[str]]:
    """Return what the tables say about each video, or why it cannot be told, and what else is wrong with them."""
    folder = path if path.is_dir() else path.parent
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in _TABLES and file.is_file()]
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
            return _read_shared(tables[0], folder, videos)
    logs: dict[Path, _Log | str] = {}
    for video in videos:
        try:
            if path.is_dir():
                _check_inside(video, folder)
            found = own[video.stem]
            if len(found) != 1:
                what = "has several tables" if found else "has no table"
                raise ValueError(f"{video.name}: {what} of its name beside it; give one with its times and actions")
            _check_inside(found[0], folder)
            logs[video] = _log(_read_table(found[0]), found[0].name)
        except ValueError as error:
            logs[video] = str(error)
    return logs, []


def _read_shared(table: Path, folder: Path, videos: list[Path]) -> tuple[dict[Path, _Log | str], list[str]]:
    """Return what one table says about all videos."""
    _check_inside(table, folder)
    rows = _read_table(table)
    if rows.num_rows == 0:
        raise ValueError(f"{table.name}: has no rows; record some")
    key = next((name for name in _NAMES if name in rows.column_names), None)
    if key is None:
        raise ValueError(
            f"{table.name}: has the columns {_listed(rows.column_names)}; must have {' or '.join(_NAMES)} to name the "
            "video of each row, or be named as a video"
        )
    try:
        named = rows[key].cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        raise ValueError(f"{table.name}: its column {key} must be text; name the video of each row") from error
    if named.null_count:
        raise ValueError(f"{table.name}: its column {key} has empty cells; name the video of each row")
    order = np.argsort(named.indices.to_numpy(), kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(named.indices.to_numpy(), minlength=len(named.dictionary)))[:-1])
    given = dict(zip(named.dictionary.to_pylist(), groups, strict=True))
    logs: dict[Path, _Log | str] = {}
    for video in videos:
        try:
            _check_inside(video, folder)
            stems = sum(other.stem == video.stem for other in videos)
            found = [
                given.pop(name) for name in {video.name, video.stem if stems == 1 else video.name} if name in given
            ]
            if len(found) != 1:
                raise ValueError(
                    f"{video.name}: is named in no row of {table.name}, or in two ways; name it in one way"
                )
            logs[video] = _log(rows.take(found[0]), f"{table.name}, {video.name}")
        except ValueError as error:
            logs[video] = str(error)
    problems = []
    if given:
        problems.append(
            f"{table.name}: names {len(given)} videos that are not in the folder, the first {next(iter(given))!r}; put "
            "them there or remove their rows"
        )
    return logs, problems


def _read_table(path: Path) -> pa.Table:
    """Read a CSV or Parquet table."""
    try:
        if path.suffix.lower() == ".csv":
            if (size := path.stat().st_size) > _MAX_BYTES:
                raise ValueError(f"{path.name}: is {size} bytes, more than {_MAX_BYTES}; split it or use Parquet")
            table = pyarrow.csv.read_csv(path, read_options=pyarrow.csv.ReadOptions(use_threads=False))
            table = table.rename_columns([name.strip() for name in table.column_names])
        else:
            with pq.ParquetFile(path) as file:
                names = [name for name in file.schema_arrow.names if _is_known(name)]
                if file.metadata.num_rows > _MAX_ROWS or len(names) > _MAX_COLUMNS:
                    raise ValueError(
                        f"{path.name}: has {file.metadata.num_rows} rows and {len(names)} columns; must be at most "
                        f"{_MAX_ROWS} and {_MAX_COLUMNS}"
                    )
                table = file.read(names, use_threads=False) if names else file.schema_arrow.empty_table()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise ValueError(f"{path.name}: is no {path.suffix[1:]} table ({reason}); write it again") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError(f"{path.name}: has two columns of one name in {_listed(table.column_names)}; rename one")
    return table


def _is_known(name: str) -> bool:
    return name in _TIMES or name in _NAMES or name.startswith(("action", "state"))


def _log(table: pa.Table, where: str) -> _Log:
    """Check the rows of one video."""
    names = table.column_names
    clocks = [name for name in names if name in _TIMES]
    actions = tuple(name for name in names if name.startswith("action"))
    states = tuple(name for name in names if name.startswith("state"))
    if len(clocks) != 1 or not actions:
        raise ValueError(
            f"{where}: has the columns {_listed(names)}; must have one of timestamp, time or t, and "
            "some that begin with action"
        )
    if len(actions) + len(states) > _MAX_COLUMNS:
        raise ValueError(f"{where}: has {len(actions) + len(states)} columns; must be at most {_MAX_COLUMNS}")
    if table.num_rows == 0:
        raise ValueError(f"{where}: has no rows; record some")
    times = _numbers(table, clocks, where)[:, 0] * _TIMES[clocks[0]]
    if (back := np.flatnonzero(np.diff(times) < 0)).size:
        raise ValueError(f"{where}: {clocks[0]} goes back in row {back[0] + 2}; sort the rows, or split the recording")
    values = _numbers(table, actions, where)
    discrete = actions == ("action",) and pa.types.is_integer(table.schema.field("action").type)
    if discrete and (values.min() < 0 or values.max() >= _MAX_ACTIONS):
        raise ValueError(
            f"{where}: action is whole numbers of {values.min():.0f} to {values.max():.0f}; number discrete actions "
            f"from 0 to {_MAX_ACTIONS - 1}, or write real ones as 1.0"
        )
    return _Log(times, values, _numbers(table, states, where), actions, states, discrete)


def _numbers(table: pa.Table, names: list[str] | tuple[str, ...], where: str) -> npt.NDArray[np.float64]:
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


def _check_inside(file: Path, folder: Path) -> None:
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{file.name}: links out of {folder}; copy it in")


def _listed(names: list[str]) -> str:
    return (", ".join(names[:20]) + (" ..." if len(names) > 20 else "")) or "none"


# Videos.


def _frame_times(video: Path, gaps: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the frames of a video in its own units and in seconds from the first, without decoding any."""
    stamps: list[int] = []
    found = 0
    with _opened(video) as (container, stream):
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_corrupt:
                continue
            found += 1
            if packet.is_discard:
                continue
            if packet.pts is None or len(stamps) == _MAX_FRAMES:
                what = "frames without times" if packet.pts is None else f"more than {_MAX_FRAMES} frames"
                raise ValueError(f"{video.name}: has {what}; convert it to MP4")
            stamps.append(packet.pts)
        claimed, unit = stream.frames, stream.time_base
    pts = np.unique(np.array(stamps, dtype=np.int64))
    if len(pts) < 2 or unit is None:
        raise ValueError(f"{video.name}: has {len(pts)} frames; record more")
    if video.suffix.lower() != ".avi" and found < claimed:  # an AVI counts pauses as frames
        gaps.append(f"{video.name}: is cut off or damaged, it claims {claimed} frames and has {found}")
    return pts, (pts - pts[0]) * float(unit)


def _frames(part: _Part) -> Iterator[Frame]:
    """Decode the frames of one part of a video in the order of their times."""
    video, pts, place = part.video, part.pts, 0
    with _opened(video) as (container, stream):
        context = stream.codec_context
        context.options = {"max_pixels": str(_MAX_PIXELS)}
        if multiprocessing.parent_process() is None:
            context.thread_type = "AUTO"
        else:  # with one worker a core, further threads only cost
            context.thread_count = 1
        if part.seek:
            container.seek(int(pts[0]), stream=stream)  # to the last key frame at or before it
        for packet in container.demux(stream):
            for frame in packet.decode() if not packet.is_corrupt else ():
                if frame.pts is None or frame.pts < pts[place]:
                    continue
                if frame.pts > pts[place] or frame.is_corrupt:
                    break
                yield _upright(frame, video)
                place += 1
                if place == len(pts):
                    return
            else:
                continue
            break
    raise ValueError(f"{video.name}: frame {place} of {len(pts)} cannot be decoded in its place; convert it to MP4")


@contextmanager
def _opened(video: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and its first stream of images."""
    try:
        # The format is fixed because others, playlists among them, make a file name other files.
        with av.open(str(video), format=_CONTAINERS[video.suffix.lower()], metadata_errors="replace") as container:
            if not container.streams.video:
                raise ValueError(f"{video.name}: holds no video, or not all of it; copy it again")
            stream = container.streams.best("video")
            assert isinstance(stream, VideoStream)
            if stream.codec_context is None or stream.codec_context.codec.name == "av1":  # which needs special hardware
                raise ValueError(f"{video.name}: is encoded in a way that PyAV cannot decode here; convert it to H.264")
            yield container, stream
    except FFmpegError as error:
        raise ValueError(f"{video.name}: cannot be read ({error.strerror}); copy or convert it again") from error


def _upright(frame: av.VideoFrame, video: Path) -> Frame:
    """Turn a frame as its display matrix says, which phones write in place of turning the pixels."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return frame
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if frame.rotation % 90 or a * d - b * c <= 0:
        raise ValueError(f"{video.name}: is to be shown mirrored or turned by {frame.rotation} degrees; convert it")
    if frame.rotation == 0:
        return frame
    return np.rot90(np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8), frame.rotation // 90)
