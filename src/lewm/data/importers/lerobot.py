"""Data sets of LeRobot, formats v2 and v3, in a folder.

    meta/info.json     version, frames a second, features, and templates of the paths of all other files
    data/              Parquet, one row a frame: actions, states, and images where these are no videos
    videos/            mp4, one a camera

In v2 every episode has files of its own, and `meta/episodes.jsonl` lists them. In v3 a file holds many episodes, which
the tables in `meta/episodes/` find in it.

Only what locates and decodes the data can refuse it: the number of an episode in the rows of its table, the order of
these rows, and the place of its frames in a video. The rows tell how long an episode is. What else is said of it,
counts, ranges of rows, shapes, statistics, may be wrong or missing.
"""

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lewm.data.fit import Frame
from lewm.data.importers.decoding import blindness
from lewm.data.importers.lerobot_episodes import read_episodes
from lewm.data.importers.lerobot_features import choose_cameras, choose_numbers, entry_names, video_codec
from lewm.data.importers.lerobot_files import INFO, DataFile, exists, fill, find, inside
from lewm.data.importers.lerobot_frames import Clip, image_frames, video_frames
from lewm.data.importers.lerobot_meta import (
    CHUNKS,
    MAX_TEXT,
    OPTIONAL,
    V1_MARKS,
    read_meta,
    read_statistics,
    read_texts,
)
from lewm.data.importers.lerobot_rows import MAX_FRAMES, Column, episode_rows, read_numbers, table_columns, value_range
from lewm.data.importers.listing import is_hidden_path, listed
from lewm.data.importers.source import ImportOptions, Recording, Source, SourceInfo

_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_MAX_TEXTS = 100
_MAX_ACTIONS = 2**16
_MAX_SECONDS = 1e7


class LeRobotSource(Source):
    """Episodes of a LeRobot data set.

    Cameras are all features of the kinds video and image but depth maps; `top` is short for `observation.images.top`.
    The action is the feature `action` or `actions`, or all of `action.*` together; the state is `observation.state` or
    `state`, or all of `observation.state.*`. Where several of these are there, the options name one. A single whole
    number is a discrete action. What is odd about the data set is in `info.origin["notes"]`.

    Args:
        path: folder of the data set, with `meta/info.json` in it.
        options: the wanted cameras, action and state.

    Raises:
        ValueError: nothing can be imported.
    """

    format: ClassVar[str] = "lerobot"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return any(os.path.isfile(path / name) for name in (INFO, *V1_MARKS))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self._root = Path(os.path.realpath(path))
        self._meta = meta = read_meta(self._root)
        declared = [name for name, feature in meta.features.items() if feature.get("dtype") in ("video", "image")]
        fields: dict[str, int | str] = dict.fromkeys(CHUNKS if meta.is_v3 else ("episode_chunk", "episode_index"), 0)
        inside(self._root, fill(meta.data_path, fields))
        for key in declared:
            inside(self._root, fill(meta.video_path, fields | {"video_key": key}))
        self._episodes = read_episodes(self._root, meta, declared)
        self._others: list[DataFile] | None = None

        columns, self._images = self._read_columns()
        # In the order of `meta/info.json`, then of the table.
        names = [name for name in (*meta.features, *columns) if name in columns and name not in _BOOKKEEPING]
        columns = {name: columns[name] for name in names}
        action = choose_numbers("action", columns, options.action)
        state = choose_numbers("state", columns, options.state)
        if not action:
            raise ValueError(
                f"{INFO}: no action among the columns of numbers {listed(columns)}; name some with --action"
            )
        self._action, self._state = ({name: columns[name] for name in names} for names in (action, state))
        self._cameras, self._empty = choose_cameras(meta.features, options.cameras, self._has_files)

    @property
    def info(self) -> SourceInfo:
        """What `meta/` says, and what is wrong about it."""
        meta = self._meta
        sizes = {name: column.size for name, column in (self._action | self._state).items()}
        num_states = sum(column.size for column in self._state.values())
        states = entry_names(meta.features, {name: sizes[name] for name in self._state}) if num_states else ()
        texts = read_texts(self._root, is_v3=meta.is_v3)
        discrete, size = self._discrete, sum(column.size for column in self._action.values())
        return SourceInfo(
            task=self._root.name,
            action_kind="discrete" if discrete else "continuous",
            action_size=discrete or size,
            action_names=() if discrete else entry_names(meta.features, {name: sizes[name] for name in self._action}),
            state_names=states or tuple(f"state_{i}" for i in range(num_states)),
            fps=meta.fps,
            origin={
                "version": meta.version,
                "robot_type": meta.robot,
                "camera_keys": self._cameras,
                "action_keys": list(self._action),
                "state_keys": list(self._state),
                "statistics": read_statistics(self._root, sizes, is_v3=meta.is_v3),
                "num_tasks": len(texts),
                "tasks": [text[:MAX_TEXT] for text in texts[:_MAX_TEXTS]],
                "notes": self._notes(),
            },
        )

    @property
    def num_episodes(self) -> int:
        """Episodes in the table, and parts of the table that cannot be read."""
        return len(self._episodes.numbers) + len(self._episodes.problems)

    @property
    def names(self) -> tuple[str, ...]:
        """The numbers that the table gives; the files may be others when the data set has grown."""
        return (
            *(f"episode {number}" for number in self._episodes.numbers.tolist()),
            *("" for _ in self._episodes.problems),
        )

    def name_of(self, stored: str) -> str:
        """Return the name of the episode with a source that is stored."""
        return stored.partition(" of ")[0]

    def length(self, index: int) -> int:
        """Return the number of frames that the episode table gives."""
        lengths = self._episodes.lengths
        return int(min(np.nan_to_num(lengths[index]), MAX_FRAMES)) if index < len(lengths) else 0

    def episode(self, index: int) -> Recording:
        """Open one episode: its rows are read and checked, and its videos found."""
        if not 0 <= index < self.num_episodes:
            raise ValueError(f"episode={index}: there are {self.num_episodes}; use 0 to {self.num_episodes - 1}")
        if index >= len(self._episodes.numbers):
            raise ValueError(self._episodes.problems[index - len(self._episodes.numbers)])
        number = int(self._episodes.numbers[index])
        file, rows = self._rows(index, number)
        where = f"{file}, episode {number}"
        if not 1 <= len(rows) <= MAX_FRAMES:
            raise ValueError(f"{where}: has {len(rows)} rows; must be 1 to {MAX_FRAMES}; leave it out")
        arrays, clock = read_numbers(file, rows, self._action | self._state, where)
        views = [self._view(key, index, number, file, rows, clock) for key in self._cameras]
        return Recording(
            frames=views[0] if len(views) == 1 else zip(*views, strict=True),
            actions=self._actions([arrays[name] for name in self._action], where),
            states=_float32([arrays[name] for name in self._state]) if self._state else None,
            source=f"episode {number} of {file}",
            text=self._episodes.text(index),
        )

    def _actions(self, parts: list[npt.NDArray[np.float64]], where: str) -> npt.NDArray[Any]:
        if not self._discrete:
            return _float32(parts)
        values = parts[0][:, 0]
        if (bad := np.flatnonzero((values < 0) | (values >= self._discrete) | (values != np.floor(values)))).size:
            raise ValueError(f"{where}: action {values[bad[0]]} in row {bad[0]} is no whole number; leave it out")
        return values.astype(np.int64)

    @cached_property
    def _range(self) -> tuple[float, float, bool] | None:
        """The range of an action that is a single number and said to be a whole one."""
        (name, column), *others = self._action.items()
        dtype = self._meta.features.get(name, {}).get("dtype")
        whole = column.whole if not isinstance(dtype, str) else dtype.startswith(("int", "uint", "bool"))
        return value_range(self._data_files(), name) if whole and column.size == 1 and not others else None

    @property
    def _discrete(self) -> int:
        """The number of discrete actions, or 0 if the action is continuous."""
        if self._range is None:
            return 0
        low, high, whole = self._range
        return int(high) + 1 if whole and low >= 0 and high < _MAX_ACTIONS else 0

    def _notes(self) -> list[str]:
        meta, episodes = self._meta, self._episodes
        notes = list(episodes.notes)
        if meta.episodes not in (None, len(episodes.numbers)):
            notes.append(f"{INFO} counts {meta.episodes} episodes, and there are {len(episodes.numbers)}")
        total = float(episodes.lengths.sum())
        if meta.frames not in (None, total) and np.isfinite(total):
            notes.append(f"{INFO} counts {meta.frames} frames, and the episodes have {total:.0f}")
        for name in OPTIONAL:
            try:
                inside(self._root, name)
            except ValueError as error:  # it was not read
                notes.append(str(error))
        if self._empty:
            notes.append(f"cameras without files are left out: {listed(self._empty)}")
        codecs = [video_codec(meta.features.get(key, {})) for key in self._cameras if key not in self._images]
        notes += dict.fromkeys(note for codec in codecs if (note := blindness(codec)) is not None)
        if self._range is not None and not self._discrete:
            low, high, _ = self._range
            notes.append(
                f"{listed(self._action)}: is said to be a whole number and has {low:g} to {high:g}, so it is "
                f"continuous; discrete actions are 0 to {_MAX_ACTIONS - 1}"
            )
        return notes

    # Files.

    def _numbers(self, index: int, number: int, of: str) -> dict[str, int | str] | None:
        """Return what stands for the fields of a path template, or None if the table does not say it."""
        if not self._meta.is_v3:
            return {"episode_chunk": number // self._meta.chunks_size, "episode_index": number}
        fields: dict[str, int | str] = {}
        for name in CHUNKS:
            value = self._episodes.place(index, f"{of}/{name}")
            if value is None or value < 0:
                return None
            fields[name] = int(value)
        return fields

    def _rows(self, index: int, number: int) -> tuple[DataFile, range]:
        """Return the table of an episode and its rows there; if it is not where it should be, other tables have it."""
        own = not self._meta.is_v3
        fields = self._numbers(index, number, "data")
        name = None if fields is None else fill(self._meta.data_path, fields)
        file = find(self._root, name) if name is not None and (own or exists(self._root, name)) else None
        if file is not None and (rows := episode_rows(file, number, own=own)):
            return file, rows
        for other in self._all_tables() if not own else ():
            if rows := episode_rows(other, number, own=False):
                return other, rows
        raise ValueError(f"episode {number}: has no rows in {file or name or 'data/'}; copy the data set again")

    def _all_tables(self) -> list[DataFile]:
        if self._others is None:
            paths = (path.relative_to(self._root) for path in (self._root / "data").rglob("*.parquet"))
            names = sorted(path.as_posix() for path in paths if not is_hidden_path(path.as_posix()))
            self._others = []
            for name in names:
                with contextlib.suppress(ValueError):  # leads out of the folder
                    self._others.append(find(self._root, name))
        return self._others

    def _data_files(self) -> Iterator[DataFile]:
        """Yield the tables of all episodes that are there, each once."""
        seen: set[str] = set()
        for index, number in enumerate(self._episodes.numbers.tolist()):
            fields = self._numbers(index, number, "data")
            name = None if fields is None else fill(self._meta.data_path, fields)
            if name is not None and name not in seen:
                seen.add(name)
                with contextlib.suppress(ValueError):  # costs its episodes when they are opened
                    yield find(self._root, name)
        if self._meta.is_v3:
            yield from (file for file in self._all_tables() if file.name not in seen)

    def _read_columns(self) -> tuple[dict[str, Column], list[str]]:
        """Return the columns of numbers and of images of the first table that can be read."""
        for file in self._data_files():
            with contextlib.suppress(ValueError):
                numbers, images = table_columns(file)
                if numbers:
                    return numbers, images
        file, _ = self._rows(0, int(self._episodes.numbers[0]))
        table_columns(file)
        raise ValueError(f"{file}: has no numbers in its columns; copy the data set again")

    def _has_files(self, key: str) -> bool:
        if key in self._images:
            return True
        for index, number in enumerate(self._episodes.numbers.tolist()):
            fields = self._numbers(index, number, f"videos/{key}")
            if fields is not None and exists(self._root, fill(self._meta.video_path, fields | {"video_key": key})):
                return True
        return False

    def _view(
        self, key: str, index: int, number: int, data: DataFile, rows: range, clock: npt.NDArray[np.float64] | None
    ) -> Iterator[Frame]:
        """Return an iterator over the frames of one camera."""
        where = f"episode {number}, camera {key}"
        if key in self._images:
            return image_frames(data, rows, key, where)
        fields = self._numbers(index, number, f"videos/{key}")
        if fields is None:
            raise ValueError(f"{where}: the episode table names no video file; repair it")
        file = find(self._root, fill(self._meta.video_path, fields | {"video_key": key}))
        return video_frames(self._clip(key, index, file, len(rows), clock, where), where)

    def _clip(
        self, key: str, index: int, file: DataFile, length: int, clock: npt.NDArray[np.float64] | None, where: str
    ) -> Clip:
        """Return where the frames of an episode are in a video.

        The end that the table of v3 gives is the time of the last frame, or that at which it ends; it need not be
        right. Only if it is too early, and another episode begins before the last frame, is it a reason to refuse.
        """
        steps = [1 / self._meta.fps] if self._meta.fps else []
        if clock is not None and len(clock) > 1:
            steps.append(float(np.median(np.diff(clock))))
        if not steps:
            raise ValueError(f"{INFO}: fps is missing, which finds the frames of a video; add it")
        if not self._meta.is_v3:
            return Clip(file, length, steps[0], 0.0, None, clock)
        name, places = f"videos/{key}", self._episodes.places
        start, end = (self._episodes.place(index, f"{name}/{side}_timestamp") for side in ("from", "to"))
        if start is None or not 0 <= start <= _MAX_SECONDS:
            raise ValueError(f"{where}: begins at {start} s in its video; repair the episode table")
        end = end if end is not None and end <= _MAX_SECONDS else start
        # As many frames as rows, up to the time of the last one or to its end.
        far = [min(abs((end - start) / step - count) for count in (length - 1, length)) for step in steps]
        if min(far) <= 0.5:
            return Clip(file, length, steps[int(np.argmin(far))], start, end, None)
        step = steps[0]
        needed = start + (length - 0.5) * step
        if end < needed:
            same = np.all([places[f"{name}/{part}"] == places[f"{name}/{part}"][index] for part in CHUNKS], axis=0)
            begins = places[f"{name}/from_timestamp"]
            if (others := np.flatnonzero(same & (begins > start) & (begins < needed))).size:
                raise ValueError(
                    f"{where}: its {length} frames begin at {start:.3f} s in {file} and end at {end:.3f} s, and "
                    f"episode {self._episodes.numbers[others[0]]} begins before the last; repair the episode table"
                )
        return Clip(file, length, step, start, max(end, start + length * step), clock)


def _float32(parts: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinite, which the check of a store reports
        return np.concatenate(parts, axis=1).astype(np.float32)
