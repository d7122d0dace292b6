"""What an importer is: a `Source`, which reads a recording's tables when it is opened, and later its episodes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy.typing as npt

from lewm.data.cameras import CameraFitter, Tile, tile
from lewm.data.check.control_mode import GIVEN
from lewm.data.fit import Frame, FrameFit
from lewm.data.store import StoreMeta


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that cannot be used; where pictures have nothing to do with each other, it alone is left out.

    Args:
        reason: names it and says why, in one line.
    """

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions(FrameFit):
    """What of a recording is imported, and how."""

    cameras: tuple[str, ...] = ()
    """Cameras of the recording; several share the square frame, see `lewm.data.cameras.tile`. Empty if there is one."""
    action: tuple[str, ...] = ()
    """Columns, datasets or features that are the action, concatenated in this order; empty to detect them."""
    state: tuple[str, ...] = ()
    """Columns, datasets or features that are the state, concatenated in this order; empty to detect them."""
    control_mode: Literal["position", "displacement", "velocity"] | None = None
    """What continuous actions command: where to be, how far or how fast to move; by default it is guessed."""
    frame_skip: int = 1
    """Keep every n-th frame; an action is then the n actions between two of them, concatenated."""

    def __post_init__(self) -> None:
        FrameFit.__post_init__(self)
        if self.frame_skip < 1:
            raise ValueError(f"frame_skip={self.frame_skip}: must be at least 1; use 1 for every frame")
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras={', '.join(self.cameras)}: a camera is named twice; name each once")
        for field_, names in (("action", self.action), ("state", self.state)):
            if len(set(names)) != len(names):
                raise ValueError(f"{field_}={', '.join(names)}: a name is given twice; give each once")
        if len(self.tiles) > 1 and self.crop_box is not None:
            raise ValueError(f"crop_box={self.crop_box}: is of one camera; leave it out, or name one camera")

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """Where each camera lies in a frame."""
        return tile(max(len(self.cameras), 1), self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceInfo:
    """What a recording says about itself; it becomes the store's `meta.json`."""

    task: str
    """Name of the task, robot or data set."""
    action_kind: Literal["continuous", "discrete", "none"]
    """Real vectors, one integer out of `action_size`, or images without actions."""
    action_size: int
    """Length of the recorded action vector, number of discrete actions, or 0."""
    action_names: tuple[str, ...] = ()
    """Names of the entries of a continuous action, where the recording has them."""
    state_names: tuple[str, ...] = ()
    """Names of the state variables; empty when there are none."""
    fps: float | None = None
    """Frames a second, where time is real."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What else the recording says, as JSON: format, version, cameras, statistics, task texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One episode of a recording, before its frames are fitted.

    Args:
        frames: yields the L frames; of several cameras, a tuple of one frame a camera. Each camera keeps its size. Of
            images of their own, `LeftOut` in place of one that cannot be used.
        actions: (L, A) real, (L,) integer for discrete actions, or (L, 0) for none: action t is taken at frame t.
        states: (L, S) real, or None.
        source: where it comes from, in a few words that find it again.
        text: the task in words, where the recording has them.
        same_size: whether all frames of a camera must have the size of the first; images of their own need not.
        left_out: what else of it cannot be used, in one line each.
    """

    frames: Iterable[Frame | tuple[Frame, ...] | LeftOut]
    actions: npt.NDArray[Any]
    states: npt.NDArray[Any] | None
    source: str
    text: str = ""
    same_size: bool = True
    left_out: tuple[str, ...] = ()


class Source(ABC):
    """A recording that can be imported.

    Opening it reads and checks its tables and decodes no frame. It is opened anew in every worker process. Whatever is
    wrong with the files is a `ValueError` of one line, `where: what; remedy`: when opening, if nothing can be
    imported; in `episode`, if that episode cannot be, and then it is skipped and reported.

    Args:
        path: what the user gave: a file or a folder.
        options: the wanted cameras, action and state; fitting and frame-skip are not the source's business.
    """

    format: ClassVar[str]
    """Its name in `lewm.config.choices.FORMATS`."""

    @classmethod
    @abstractmethod
    def matches(cls, path: Path) -> bool:
        """Tell at a glance, without reading data, whether a path looks like this format."""

    @abstractmethod
    def __init__(self, path: Path, options: ImportOptions) -> None: ...

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """What the recording says about itself."""

    @property
    @abstractmethod
    def num_episodes(self) -> int:
        """Episodes in the recording, bad ones included."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names by which each episode is found again when the recording has grown; "" of one that cannot be opened.

        None where the number of an episode never changes.
        """
        return None

    def name_of(self, stored: str) -> str:
        """Return the name of an episode whose `Recording.source` is stored; by default they are the same."""
        return stored

    @abstractmethod
    def length(self, index: int) -> int:
        """Return the number of frames of an episode, or a guess for the progress bar."""

    @abstractmethod
    def episode(self, index: int) -> Recording:
        """Open one episode; its frames are decoded while they are iterated over."""


def camera_fitter(options: ImportOptions) -> CameraFitter:
    """Return what makes one frame of the cameras' frames."""
    fit = FrameFit(image_size=options.image_size, fit=options.fit, crop_box=options.crop_box)
    return CameraFitter(fit, options.tiles)


def thinned(recording: Recording, skip: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return an episode's actions and states at every n-th frame, the n actions between two of them concatenated."""
    actions, states = recording.actions, recording.states
    if skip == 1:
        return actions, states
    kept = len(actions) // skip
    return actions[: kept * skip].reshape(kept, -1), None if states is None else states[: kept * skip : skip]


def store_meta(source: Source, path: Path, options: ImportOptions) -> StoreMeta:
    """Return the metadata of the store that a recording becomes."""
    info, skip = source.info, options.frame_skip
    if skip > 1 and info.action_kind != "continuous":
        raise ValueError(
            f"frame_skip={skip}: only continuous actions can be concatenated; use 1, and data.frame_skip in training"
        )
    names = info.action_names
    splits = info.origin.get("splits", {})
    form = f"{source.format} of {', '.join(splits)}" if splits else source.format
    return StoreMeta(
        task=info.task,
        image_size=options.image_size,
        action_kind=info.action_kind,
        action_size=info.action_size * skip,
        control_mode=options.control_mode or "unknown",
        control_evidence="" if options.control_mode is None else GIVEN,
        action_names=names if skip == 1 else tuple(f"{name}+{k}" for k in range(skip) for name in names),
        state_names=info.state_names,
        fps=None if info.fps is None else info.fps / skip,
        source=f"lewm import {path.name} ({form})",
        origin={
            **info.origin,
            "format": source.format,
            "name": path.name,
            "path": str(path),
            "fit": options.fit,
            "crop_box": options.crop_box,
            "cameras": options.cameras,
            "action": options.action,
            "state": options.state,
            "frame_skip": skip,
            **({"tiles": [astuple(part) for part in options.tiles]} if len(options.cameras) > 1 else {}),
        },
    )
