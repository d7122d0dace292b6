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

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet

from lewm.data.fit import Frame
from lewm.data.importers.clock import check_clock
from lewm.data.importers.decoding import blindness, decoded, opened, playable
from lewm.data.importers.geometry import upright
from lewm.data.importers.listing import visible
from lewm.data.importers.source import ImportOptions, Recording, Source, SourceInfo
from lewm.data.importers.tables import Log, read_logs

_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}

_GAP = 3.0
"""An interval this many times the median one is a gap, at which an episode ends and another begins."""
_SLACK = 0.25
_SENTENCES = 100

# Bounds of what a file may ask for. A damaged or hostile one may claim any size.
_MAX_FRAMES = 2**24


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

    format: ClassVar[str] = "video"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return bool(_videos(path))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        if options.cameras:
            raise ValueError(f"cameras={options.cameras[0]}: a video is one camera; leave it out")
        videos = _videos(path)
        if not videos:
            raise ValueError(f"{path}: holds no video of {', '.join(_CONTAINERS)}; give a folder of videos or a video")
        logs, problems = read_logs(path, videos, options)
        good = [log for log in logs.values() if isinstance(log, Log)]
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

    @property
    def names(self) -> tuple[str, ...]:
        return tuple("" if isinstance(episode, str) else episode.source for episode in self._episodes)

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
    files = visible(path) if path.is_dir() else [path]
    return [file for file in files if file.suffix.lower() in _CONTAINERS and file.is_file()]


def _plan(video: Path, log: Log, discrete: bool, gaps: list[str]) -> tuple[float, list[_Part]]:
    """Align a video with its actions and return its frame interval and its parts; add to `gaps` what is left out."""
    pts, times = _frame_times(video, gaps)
    step = _interval(times)
    check_clock(log.clock, log.times, times, step, video.name)
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
    unread = len(log.times) - int(rows[parts_of_frames[-1][-1]] - rows[parts_of_frames[0][0]]) - 1
    if 2 * unread > len(log.times):
        sentences.append(f"{unread} of {len(log.times)} rows of its table are of times before or behind its frames")
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


# Videos.


def _frame_times(video: Path, gaps: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the frames of a video in its own units and in seconds from the first, without decoding any."""
    stamps: list[int] = []
    found = 0

    def whole(packets: Iterator[Packet]) -> Iterator[Packet]:
        nonlocal found
        for packet in packets:
            if packet.size and not packet.is_corrupt:
                found += 1
                yield packet

    with opened(video, _format(video), video.name) as (container, stream):
        used = 0
        for packet in playable(whole(container.demux(stream))):
            used += 1
            if packet.is_discard:
                continue
            if packet.pts is None or len(stamps) == _MAX_FRAMES:
                what = "frames without times" if packet.pts is None else f"more than {_MAX_FRAMES} frames"
                raise ValueError(f"{video.name}: has {what}; convert it to MP4")
            stamps.append(packet.pts)
        claimed, unit, note = stream.frames, stream.time_base, blindness(stream.codec_context.codec.name)
        seconds = container.duration / av.time_base if container.duration and len(container.streams) == 1 else 0.0
    pts = np.unique(np.array(stamps, dtype=np.int64))
    if len(pts) < 2 or unit is None:
        raise ValueError(f"{video.name}: has {len(pts)} frames; record more")
    times = (pts - pts[0]) * float(unit)
    if used < found:
        gaps.append(f"{video.name}: {found - used} frames that need one before its first key frame are dropped")
    if video.suffix.lower() != ".avi" and found < claimed:  # an AVI counts pauses as frames
        gaps.append(f"{video.name}: is cut off or damaged, it claims {claimed} frames and has {found}")
    elif not claimed and seconds > times[-1] + _GAP * _interval(times) + max(float(pts[0] * unit), 0.0):
        gaps.append(f"{video.name}: is cut off or damaged, it claims {seconds:.3f} s and has {times[-1]:.3f} s")
    if note is not None and note not in gaps:
        gaps.append(note)
    return pts, times


def _frames(part: _Part) -> Iterator[Frame]:
    """Decode the frames of one part of a video in the order of their times."""
    video, pts, place = part.video, part.pts, 0
    for time, frame, shape in decoded(video, _format(video), video.name, int(pts[0]) if part.seek else None):
        if time > pts[place]:
            break
        if time == pts[place]:
            yield upright(frame, shape, video.name)
            place += 1
            if place == len(pts):
                return
    raise ValueError(f"{video.name}: frame {place} of {len(pts)} cannot be decoded in its place; convert it to MP4")


def _format(video: Path) -> str:
    return _CONTAINERS[video.suffix.lower()]
