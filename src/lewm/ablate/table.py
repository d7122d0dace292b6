"""A table of studies: which variants are trained on which tasks, and the jobs that follow from it."""

import dataclasses
import difflib
import hashlib
import json
import runpy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lewm.config import ActionConfig, Config, EvalConfig, PlanConfig, flat, preset, with_settings
from lewm.envs import TASKS

NAME = "TABLE"
MOST_LISTED = 20
CURVES = ("prediction.horizon", "step")
"""What a figure can be drawn over beside settings: the error over model steps ahead, the effective rank over steps."""
_FILLED_IN = ("preset", "seed", "device", "data.path", "action.kind", "action.size")

Settings = Mapping[str, Any]
"""Changed settings by full name, `{"loss.slowness": 0.0}`, or by group, `{"loss": {"slowness": 0.0}}`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """Episodes that are collected for a task."""

    task: str
    """One of `lewm.envs.TASKS`."""
    episodes: int
    """Episodes, of which a share `data.held_out` is never trained on."""
    episode_length: int = 100
    """Frames of an episode."""
    image_size: int = 64
    """Height and width of a frame in pixels; the models' `model.image_size`."""
    seed: int = 0
    """Seed of what is collected: the same data for every seed of a training."""
    settings: Settings = field(default_factory=dict)
    """What every variant has on this task."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A variant that is not this package's model."""

    name: str
    """Name of it in `lewm.rivals`."""
    settings: Settings = field(default_factory=dict)
    """What it changes, such as how it plans."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Variants that are compared on equal data, steps, seeds and evaluation."""

    variants: Mapping[str, Settings | Rival]
    """What each variant changes, by its name."""
    tasks: Sequence[str]
    """Tasks of the table."""
    seeds: Sequence[int] = (0, 1, 2)
    """Seeds of training and evaluation."""
    settings: Settings = field(default_factory=dict)
    """What every variant has in this study, such as `train.steps` and `eval.episodes`."""
    curve: str | None = None
    """What the figure is drawn over: a setting, two as "plan.candidates x plan.iterations", or one of `CURVES`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Studies by name. A setting comes from the preset, the task, the study and the variant; the last one counts."""

    tasks: Mapping[str, TaskData]
    """Data by the name that studies use."""
    studies: Mapping[str, Study]
    """Studies by name."""
    preset: str = "tiny"
    """Preset that gives every setting not named in the table."""

    def __post_init__(self) -> None:
        """Refuse what cannot run, before anything does."""
        preset(self.preset)
        for name, data in self.tasks.items():
            with _said_by(f"task {name}"):
                _choose("task", data.task, TASKS)
                for field_, least in (("episodes", 2), ("episode_length", 2), ("seed", 0)):
                    if (value := getattr(data, field_)) < least:
                        raise ValueError(f"{field_}={value}: must be at least {least}; give a larger number")
        for name, study in self.studies.items():
            with _said_by(f"study {name}"):
                for task in study.tasks:
                    _choose("tasks", task, self.tasks)
                _check_curve(study)
        self.jobs()

    def jobs(self) -> tuple["Job", ...]:
        """Return every job: all of seed 0 first, so that a stopped run has compared all variants."""
        found = [
            _job(self, study, variant, task, seed)
            for study, what in self.studies.items()
            for seed in what.seeds
            for task in what.tasks
            for variant in what.variants
        ]
        return tuple(sorted(found, key=lambda job: job.seed))


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One variant of a study on one task with one seed: a training and its evaluation."""

    study: str
    variant: str
    task: str
    seed: int
    changes: Mapping[str, Any]
    """What the variant changes, by full name."""
    rival: str | None
    data: TaskData
    config: Config
    """The settings in full."""

    @property
    def training_config(self) -> Config:
        """The settings of the training, which know of planning only what the learnt cost needs."""
        config = self.config
        horizon = config.plan.horizon if config.train.cost_steps else PlanConfig().horizon
        return dataclasses.replace(config, plan=PlanConfig(cost="tokens", horizon=horizon), eval=EvalConfig())

    @property
    def store(self) -> str:
        """Name of the folder that the task's episodes are collected into."""
        return f"{self.data.task}-{_digest(self._data())}"

    @property
    def training(self) -> str:
        """What tells one training from another: jobs that differ in planning and evaluation alone share it."""
        return _digest(self._identity(self.config if self.rival else self.training_config))

    @property
    def key(self) -> str:
        """What tells one result from another: a changed table has other keys."""
        return _digest(self._identity(self.config))

    @property
    def label(self) -> tuple[str, str, str, int, str]:
        """What tells one line of results from another."""
        return self.study, self.variant, self.task, self.seed, self.key

    def _data(self) -> dict[str, Any]:
        kept = ("task", "episodes", "episode_length", "seed")
        return {name: getattr(self.data, name) for name in kept} | {"image_size": self.config.model.image_size}

    def _identity(self, config: Config) -> dict[str, Any]:
        settings = dataclasses.asdict(config)
        del settings["device"], settings["preset"]
        return {"config": settings, "data": self._data(), "rival": self.rival}


def load_table(path: Path) -> Table:
    """Run a Python file and return the `TABLE` that it defines.

    The file is a program of the user's own and is run as one, as `python FILE` would: name no file of a stranger.

    Raises:
        ValueError: If there is no such file, or no table in it.
    """
    if not path.is_file():
        raise ValueError(f"table={path}: no such file; give a Python file that defines {NAME}")
    table = runpy.run_path(str(path)).get(NAME)
    if not isinstance(table, Table):
        raise ValueError(f"table={path}: defines no {NAME}; write {NAME} = lewm.ablate.Table(...)")
    return table


def select(
    table: Table,
    *,
    studies: Sequence[str] = (),
    variants: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Job]:
    """Return the jobs of a selection; what is empty selects all.

    Raises:
        ValueError: If the table has no such study, or the studies no such variant, task or seed.
    """
    jobs = list(table.jobs())
    chosen: tuple[tuple[str, Sequence[Any]], ...] = (
        ("study", studies),
        ("variant", variants),
        ("task", tasks),
        ("seed", seeds),
    )
    for field_, wanted in chosen:
        if wanted:
            there = {getattr(job, field_): None for job in jobs}
            for name in wanted:
                _choose(field_, name, there)
            jobs = [job for job in jobs if getattr(job, field_) in wanted]
    if not jobs:
        raise ValueError("selection: no job has all that was chosen; choose less")
    return jobs


def _job(table: Table, study: str, variant: str, task: str, seed: int) -> Job:
    what, data = table.studies[study], table.tasks[task]
    given = what.variants[variant]
    rival, changes = (given.name, given.settings) if isinstance(given, Rival) else (None, given)
    with _said_by(f"{study} / {variant} / {task}"):
        settings: dict[str, Any] = {"model.image_size": data.image_size}
        for part in (data.settings, what.settings, changes):
            settings |= flat(part)
        for name in _FILLED_IN:
            if name in settings:
                raise ValueError(f"{name}={settings[name]}: is filled in for every job; leave it out")
        config = with_settings(preset(table.preset), settings | {"seed": seed})
        task_class = TASKS[data.task]
        action = ActionConfig(kind=task_class.action_kind, size=task_class.action_size)
        return Job(
            study=study,
            variant=variant,
            task=task,
            seed=seed,
            changes=flat(changes),
            rival=rival,
            data=data,
            config=dataclasses.replace(config, action=action),
        )


def _check_curve(study: Study) -> None:
    curve = study.curve
    if curve is None or curve in CURVES:
        return
    names = flat({group: value for group, value in dataclasses.asdict(Config()).items() if isinstance(value, dict)})
    numbers = [name for name, value in names.items() if isinstance(value, int | float)]
    for name in curve.split(" x "):
        _choose("curve", name, [*CURVES, *numbers])


def _choose(field_: str, value: Any, there: Iterable[Any]) -> None:
    """Refuse a name that is not there."""
    names = [str(name) for name in there]
    if str(value) not in names:
        near = difflib.get_close_matches(str(value), names, 1, 0.0)
        listed = ", ".join(names) if len(names) <= MOST_LISTED else f"{len(names)} names"
        remedy = f"did you mean {near[0]}?" if near else "add it"
        raise ValueError(f"{field_}={value}: must be one of {listed or 'none'}; {remedy}")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _said_by(place: str) -> Iterator[None]:
    """Say where in the table an error is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
