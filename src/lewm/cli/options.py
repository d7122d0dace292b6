"""Options that several commands share, and how they are read.

The help text of a setting is the docstring under its field, in `lewm.config` or in the settings of a family.
"""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, Suppress

from lewm.cli.usage import explain
from lewm.config import ActionConfig, Config, DataConfig, EvalConfig, PlanConfig
from lewm.families.presets import PRESETS, preset
from lewm.files import shorten

Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
RunFolder = Annotated[Path | None, tyro.conf.arg(metavar="RUN")]
Pretrained = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Json = FlagCreatePairsOff[bool]
if TYPE_CHECKING:
    PresetName = str
else:
    PresetName = Literal[tuple(PRESETS)]


@dataclass(frozen=True, kw_only=True)
class TrainingData(DataConfig):
    path: Suppress[str] = ""


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """The settings that a user may give: a `Config` that is not validated before it is complete."""

    preset: PresetName = "tiny"
    """Preset that gives every setting not named here. It chooses the family of the model, and so its settings."""
    action: Suppress[ActionConfig] = field(default_factory=ActionConfig)
    data: TrainingData = field(default_factory=TrainingData)

    def __post_init__(self) -> None:
        """Leave validation to `config`, so that a bad value is an error of its own and not of the parser."""

    @classmethod
    def of(cls, config: Config) -> "Settings":
        """Take over the settings of a configuration."""
        parts: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
        parts["data"] = TrainingData(**dataclasses.asdict(config.data))
        return cls(**parts)

    def config(self) -> Config:
        """Return the configuration, validated."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Config)}
        parts["data"] = DataConfig(**dataclasses.asdict(self.data))
        self.plan.refuse_unread(PRESETS[self.preset].plan)
        return Config(**parts)


@dataclass(frozen=True, kw_only=True)
class WithSettings:
    json: Json = False
    """Print one line of JSON and nothing else."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class OfRun:
    run: Annotated[Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder."""
    pretrained: Pretrained = None
    """Model that comes with the package, in place of RUN; without --data, on episodes collected for it."""
    data: Folder = None
    """Another store than the one that the run was trained on."""
    json: Json = False
    """Print one line of JSON and nothing else."""
    seed: int
    """Seed of all draws, and of planning."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Where to compute."""
    plan: PlanConfig
    eval: EvalConfig

    @property
    def chosen_plan(self) -> PlanConfig:
        """The planning settings."""
        return self.plan


Form = TypeVar("Form")
WithSettingsT = TypeVar("WithSettingsT", bound=WithSettings)
OfRunT = TypeVar("OfRunT", bound=OfRun)


def parse(name: str, form: type[Form], argv: Sequence[str], default: Form | None = None) -> Form:
    """Parse the options of a command.

    Raises:
        ValueError: If they are wrong and --json is among them.
        SystemExit: With status 2 if they are wrong, after a line that says so; with 0 after a help text.
    """
    cli = partial(tyro.cli, form, prog=f"lewm {name}", **({} if default is None else {"default": default}))
    if "-h" in argv or "--help" in argv:
        return cli(args=argv)
    explained = io.StringIO()
    try:
        with contextlib.redirect_stderr(explained), _usual_width():
            return cli(args=argv)
    except SystemExit as stopped:
        if not stopped.code:
            raise
    settings = preset(default.settings.preset) if isinstance(default, WithSettings) else None
    line = shorten(explain(name, argv, explained.getvalue(), options_of(cli), settings))
    if "--json" in argv:
        raise ValueError(line)
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)


def options_of(cli: Callable[..., object]) -> list[str]:
    """Return the options that a command has, as its help lists them."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit), _usual_width():
        cli(args=["--help"])
    return re.findall(r"^[│| ]*(?:-h, )?(--[a-z][\w.-]*)", text.getvalue(), re.MULTILINE)


@contextlib.contextmanager
def _usual_width() -> Iterator[None]:
    """Let the parser write for 110 columns: with few it breaks words, with many two texts stand side by side."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "110"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def parse_settings(name: str, form: type[WithSettingsT], argv: Sequence[str]) -> WithSettingsT:
    """Parse options that include settings, with the values of the preset that they name as defaults."""

    def parse_with(chosen: str, arguments: Sequence[str]) -> WithSettingsT:
        return parse(name, form, arguments, form(settings=Settings.of(preset(chosen))))

    return parse_with(_named_preset(argv), argv)


def _named_preset(argv: Sequence[str]) -> str:
    """Return the last preset that a command line names, `tiny` where it names none or no known one."""
    given = [argument for argument in argv if argument.startswith("--preset=")]
    given += [f"--preset={after}" for before, after in pairwise(argv) if before == "--preset"]
    name = given[-1].partition("=")[2] if given else "tiny"
    return name if name in PRESETS else "tiny"


def parse_of_run(name: str, form: type[OfRunT], argv: Sequence[str]) -> tuple[OfRunT, Config]:
    """Parse options of a trained run: first for the run alone, then with its settings as defaults.

    The `run` of what is returned is the folder, also of a model that comes with the package.
    """

    def parse_with(config: Config) -> OfRunT:
        default = form(seed=config.seed, device=config.device, plan=config.plan, eval=config.eval)
        return parse(name, form, argv, default)

    first = parse_with(preset("tiny"))
    from lewm.train.checkpoint import load_config

    run = run_folder(first.run, first.pretrained)
    if run is None:
        raise ValueError("run: not given; give a run folder RUN, or --pretrained NAME")
    config = load_config(run)
    args = dataclasses.replace(parse_with(config), run=run)
    args.chosen_plan.refuse_unread(config.plan)
    return args, dataclasses.replace(config, seed=args.seed, plan=args.chosen_plan, eval=args.eval)


def run_folder(run: Path | None, pretrained: str | None) -> Path | None:
    """Return the folder that RUN or --pretrained names, if either does."""
    if pretrained is None:
        return run
    if run is not None:
        raise ValueError(f"pretrained={pretrained}: stands in place of RUN, which is {run}; leave one of them out")
    from lewm.pretrained import pretrained_run

    return pretrained_run(pretrained)
