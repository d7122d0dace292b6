"""A table of studies: which variants are trained on which tasks, and the jobs that follow from it."""

import dataclasses
import hashlib
import json
import runpy
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lewm.config import ActionConfig, Config, EvalConfig, PlanConfig, flat, setting_types
from lewm.envs import TASKS
from lewm.families.presets import LATER, preset, with_settings
from lewm.names import did_you_mean

NAME = "TABLE"
MOST_LISTED = 20
CURVES = ("prediction.horizon", "step")
"""What a figure can be drawn over beside settings: the error over model steps ahead, the effective rank over steps."""
_FILLED_IN = ("preset", "seed", "device", "data.path", "action.kind", "action.size")

Settings = Mapping[str, Any]
"""Changed settings by full name, `{"model.slowness": 0.0}`, or by group, `{"model": {"slowness": 0.0}}`."""


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
    """What every variant has on this task; of `model`, what the variant's family has."""


@dataclass(frozen=True, slots=True)
class ModelOf:
    """A variant with the model of another preset, and everything else as the table has it."""

    preset: str
    """Preset whose model, of any family, is compared."""
    settings: Settings = field(default_factory=dict)
    """What it changes, such as how it plans."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Variants that are compared on equal data, steps, seeds and evaluation."""

    variants: Mapping[str, Settings | ModelOf]
    """What each variant changes, by its name."""
    tasks: Sequence[str]
    """Tasks of the table, each once."""
    seeds: Sequence[int] = (0, 1, 2)
    """Seeds of training and evaluation, each once."""
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
                for field_, least in (("episodes", 2), ("episode_length", 2), ("image_size", 1), ("seed", 0)):
                    value = getattr(data, field_)
                    if not isinstance(value, int) or isinstance(value, bool):
                        raise ValueError(f"{field_}={value!r}: must be an integer; give a whole number")
                    if value < least:
                        raise ValueError(f"{field_}={value}: must be at least {least}; give a larger number")
        if not self.studies:
            raise ValueError("studies={}: must not be empty; add a Study")
        for name, study in self.studies.items():
            with _said_by(f"study {name}"):
                _check_lists(study)
                for task in study.tasks:
                    _choose("tasks", task, self.tasks)
                _check_curve(study, preset(self.preset))
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
    data: TaskData
    config: Config
    """The settings in full."""

    @property
    def training_config(self) -> Config:
        """The settings of the training, which know of planning only what the learnt cost needs."""
        config = self.config
        learnt = config.train.cost_steps and config.model.plans
        horizon = config.plan.horizon if learnt else PlanConfig().horizon
        return dataclasses.replace(config, plan=PlanConfig(cost="tokens", horizon=horizon), eval=EvalConfig())

    @property
    def store(self) -> str:
        """Name of the folder that the task's episodes are collected into."""
        return f"{self.data.task}-{_digest(self._data())}"

    @property
    def training(self) -> str:
        """What tells one training from another: jobs that differ in planning and evaluation alone share it."""
        return _digest(self._identity(self.training_config))

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
        for name in LATER:  # results of before they came stay found
            group, _, field_ = name.partition(".")
            if settings[group].get(field_) == default_of(getattr(config, group), field_):
                settings[group].pop(field_, None)
        return {"config": settings, "data": self._data()}


def load_table(path: str | Path) -> Table:
    """Run a Python file and return the `TABLE` that it defines.

    The file is a program of the user's own and is run as one, as `python FILE` would: name no file of a stranger.

    Raises:
        ValueError: If there is no such file, it fails, or it has no table.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"table={path}: no such file; give a Python file that defines {NAME}")
    try:
        table = runpy.run_path(str(path)).get(NAME)
    except ValueError:  # this package's own, which says what to change
        raise
    except Exception as error:
        raise ValueError(_mistake(path, error)) from error
    if not isinstance(table, Table):
        raise ValueError(f"table={path}: defines no {NAME}; write {NAME} = lewm.research.Table(...)")
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
    return jobs


def _job(table: Table, study: str, variant: str, task: str, seed: int) -> Job:
    what, data = table.studies[study], table.tasks[task]
    given, base = what.variants[variant], preset(table.preset)
    with _said_by(f"{study} / {variant} / {task}"):
        changes = given.settings if isinstance(given, ModelOf) else given
        own = setting_types(base)
        if isinstance(given, ModelOf):
            base = dataclasses.replace(base, preset=given.preset, model=preset(given.preset).model)
        elsewhere = own.keys() - setting_types(base).keys()  # of the table's family, and not of the variant's
        settings: dict[str, Any] = {"model.image_size": data.image_size}
        for part in (data.settings, what.settings):
            settings |= {name: value for name, value in _named(part).items() if name not in elsewhere}
        settings |= _named(changes)
        for name in _FILLED_IN:
            if name in settings:
                raise ValueError(f"{name}={settings[name]}: is filled in for every job; leave it out")
        config = with_settings(base, settings | {"seed": seed})
        if config.eval.goal_offset >= data.episode_length:
            raise ValueError(
                f"eval.goal_offset={config.eval.goal_offset}: must be below the task's episode_length, "
                f"{data.episode_length}; lower it, or collect longer episodes"
            )
        task_class = TASKS[data.task]
        action = ActionConfig(kind=task_class.action_kind, size=task_class.action_size)
        return Job(
            study=study,
            variant=variant,
            task=task,
            seed=seed,
            changes=_named(changes),
            data=data,
            config=dataclasses.replace(config, action=action),
        )


def _named(settings: Any) -> dict[str, Any]:
    """Return settings by full name."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"settings={settings!r}: must be settings by name (or a ModelOf); give {{}} to change nothing")
    return flat(settings)


def default_of(settings: Any, name: str) -> Any:
    """Return the default of a field of a dataclass; None where it has no such field."""
    found = [field_.default for field_ in dataclasses.fields(settings) if field_.name == name]
    return found[0] if found else None


def _check_lists(study: Study) -> None:
    """Refuse what names no jobs, or one twice, which would count its episodes twice."""
    if not isinstance(study.variants, Mapping):
        raise ValueError(f"variants={study.variants!r}: must be a mapping; give settings by the variant's name")
    for field_ in ("tasks", "seeds"):
        value = getattr(study, field_)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{field_}={value!r}: must be a list or a tuple; put it in square brackets")
        if twice := [item for item in value if value.count(item) > 1]:
            raise ValueError(f"{field_}={value}: has {twice[0]} twice; leave one out")
    for field_ in ("variants", "tasks", "seeds"):
        if not getattr(study, field_):
            raise ValueError(f"{field_}={getattr(study, field_)}: must not be empty; add one, or leave the study out")


def _check_curve(study: Study, base: Config) -> None:
    curve = study.curve
    if curve is None or curve in CURVES:
        return
    settings = dataclasses.asdict(base)
    names = flat({group: value for group, value in settings.items() if isinstance(value, dict)})
    numbers = [name for name, value in names.items() if isinstance(value, int | float)]
    for name in curve.split(" x "):
        if name in CURVES:
            raise ValueError(f"curve={curve}: {name} is drawn by itself; leave the other out")
        _choose("curve", name, [*CURVES, *numbers])


def _choose(field_: str, value: Any, there: Iterable[Any]) -> None:
    """Refuse a name that is not there."""
    names = [str(name) for name in there]
    if str(value) not in names:
        listed = ", ".join(names) if len(names) <= MOST_LISTED else f"{len(names)} names"
        remedy = did_you_mean(str(value), names, "give one of them" if names else "add it")
        raise ValueError(f"{field_}={value}: must be one of {listed or 'none'}; {remedy}")


def _mistake(path: Path, error: Exception) -> str:
    """Say in one line what is wrong with a table's file, and where in it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines, text = [error.lineno], error.msg
    line = f"line {lines[-1]}: " if lines and lines[-1] else ""
    return f"table={path}: {line}{type(error).__name__}: {' '.join(text.split())}; mend the file"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _said_by(place: str) -> Iterator[None]:
    """Say where in the table an error is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
