"""What a run says of the robot that it is for, in `spec.json`: nobody guesses it from a store or a folder's name.

This module imports no torch. `lewm.train.describe` makes the description from a store and the run's settings.
"""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lewm.config import Config, ControlMode
from lewm.files import shorten, write_text
from lewm.names import did_you_mean

SPEC = "spec.json"
SPEC_VERSION = 1
ActionKind = Literal["continuous", "discrete", "none"]
Fit = Literal["crop", "pad", "stretch"]
_LONGEST_VALUE = 40  # characters of a value in an error
_LONGEST_FACT = 200
_LARGEST = 2**53  # whole number that is the same as a float


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSpec:
    """One camera: how its picture is fitted, and where it lies in the square frame."""

    name: str
    """As the recording calls it; empty for the only camera of a recording that has no names."""
    fit: Fit | None
    """How a picture becomes the size of its tile, see `lewm.FrameFit`; None where the data does not say."""
    crop_box: tuple[int, int, int, int] | None
    """Left, top, width and height in pixels of the camera's picture: what is kept before fitting. None for all."""
    left: int
    """First column of the tile in the frame, in pixels."""
    top: int
    """First row of the tile in the frame, in pixels."""
    width: int
    """Columns of the tile."""
    height: int
    """Rows of the tile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """What a robot's run needs to know beside settings and weights; written into the run folder when training starts.

    A row is one row of the store that the run was trained on: a frame, and the action taken there. If the import left
    frames out, an action of a row is the actions of `steps_in_row` environment steps, concatenated.
    """

    task: str
    """Name of the task, robot or data set; its true dynamics are at hand if it is one of `lewm.TASKS`."""
    action_kind: ActionKind
    """Real vectors, one integer out of `action_size`, or none: images of their own."""
    action_size: int
    """A: length of the action of a row, the number of discrete actions, or 0 for none."""
    action_names: tuple[str, ...]
    """Names of the A entries of a continuous action; empty where none are known."""
    control_mode: ControlMode
    """What a continuous action commands: where to be, how far to move from here, or how fast to move."""
    low: tuple[float, ...]
    """(A,) smallest values that a plan may take: the task's own bound, or the training episodes' smallest value."""
    high: tuple[float, ...]
    """(A,) largest values. Where both are the same, the entry is held there."""
    max_change: tuple[float, ...]
    """(A,) how far an entry changes from one row to the next, at most, but for rare changes; empty if not known."""
    fps: float | None
    """Environment steps a second; None where the data does not say."""
    steps_in_row: int
    """Environment steps of one row."""
    frame_skip: int
    """Rows of one model step."""
    state_names: tuple[str, ...]
    """Names of the state variables of the data; empty where it has none."""
    image_size: int
    """Height and width in pixels of the frame that the model takes."""
    cameras: tuple[CameraSpec, ...]
    """The cameras in the order in which their pictures are given; their tiles lie in the frame."""
    held_out: float
    """Share of the episodes that training never saw."""
    split_seed: int
    """Seed of the split into training and held-out episodes."""
    origin: dict[str, str]
    """What the data was imported from or collected with: `format`, `name` and, where it is known, `robot_type`."""
    package_version: str
    """Version of this package that wrote the file."""
    spec_version: int = dataclasses.field(default=SPEC_VERSION, init=False)
    """Version of this description."""

    def __post_init__(self) -> None:
        for field, hint in typing.get_type_hints(RunSpec).items():
            value = getattr(self, field)
            if field not in ("cameras", "origin") and not _fits(value, hint):
                raise ValueError(f"{field}={shorten(repr(value), _LONGEST_VALUE)}: must be {_expected(hint)}")
            if hint == tuple[float, ...]:
                object.__setattr__(self, field, tuple(map(float, value)))  # JSON has whole numbers too
        if not isinstance(self.origin, dict) or not _fits((*self.origin, *self.origin.values()), tuple[str, ...]):
            raise ValueError(f"origin={shorten(repr(self.origin), _LONGEST_VALUE)}: must be texts by name")
        self._check_actions()
        self._check_cameras()
        for field, value, least in (
            ("steps_in_row", self.steps_in_row, 1),
            ("frame_skip", self.frame_skip, 1),
            ("image_size", self.image_size, 1),
        ):
            if value < least:
                raise ValueError(f"{field}={value}: must be at least {least}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps={self.fps}: must be environment steps a second, more than 0, or null")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: must lie between 0 and 1")

    @property
    def model_fps(self) -> float | None:
        """Model steps a second; None where the rate is not known."""
        return None if self.fps is None else self.fps / self.steps_in_model_step

    @property
    def steps_in_model_step(self) -> int:
        """Environment steps of one model step."""
        return self.steps_in_row * self.frame_skip

    def in_words(self) -> dict[str, str]:
        """Return what people want to know of it, by name."""
        if self.action_kind == "continuous":
            actions = f"{self.action_size} numbers, {self.control_mode}"
            names = self.action_names or tuple(f"entry {k}" for k in range(self.action_size))
            spans = zip(names, self.low, self.high, strict=True)
            actions += f": {', '.join(f'{name} {low:.4g} to {high:.4g}' for name, low, high in spans)}"
        else:
            actions = "none" if self.action_kind == "none" else f"one of {self.action_size}"
        rate = "not known" if self.fps is None else f"{self.fps:.4g} environment steps a second"
        if self.model_fps is not None and self.steps_in_model_step > 1:
            rate += f", {self.model_fps:.4g} model steps"
        cameras = [f"{camera.name or 'one'} ({camera.fit or 'square as it is'})" for camera in self.cameras]
        words = {
            "task": self.task,
            "actions": actions,
            "rate": rate,
            "cameras": ", ".join(cameras),
            "states": ", ".join(self.state_names),
            "data": " ".join(self.origin.get(key, "") for key in ("format", "name", "robot_type")).strip(),
        }
        return {name: shorten(text, _LONGEST_FACT) for name, text in words.items() if text}

    def _check_actions(self) -> None:
        kind, size = self.action_kind, self.action_size
        if (size != 0) if kind == "none" else (size < 1):
            raise ValueError(f"action_size={size}: must be {'0' if kind == 'none' else 'at least 1'} of {kind} actions")
        entries = size if kind == "continuous" else 0
        for field, may_lack in (("action_names", True), ("low", False), ("high", False), ("max_change", True)):
            count = len(getattr(self, field))
            if count != entries and not (may_lack and count == 0):
                raise ValueError(
                    f"{field}: has {count} entries, must have {entries} as the {kind} action of size {size} has"
                )
        if self.control_mode != "unknown" and kind != "continuous":
            raise ValueError(f"control_mode={self.control_mode}: is of continuous actions, and these are {kind}")
        if kind == "continuous" and size % self.steps_in_row:
            raise ValueError(f"steps_in_row={self.steps_in_row}: must divide action_size={size}")
        for k, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"low={low}: must be finite and not above high={high} (entry {k})")
        for k, change in enumerate(self.max_change):
            if not 0 <= change < math.inf:
                raise ValueError(f"max_change={change}: must be finite and not negative (entry {k})")

    def _check_cameras(self) -> None:
        size = self.image_size
        if not isinstance(self.cameras, tuple) or not self.cameras:
            raise ValueError(f"cameras={shorten(repr(self.cameras), _LONGEST_VALUE)}: must be one camera or more")
        for k, camera in enumerate(self.cameras):
            if not isinstance(camera, CameraSpec):
                raise ValueError(f"cameras[{k}]={shorten(repr(camera), _LONGEST_VALUE)}: must be a camera")
            for field, hint in typing.get_type_hints(CameraSpec).items():
                value = getattr(camera, field)
                if not _fits(value, hint):
                    raise ValueError(
                        f"cameras[{k}].{field}={shorten(repr(value), _LONGEST_VALUE)}: must be {_expected(hint)}"
                    )
            for first, extent in ((camera.left, camera.width), (camera.top, camera.height)):
                if not 0 <= first < first + extent <= size:
                    raise ValueError(f"cameras[{k}]: its tile must lie in the frame of {size}x{size} pixels")
            box = camera.crop_box
            if box is not None and (min(box[:2]) < 0 or min(box[2:]) < 1):
                raise ValueError(f"cameras[{k}].crop_box={box}: must have no negative place and a positive size")


def check_spec(spec: RunSpec, config: Config, source: str) -> None:
    """Check that a run's description and its settings are of one run.

    Args:
        spec: the description.
        config: the settings.
        source: names the description in errors.

    Raises:
        ValueError: what both say differs; it names the first.
    """
    for name, has, wants in (
        ("action_kind", spec.action_kind, config.action.kind),
        ("action_size", spec.action_size, config.action.size),
        ("control_mode", spec.control_mode, config.action.control_mode),
        ("image_size", spec.image_size, config.model.image_size),
        ("frame_skip", spec.frame_skip, config.data.frame_skip),
        ("held_out", spec.held_out, config.data.held_out),
        ("split_seed", spec.split_seed, config.data.split_seed),
    ):
        if has != wants and not (name == "control_mode" and wants == "unknown"):  # as runs of early versions say
            raise ValueError(f"{source}: {name}={has}: config.json has {wants}; restore the file of this run")


def save_spec(run: Path, spec: RunSpec) -> None:
    """Write a run's description atomically."""
    values = dataclasses.asdict(spec)
    write_text(run / SPEC, json.dumps({"spec_version": values.pop("spec_version"), **values}, indent=2) + "\n")


def load_spec(run: str | Path) -> RunSpec:
    """Read a run's description.

    Raises:
        ValueError: If there is none, as in a run folder of an older version, or it is damaged.
    """
    run = Path(run)
    if not run.is_dir():
        raise ValueError(f"run={run}: no such folder; give the --out folder of `lewm train`")
    path = run / SPEC
    if not path.is_file():
        raise ValueError(
            f"run={shorten(run, 80)}: has no {SPEC} (made by an older version); `lewm train --resume "
            f"{shorten(run, 80)}` writes it, with --data STORE if the store was moved"
        )
    try:
        return _parse(path)
    except ValueError as error:
        told = f"{path}: {error}; restore the file, or remove it and give `lewm train --resume` the run"
        raise ValueError(shorten(told)) from None


def _parse(path: Path) -> RunSpec:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no text, no JSON, or nested without end
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError("must be a JSON object")
    version = values.pop("spec_version", None)  # first: another version may well have other fields
    if version != SPEC_VERSION or not _fits(version, int):
        raise ValueError(f"spec_version={shorten(repr(version), _LONGEST_VALUE)}: this version reads {SPEC_VERSION}")
    _check_names(values, RunSpec, "")
    cameras = values["cameras"]
    if not isinstance(cameras, list):
        raise ValueError(f"cameras={shorten(repr(cameras), _LONGEST_VALUE)}: must be a list of cameras")
    for k, camera in enumerate(cameras):
        if not isinstance(camera, dict):
            raise ValueError(f"cameras[{k}]={shorten(repr(camera), _LONGEST_VALUE)}: must be an object")
        _check_names(camera, CameraSpec, f"cameras[{k}].")
    made = tuple(CameraSpec(**_tuples(camera)) for camera in cameras)
    return RunSpec(**_tuples({**values, "cameras": made}))


def _check_names(values: dict[str, Any], cls: type, prefix: str) -> None:
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in values:
        if name not in known:
            remedy = did_you_mean(name, known, "it is of no use here", before=prefix)
            raise ValueError(f"{prefix}{shorten(name, _LONGEST_VALUE)}: is no field of it ({remedy})")
    for name in known:
        if name not in values:
            raise ValueError(f"{prefix}{name}: is missing")


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Return JSON's lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value has the type of a field."""
    arguments = get_args(hint)
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in arguments
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        entries = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(entries) and all(map(_fits, value, entries))
    if arguments:  # a type or None
        return any(value is None if part is type(None) else _fits(value, part) for part in arguments)
    if hint is float:
        hint = float if isinstance(value, float) else int
    return isinstance(value, hint) and not isinstance(value, bool) and (hint is not int or abs(value) <= _LARGEST)


def _expected(hint: Any) -> str:
    """Say what a field takes."""
    parts = get_args(hint)
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(parts)}"
    if typing.get_origin(hint) is tuple:
        few = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        return f"a list of {few}{'texts' if parts[0] is str else 'numbers'}"
    if parts:  # a type or None
        return f"{_expected(parts[0])}, or null"
    return {str: "a text", int: "a whole number", float: "a number"}[hint]
