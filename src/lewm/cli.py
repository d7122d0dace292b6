"""The command line: `lewm collect | import | check | train | eval | plan | info | report | ablate | demo`.

Progress and errors go to standard error, results to standard output. Commands import what they need when they run:
torch takes seconds to load, and a machine that only shows a help text need not have it.
"""

import ctypes
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, Suppress

from lewm.config import ActionConfig, Config, DataConfig, EvalConfig, PlanConfig, did_you_mean, preset
from lewm.version import __version__

if TYPE_CHECKING:
    from lewm.ablate import Job, Table
    from lewm.data import Store
    from lewm.data.check import CheckResult

Row = tuple[str, str, str]
"""A measure, this run's number, and what a trivial rival gets."""

Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
RunFolder = Annotated[Path | None, tyro.conf.arg(metavar="RUN")]
Pretrained = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Json = FlagCreatePairsOff[bool]

# The demo: what it costs and how well it works is decided here, and by the preset.
DEMO_TASK = "two-room"
DEMO_PRESET = "tiny"
DEMO_EPISODES = 400
DEMO_EPISODE_LENGTH = 100
DEMO_EVAL = EvalConfig(episodes=60, split_episodes=15)
DEMO_VIDEO_EPISODES = 6


@dataclass(frozen=True, kw_only=True)
class _Data(DataConfig):
    path: Suppress[str] = ""


@dataclass(frozen=True, kw_only=True)
class _Settings(Config):
    """The settings that a user may give: a `Config` that is not validated before it is complete."""

    preset: str = "tiny"
    """Preset that gives every setting not named here: tiny, base, paper or literal."""
    action: Suppress[ActionConfig] = field(default_factory=ActionConfig)
    data: _Data = field(default_factory=_Data)

    def __post_init__(self) -> None:
        """Leave validation to `config`, so that a bad value is an error of its own and not of the parser."""

    @classmethod
    def of(cls, config: Config) -> "_Settings":
        """Take over the settings of a configuration."""
        parts: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
        parts["data"] = _Data(**dataclasses.asdict(config.data))
        return cls(**parts)

    def config(self) -> Config:
        """Return the configuration, validated."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Config)}
        parts["data"] = DataConfig(**dataclasses.asdict(self.data))
        return Config(**parts)


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Collect episodes of a task into a store, in parallel; goes on after the episodes that the store already has."""

    task: Annotated[Positional[str], tyro.conf.arg(metavar="TASK")]
    """two-room, two-room-discrete, push-t, reacher or arm."""
    episodes: int
    """Episodes that the store has in the end."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the store."""
    image_size: int | None = None
    """Height and width of a frame in pixels; if not given, 64 or, of the arm, 96."""
    episode_length: int = 100
    """Frames of an episode."""
    seed: int = 0
    """Seed of everything that is drawn."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes; by default one a core."""
    json: Json = False
    """Print one line of JSON and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Import a recording into a store, in parallel; goes on after the episodes that the store already has.

    LeRobot data sets, HDF5 of robomimic or of published world models, a folder of videos with tables of actions, and
    images: a folder a class, or WebDataset shards.
    """

    source: Annotated[Positional[Path], tyro.conf.arg(metavar="SRC")]
    """File or folder of the recording."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the store."""
    format: Annotated[
        Literal["lerobot", "hdf5", "video", "images", "webdataset"] | None, tyro.conf.arg(metavar="FORMAT")
    ] = None
    """lerobot, hdf5, zarr, video, frames, images or webdataset; by default it is detected."""
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Cameras to take, tiled in one frame if several; needed where the recording has more than one."""
    action: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Features, columns or datasets that are the action, concatenated in this order; by default they are detected."""
    state: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Features, columns or datasets that are the state, concatenated in this order; by default they are detected."""
    image_size: int = 64
    """Height and width of the stored frames in pixels."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """Cut the longer side to its middle, put black beside the shorter one, or change the proportions."""
    crop_box: Annotated[tuple[int, int, int, int] | None, tyro.conf.arg(metavar="LEFT TOP WIDTH HEIGHT")] = None
    """Pixels of the camera's frame that are kept, before anything else."""
    control_mode: Annotated[
        Literal["position", "displacement", "velocity"] | None,
        tyro.conf.arg(metavar="{position,displacement,velocity}"),
    ] = None
    """What the actions command: where to be, how far or how fast to move; by default it is guessed."""
    frame_skip: int = 1
    """Keep every n-th frame; an action is then the n actions between two of them, concatenated."""
    episodes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Import the first episodes only."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes; by default one a core."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Decode on a Ray cluster, whose machines all have the recording under the same path."""
    json: Json = False
    """Print one line of JSON and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Look for what is wrong with a store before training on it; writes check.html into it. Exit status 1 on errors."""

    store: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the store."""
    frame_skip: int = 1
    """Environment steps between two frames of a training clip."""
    clip_frames: int = 2
    """Frames of a training clip: history and rollout steps."""
    held_out: float = DataConfig().held_out
    """Share of the episodes that training holds out."""
    split_seed: int = DataConfig().split_seed
    """Seed of the split into training and held-out episodes."""
    control_mode: Annotated[
        Literal["position", "displacement", "velocity"] | None,
        tyro.conf.arg(metavar="{position,displacement,velocity}"),
    ] = None
    """Write into the store what its actions command: where to be, how far or how fast to move."""
    whole: FlagCreatePairsOff[bool] = False
    """Look at every frame, not at a sample."""
    repair: FlagCreatePairsOff[bool] = False
    """Write a new store, --out, without what can be left out; looks at every frame."""
    out: Folder = None
    """New store of --repair."""
    json: Json = False
    """Print one line of JSON and nothing else."""


@dataclass(frozen=True, kw_only=True)
class _WithSettings:
    json: Json = False
    """Print one line of JSON and nothing else."""
    settings: Annotated[_Settings, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class _OfRun:
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


WithSettings = TypeVar("WithSettings", bound=_WithSettings)
OfRun = TypeVar("OfRun", bound=_OfRun)


@dataclass(frozen=True, kw_only=True)
class Train(_WithSettings):
    """Train a world model on a store (--data, --out), or go on with a run that was stopped (--resume).

    Every setting below can be given by name; the others come from the preset.
    """

    data: Folder = None
    """Store to train on."""
    out: Folder = None
    """New run folder."""
    resume: RunFolder = None
    """Run folder to go on with, by the settings that it was started with."""


@dataclass(frozen=True, kw_only=True)
class Eval(_OfRun):
    """Measure a run on held-out episodes; writes eval.json, which --json prints, and report.html into it.

    With --pretrained nothing is written. Settings that are not given are those of the run.
    """


@dataclass(frozen=True, kw_only=True)
class Plan(_OfRun):
    """Plan in closed loop from held-out starts, beside a random policy; --json prints eval.json's `planning` object.

    Each start goes to a later frame of its episode, or all go to one --goal. Without a simulator of the data's task, or
    with a --start, one plan to the goal is made and its actions are given. Settings that are not given are those of the
    run.
    """

    goal: Annotated[str | None, tyro.conf.arg(metavar="GOAL")] = None
    """state:0.3,0.5 or state:x=0.3,y=0.5, region:x=0.2..0.4,y=0.1.. or frame:EPISODE:INDEX."""
    start: Annotated[str | None, tyro.conf.arg(metavar="frame:EPISODE:INDEX")] = None
    """Plan once from this frame; without a simulator, from the first held-out one by default."""
    planner: Annotated[Literal["cem", "mppi"] | None, tyro.conf.arg(metavar="{cem,mppi}")] = None
    """Short for --plan.planner."""
    episodes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Short for --eval.episodes."""
    video: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mp4")] = None
    """Write a video of some episodes."""


@dataclass(frozen=True, kw_only=True)
class Info(_WithSettings):
    """Show sizes and parameter counts of a run, or of a preset with the settings given."""

    run: Annotated[Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder; without one, the preset is shown."""
    pretrained: Pretrained = None
    """Model that comes with the package, in place of RUN."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html into a run folder from what is there: curves, and everything that `lewm eval` has measured."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    json: Json = False
    """Print one line of JSON and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """Train and evaluate the variants of a table of studies, a line of JSON each; goes on after those already done.

    The table is a Python file that defines TABLE, and is run as `python FILE` would run it. With --tables or --figures,
    nothing is run, and what has been measured is written up.
    """

    table: Annotated[Positional[Path], tyro.conf.arg(metavar="TABLE")]
    """Python file that defines TABLE, a lewm.ablate.Table."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.jsonl")]
    """File of results, which several commands may share."""
    work: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/ablate")
    """Folder of collected episodes and unfinished runs."""
    study: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Studies; by default all."""
    variants: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Variants; by default all."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Tasks; by default all."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT...")] = ()
    """Seeds; by default all."""
    list: FlagCreatePairsOff[bool] = False
    """Show the jobs and which are done, and run nothing."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes of one thread each; by default one a GPU where there are several, else one job after another."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Run on a Ray cluster."""
    keep: FlagCreatePairsOff[bool] = False
    """Keep run folders, in DIR/runs."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    tables: Annotated[Path | None, tyro.conf.arg(metavar="PAGE.md")] = None
    """Write each study's tables into this page, between <!-- study NAME --> and <!-- /study NAME -->."""
    figures: Folder = None
    """Draw the figures of studies that have a curve into this folder, as NAME.png."""
    json: Json = False
    """Print one line of JSON and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Do the main job on Two-Room: collect, train, evaluate, plan, report. Goes on where it was stopped."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/demo")
    """Run folder, which gets the store as well."""
    seed: int = 0
    """Seed of everything that is drawn."""
    json: Json = False
    """Print the content of eval.json as one line and nothing else."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 for an error of the user's or the machine's, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"lewm {__version__}")
        return 0
    if name not in _COMMANDS:
        remedy = did_you_mean(name, _COMMANDS, "see lewm --help", before="lewm ")
        return _fail(f"{name}: is not a command of {', '.join(_COMMANDS)}; {remedy}", status=2)
    _prepare_process()
    try:
        return _COMMANDS[name][1](rest) or 0
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(f'{error.name} is not installed; pip install "lewm[{extra}]"')
    except BrokenPipeError:  # whoever reads the output has had enough, as in `lewm info | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except ValueError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _fail(message: str, *, status: int = 1) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return status


def _overview() -> str:
    lines = (f"  {name:<9}{summary}" for name, (summary, _) in _COMMANDS.items())
    more = "`lewm COMMAND --help` lists the options of a command, `lewm --version` tells the version."
    return "\n".join(("usage: lewm COMMAND [OPTIONS]", "", *lines, "", more))


def _prepare_process() -> None:
    """Set what must be set before torch, OpenMP or SDL are loaded. What the user has set stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a small machine
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # Push-T draws without a screen
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # glibc gives large blocks back to the system at once, and every step pays for fetching them anew:
        # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc.mallopt(-3, 32 * 2**20)
        libc.mallopt(-1, 512 * 2**20)


def _parse_settings(name: str, form: type[WithSettings], argv: Sequence[str]) -> WithSettings:
    """Parse options that include settings: first for the preset alone, then with that preset's values as defaults."""

    def parse(chosen: str, arguments: Sequence[str]) -> WithSettings:
        return tyro.cli(form, prog=f"lewm {name}", args=arguments, default=form(settings=_Settings.of(preset(chosen))))

    first = parse("tiny", [argument for argument in argv if argument not in ("-h", "--help")])
    return parse(first.settings.preset, argv)


def _parse_of_run(name: str, form: type[OfRun], argv: Sequence[str]) -> tuple[OfRun, Config]:
    """Parse options of a trained run: first for the run alone, then with its settings as defaults.

    The `run` of what is returned is the folder, also of a model that comes with the package.
    """

    def parse(config: Config) -> OfRun:
        default = form(seed=config.seed, device=config.device, plan=config.plan, eval=config.eval)
        return tyro.cli(form, prog=f"lewm {name}", args=argv, default=default)

    first = parse(preset("tiny"))
    from lewm.train.checkpoint import load_config

    run = _run_folder(first.run, first.pretrained)
    if run is None:
        raise ValueError("run: not given; give a run folder RUN, or --pretrained NAME")
    config = load_config(run)
    args = dataclasses.replace(parse(config), run=run)
    return args, dataclasses.replace(config, seed=args.seed, plan=args.plan, eval=args.eval)


def _run_folder(run: Path | None, pretrained: str | None) -> Path | None:
    """Return the folder that RUN or --pretrained names, if either does."""
    if pretrained is None:
        return run
    if run is not None:
        raise ValueError(f"pretrained={pretrained}: stands in place of RUN, which is {run}; leave one of them out")
    from lewm.pretrained import pretrained_run

    return pretrained_run(pretrained)


def _show(as_json: bool, result: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Print a result as one line of JSON, or as it is shown to people."""
    if as_json:
        print(json.dumps(result))
    else:
        show()


def _print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*heads, title=escape(title), title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))  # names of the data may hold brackets
    Console().print(table)


def _collect(argv: list[str]) -> None:
    args = tyro.cli(Collect, prog="lewm collect", args=argv)
    from lewm.envs import collect

    try:
        store = collect(
            args.task,
            args.out,
            episodes=args.episodes,
            image_size=args.image_size,
            episode_length=args.episode_length,
            seed=args.seed,
            workers=args.workers,
        )
    except RuntimeError as error:  # a worker failed; the message says what is left to do
        raise ValueError(str(error)) from error
    summary = {
        "store": str(args.out),
        "task": args.task,
        "episodes": store.num_episodes,
        "frames": store.num_frames,
        "image_size": store.meta.image_size,
    }
    _show(args.json, summary, lambda: print(_content(store)))


def _content(store: "Store") -> str:
    return f"{store.path}: {_counted(store.num_episodes, 'episode')}, {_counted(store.num_frames, 'frame')}"


def _control(mode: str, evidence: str) -> str:
    return f"control mode: {mode} ({evidence})"


def _import(argv: list[str]) -> None:
    args = tyro.cli(Import, prog="lewm import", args=argv)
    from lewm.data.importing import ImportOptions, import_recording

    options = ImportOptions(**{f.name: getattr(args, f.name) for f in dataclasses.fields(ImportOptions)})
    try:
        if args.ray is not None:
            from lewm.data.ray_import import import_with_ray

            done = import_with_ray(
                args.source,
                args.out,
                options=options,
                format_=args.format,
                max_episodes=args.episodes,
                address=args.ray,
            )
        else:
            done = import_recording(
                args.source,
                args.out,
                options=options,
                format_=args.format,
                max_episodes=args.episodes,
                workers=args.workers,
            )
    except RuntimeError as error:  # a worker failed; the message says what is left to do
        raise ValueError(str(error)) from error
    store = done.store
    summary = {
        "store": str(args.out),
        "format": store.meta.origin["format"],
        "episodes": store.num_episodes,
        "frames": store.num_frames,
        "image_size": store.meta.image_size,
        "action_size": store.meta.action_size,
        "control_mode": store.meta.control_mode,
        "control_evidence": store.meta.control_evidence,
        "frames_fitted": done.fitted,
        "skipped": [{"episode": index, "reason": reason} for index, reason in done.skipped],
        "left_out": done.left_out,
    }

    def show() -> None:
        for index, reason in done.skipped:
            print(f"skipped episode {index}: {reason}", file=sys.stderr)
        for reason in done.left_out[:_NAMED]:
            print(f"left out: {reason}", file=sys.stderr)
        print(_content(store))
        if done.fitted:
            print(f"frames: {done.fitted}")
        if store.meta.control_evidence:
            print(_control(store.meta.control_mode, store.meta.control_evidence))
        for note in store.meta.origin.get("notes", []):
            print(f"note: {note}")
        if done.skipped:
            print(f"skipped: {_counted(len(done.skipped), 'episode')}, named above; run again to add what is mended")
        if done.left_out:
            named = "named above" if len(done.left_out) <= _NAMED else f"the first {_NAMED} named above"
            print(f"left out: {_counted(len(done.left_out), 'single picture')}, {named}")

    _show(args.json, summary, show)


def _check(argv: list[str]) -> int:
    args = tyro.cli(Check, prog="lewm check", args=argv)
    if args.repair != (args.out is not None):
        raise ValueError(
            f"repair={args.repair}: needs a new store, and only it does; give --repair --out DIR, or neither"
        )
    from lewm.data import Store
    from lewm.data.check import check_store
    from lewm.data.control_mode import GIVEN
    from lewm.data.store import set_control_mode
    from lewm.evaluate.check_report import write_check_report

    if args.control_mode is not None:
        set_control_mode(args.store, args.control_mode, GIVEN)
    store = Store(args.store)

    def check(store: Store, *, whole: bool) -> "CheckResult":
        result = check_store(
            store,
            frame_skip=args.frame_skip,
            clip_frames=args.clip_frames,
            held_out=args.held_out,
            split_seed=args.split_seed,
            whole=whole,
        )
        write_check_report(store, result, store.path / "check.html")
        return result

    result = check(store, whole=args.whole or args.repair)
    if args.repair and args.out is not None:
        from lewm.data.repair import repair

        store = repair(store, result, args.out)
        result = check(store, whole=True)

    def show() -> None:
        for finding in result.findings:
            print(f"{finding.severity}: {finding.message}; {finding.remedy}")
        if result.control_evidence:
            print(_control(result.control_mode, result.control_evidence))
        counts = ", ".join(_counted(result.count(severity), severity) for severity in ("error", "warning", "note"))
        print(f"{_content(store)}; {counts}; {store.path}/check.html")

    _show(args.json, {"store": str(store.path)} | result.as_json(), show)
    return 1 if result.count("error") else 0


def _train(argv: list[str]) -> None:
    args = _parse_settings("train", Train, argv)
    if args.resume is not None:
        if args != Train(resume=args.resume, json=args.json, settings=_Settings.of(preset("tiny"))):
            raise ValueError(
                f"resume={args.resume}: goes on with the settings and the store that the run was started with; leave "
                "the other options out"
            )
        run, config = args.resume, None
    elif args.data is None or args.out is None:
        raise ValueError("train: which store and which new run? give --data DIR --out DIR, or --resume RUN")
    else:
        run, config = args.out, args.settings.config()
        _check_before_training(args.data, config)
    _train_run(config, args.data, run)
    if os.environ.get("RANK", "0") != "0":
        return  # under `torchrun`, the first process speaks for all
    summary: dict[str, Any] = {"run": str(run)} | _last_metrics(run)
    _show(args.json, summary, lambda: print(f"{run}: {_counted(summary['step'], 'step')}, loss {summary['loss']:.4f}"))


def _check_before_training(data: Path, config: Config) -> None:
    """Warn of what a sample of the data shows, and stop where training would fail or learn nothing."""
    from lewm.data import Store
    from lewm.data.check import check_store

    result = check_store(
        Store(data),
        frame_skip=config.data.frame_skip,
        clip_frames=config.model.history + config.train.rollout_steps,
        held_out=config.data.held_out,
        split_seed=config.data.split_seed,
    )
    for finding in result.findings:
        line = f"{finding.message}; {finding.remedy}"
        if finding.severity == "error":
            raise ValueError(f"data={data}: {line} (`lewm check {data}` shows more)")
        if finding.severity == "warning" and os.environ.get("RANK", "0") == "0":
            print(f"warning: {line}", file=sys.stderr)


def _train_run(config: Config | None, data: Path | None, run: Path) -> None:
    """Train a new run, or go on with one when there is no configuration; under `torchrun`, with the other processes."""
    from lewm.device import resolve_device
    from lewm.distributed import process_group
    from lewm.train import NonFiniteLossError, resume, train
    from lewm.train.checkpoint import load_config

    with process_group(resolve_device((config or load_config(run)).device)):
        try:
            if config is None or data is None:
                resume(run)
            else:
                train(config, data, run)
        except NonFiniteLossError as error:
            raise ValueError(str(error)) from error


def _last_metrics(run: Path) -> dict[str, Any]:
    """Return the loss and its parts at the last step."""
    from lewm.train.checkpoint import METRICS

    row = json.loads((run / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    return {name: value for name, value in row.items() if name == "step" or name.startswith("loss")}


def _eval(argv: list[str]) -> None:
    args, config = _parse_of_run("eval", Eval, argv)
    assert args.run is not None
    if args.pretrained is not None:
        return _eval_pretrained(args, args.pretrained, config)
    run = args.run
    from lewm.evaluate import evaluate_run, figures  # noqa: F401  without matplotlib, fail before the long part
    from lewm.evaluate.report import write_report

    results = evaluate_run(run, data=args.data, device=args.device, config=config)
    report = write_report(run)

    def show() -> None:
        _print_table(f"{run} on held-out episodes", _HEADS, number_rows(results))
        print(f"{run / 'eval.json'}, {report}\n{results['verdict']}")

    _show(args.json, results, show)


def _eval_pretrained(args: Eval, name: str, config: Config) -> None:
    """Measure a model that comes with the package; its folder is not written to."""
    from lewm.evaluate import evaluate_pretrained

    results = evaluate_pretrained(name, data=args.data, device=args.device, config=config)

    def show() -> None:
        _print_table(f"{name} on held-out episodes", _HEADS, number_rows(results))
        print(results["verdict"])

    _show(args.json, results, show)


def _plan(argv: list[str]) -> None:
    args, config = _parse_of_run("plan", Plan, argv)
    if args.planner is not None:
        config = dataclasses.replace(config, plan=dataclasses.replace(config.plan, planner=args.planner))
    if args.episodes is not None:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, episodes=args.episodes))
    if args.start is not None and args.goal is None:
        raise ValueError(f"start={args.start}: a plan needs a goal; give --goal")
    if args.goal is not None and (args.start is not None or not _is_simulated(args.data, config)):
        return _plan_once(args, args.goal, config)
    assert args.run is not None
    from lewm.evaluate import plan_pretrained, plan_run

    plan = partial(plan_run, args.run) if args.pretrained is None else partial(plan_pretrained, args.pretrained)
    planning = plan(data=args.data, device=args.device, config=config, goal=args.goal, video=args.video)
    _warn_of_goal(planning.get("goal", {}))

    def show() -> None:
        rows = [*_planning_rows(planning), ("Seconds a plan", f"{planning['seconds_per_plan']:.4f}", "")]
        if args.goal is not None:
            rows += _goal_rows(planning["goal"])
        title = f"{args.pretrained or args.run} in closed loop{f' to {args.goal}' if args.goal else ''}"
        _print_table(title, _HEADS, rows)
        if args.video is not None:
            print(args.video)

    _show(args.json, planning, show)


def _is_simulated(data: Path | None, config: Config) -> bool:
    """Say whether the true dynamics of a run's data are at hand."""
    from lewm.data import Store
    from lewm.evaluate.run import has_simulator

    path = data or config.data.path
    return not path or has_simulator(Store(path))  # without data, closed loop says what is missing


def _plan_once(args: Plan, goal: str, config: Config) -> None:
    """Show one plan, beside what else it might have been."""
    if args.video is not None:
        raise ValueError(f"video={args.video}: a plan that is not carried out has none; leave it out")
    from lewm.evaluate import plan_once

    assert args.run is not None
    plan = plan_once(args.run, goal=goal, start=args.start, data=args.data, device=args.device, config=config)
    _warn_of_goal(plan["goal"])

    def show() -> None:
        rivals = f"{_short(plan['cost_now'])} (start), {_short(plan['cost_random'])} (random plans)"
        rows = [("Predicted cost at the end", _short(plan["cost"]), rivals)]
        for name, value in plan.get("predicted_state", {}).items():
            rows.append((f"Predicted {name} at the end", _short(value), f"{_short(plan['start_state'][name])} (start)"))
        rows += _goal_rows(plan["goal"])
        rows.append(("Seconds", f"{plan['seconds']:.4f}", ""))
        _print_table(f"{args.run} from {plan['start']} to {goal}", _HEADS, rows)
        for action in plan["actions"]:
            print(*([f"{value:.6g}" for value in action] if isinstance(action, list) else [action]))

    _show(args.json, plan, show)


def _warn_of_goal(goal: Mapping[str, Any]) -> None:
    """Say which variables of a goal the probe cannot read."""
    from lewm.evaluate.goal import READABLE_R2

    for name, r2 in goal.get("r2", {}).items():
        if r2 is None or r2 < READABLE_R2:
            print(
                f"warning: goal={goal['text']}: {name} is read from representations with a held-out R² of "
                f"{_number(r2)}, below {READABLE_R2}, so that plans hardly know the goal",
                file=sys.stderr,
            )


def _info(argv: list[str]) -> None:
    args = _parse_settings("info", Info, argv)
    run = _run_folder(args.run, args.pretrained)
    if run is None:
        title, config = f"preset {args.settings.preset}", args.settings.config()
    else:
        from lewm.train.checkpoint import load_config

        if args.settings != _Settings.of(preset("tiny")):
            raise ValueError(f"run={run}: has settings of its own; leave the other options out, or the run")
        title, config = args.pretrained or str(run), load_config(run)
    info = describe(config)

    def show() -> None:
        notes = {"total": " of the three", "target_encoder": " (EMA copy)", "steps_to_go": " (planning cost)"}
        order = ("encoder", "predictor", "action", "total", "target_encoder", "steps_to_go")
        counts = [(f"{name}{notes.get(name, '')}", f"{info['parameters'][name]:,}") for name in order]
        _print_table(f"{title}: parameters", ("part", "number"), counts)
        sizes = [(name.replace("_", " "), str(value)) for name, value in info.items() if name != "parameters"]
        _print_table(f"{title}: sizes", ("size", "value"), sizes)

    _show(args.json, info, show)


def describe(config: Config) -> dict[str, Any]:
    """Return parameter counts and sizes of a configuration, as `lewm info` shows them.

    The total is of the trained online parts: encoder, predictor and action embedding. The target encoder is a copy that
    no gradient reaches, and the steps-to-go head is fitted afterwards; both are counted apart.
    """
    import torch

    from lewm.model import WorldModel

    with torch.device("meta"):  # shapes without numbers
        model = WorldModel(config)
    parts = {
        "encoder": model.encoder,
        "predictor": model.predictor,
        "action": model.action_embed,
        "target_encoder": model.target_encoder,
        "steps_to_go": model.steps_to_go,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    total = sum(counts[name] for name in ("encoder", "predictor", "action"))
    m = config.model
    return {
        "parameters": counts | {"total": total},
        "preset": config.preset,
        "image_size": m.image_size,
        "pixels_a_token": m.effective_patch,
        "tokens": m.num_tokens,
        "width": m.width,
        "predictor_width": m.predictor_width,
        "history": m.history,
        "frame_skip": config.data.frame_skip,
        "action": f"{config.action.kind} {config.action.size}",
        "model_action_size": config.model_action_size,
    }


def _report(argv: list[str]) -> None:
    args = tyro.cli(Report, prog="lewm report", args=argv)
    from lewm.evaluate.report import write_report

    report = write_report(args.run)
    _show(args.json, {"report": str(report)}, lambda: print(report))


def _ablate(argv: list[str]) -> int:
    args = tyro.cli(Ablate, prog="lewm ablate", args=argv)
    from lewm.ablate import load_table, select
    from lewm.ablate.results import by_label, read

    read(args.out)  # a file that is not one of results is refused before anything is done
    table = load_table(args.table)
    chosen = select(table, studies=args.study, variants=args.variants, tasks=args.tasks, seeds=args.seeds)
    summary: dict[str, Any] = {"out": str(args.out), "failed": []}
    if args.tables is not None or args.figures is not None:
        summary["written"] = [str(path) for path in _write_up(args, table, chosen)]
    elif not args.list:
        from lewm.ablate.run import run_jobs

        try:
            done = run_jobs(
                table,
                chosen,
                out=args.out,
                work=args.work,
                workers=args.jobs,
                ray=args.ray,
                keep=args.keep,
                device=args.device,
                progress=not args.json,
                tell=_announce,
            )
        except RuntimeError as error:  # a worker or a cluster failed; the message says what is left to do
            raise ValueError(str(error)) from error
        except KeyboardInterrupt:
            _announce(f"stopped; {args.out} keeps the results so far, and the same command goes on")
            raise
        summary["failed"] = list(done.failed)
    there = by_label(read(args.out))
    rows = [(job, job.label in there) for job in chosen]
    summary |= {"jobs": len(chosen), "done": sum(is_done for _, is_done in rows)}
    if args.list:
        names = ("study", "variant", "task", "seed", "key")
        summary["list"] = [dict(zip(names, job.label, strict=True)) | {"done": is_done} for job, is_done in rows]

    def show() -> None:
        if args.list:
            for job, is_done in rows:
                state = "done" if is_done else "missing"
                print(f"{state:<8}{job.study} / {job.variant} / {job.task} / seed {job.seed}")
        print(*summary.get("written", ()), f"{args.out}: {summary['done']} of {summary['jobs']} jobs done", sep="\n")

    _show(args.json, summary, show)
    return 1 if summary["failed"] else 0


def _write_up(args: Ablate, table: "Table", jobs: Sequence["Job"]) -> list[Path]:
    """Write the tables and draw the figures that were asked for."""
    written = []
    if args.tables is not None:
        from lewm.ablate.tables import write_tables

        write_tables(args.tables, jobs, args.out)
        written.append(args.tables)
    if args.figures is not None:
        from lewm.ablate.figures import write_figures

        written += write_figures(args.figures, table, jobs, args.out)
    return written


def _demo(argv: list[str]) -> None:
    args = tyro.cli(Demo, prog="lewm demo", args=argv)
    from lewm.envs import collect
    from lewm.evaluate import evaluate_run, figures, plan_run, video  # noqa: F401  without an extra, fail early
    from lewm.evaluate.report import NAME, write_report
    from lewm.train.checkpoint import CONFIG, load_config

    run, store = args.out, args.out / "store"
    config = dataclasses.replace(preset(DEMO_PRESET), seed=args.seed, eval=DEMO_EVAL)
    if (run / CONFIG).is_file():
        old = load_config(run)
        if dataclasses.replace(old, action=config.action, data=dataclasses.replace(old.data, path="")) != config:
            raise ValueError(
                f"out={run}: holds a run with other settings (seed {old.seed}, preset {old.preset}); remove the folder "
                "or give another --out"
            )
    results_file = run / "eval.json"
    if (run / NAME).is_file() and results_file.is_file():
        _announce(f"{run} holds a finished demo, shown again here; remove the folder to run it anew")
    else:
        _announce(f"1 of 5: collect {DEMO_EPISODES} episodes of {DEMO_TASK} into {store}")
        collect(
            DEMO_TASK,
            store,
            episodes=DEMO_EPISODES,
            image_size=config.model.image_size,
            episode_length=DEMO_EPISODE_LENGTH,
            seed=args.seed,
        )
        if not results_file.is_file():
            steps, extra = config.train.steps, config.train.cost_steps
            _announce(f"2 of 5: train preset {DEMO_PRESET}, {steps} steps, then the planning cost, {extra} steps")
            _train_run(None if (run / CONFIG).is_file() else config, store, run)
            few, usual = DEMO_EVAL.episodes, EvalConfig().episodes
            _announce(f"3 of 5: evaluate on held-out episodes, {few} in closed loop ({usual} by default)")
            evaluate_run(run)
        _announce(f"4 of 5: plan {DEMO_VIDEO_EPISODES} episodes for the video")
        for_video = dataclasses.replace(config.eval, episodes=DEMO_VIDEO_EPISODES)
        plan_run(run, config=dataclasses.replace(config, eval=for_video), video=run / "plan.mp4")
        _announce("5 of 5: report")
        write_report(run)
    results = json.loads(results_file.read_text(encoding="utf-8"))

    def show() -> None:
        _print_table("Two-Room, held-out episodes", _HEADS, number_rows(results))
        print(f"{run / NAME}, {run / 'plan.mp4'}\n{results['verdict']}")

    _show(args.json, results, show)


def _announce(stage: str) -> None:
    print(stage, file=sys.stderr, flush=True)


_NAMED = 20  # pictures left out
_HEADS = ("measure", "this run", "trivial rival")
_STARTS = {
    "nothing": "at the goal already",
    "straight": "that moving straight solves",
    "hard": "that moving straight does not solve",
}


def number_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return the main numbers of an evaluation, each beside its trivial rival; what was not measured is left out."""
    prediction, spectrum, probe, cost = (results[key] for key in ("prediction", "spectrum", "probe", "cost"))
    if prediction is None:
        return _image_rows(results)
    rows: list[Row] = []
    for k, steps in enumerate(prediction["horizon"]):
        title = f"Error ratio, {_counted(steps, 'step')} ahead"
        rows.append((title, _number(prediction["error_ratio"][k]), "1.00 (copy or mean)"))
    for k, steps in enumerate(prediction["horizon"]):
        ours, copying = (_number(prediction[name][k]) for name in ("centred_cosine", "copy_centred_cosine"))
        rows.append((f"Centred cosine, {_counted(steps, 'step')} ahead", ours, f"{copying} (copy)"))
    rows += _spectrum_rows(spectrum)
    if probe is not None:
        rows.append(("State R², linear probe", _number(probe["r2"]), f"{_number(probe['random_r2'])} (random encoder)"))
    rows.append(("Rank correlation of the cost", _number(cost["rank_correlation"]), "0.00 (no order)"))
    if results["planning"] is not None:
        rows += _planning_rows(results["planning"])
        for name in ("planner_alone", "cost_alone") if "split_episodes" in cost else ():
            rate = _rate(cost[f"{name}_success"], cost[f"{name}_ci95"])
            count = _counted(cost["split_episodes"], "episode")
            rows.append((f"{name.replace('_', ' ').capitalize()}, {count}", rate, ""))
    return rows


def _spectrum_rows(spectrum: Mapping[str, Any]) -> list[Row]:
    return [
        ("Effective rank", _number(spectrum["effective_rank"]), "1.00 (collapse)"),
        ("Content share of the variance", _number(spectrum["content_share"]), "0.00 (position only)"),
    ]


def _image_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return the numbers of a run on images, which predicts and plans nothing."""
    rows, told = _spectrum_rows(results["spectrum"]), results["class_probe"]
    if told is not None:
        ours, fresh = _rate(told["accuracy"], told["ci95"]), _rate(told["random_accuracy"], told["random_ci95"])
        rows.append((f"Class by a linear probe, {told['images']} images", ours, f"{fresh} (random encoder)"))
        rows.append(("", "", f"{told['largest_class']:.0%} (largest class)"))
    return rows


def _planning_rows(planning: Mapping[str, Any]) -> list[Row]:
    ours = _rate(planning["success_rate"], planning["ci95"])
    chance = _rate(planning["random_success_rate"], planning["random_ci95"])
    title = f"{planning['planner'].upper()} success, {_counted(planning['episodes'], 'episode')}"
    rows = [(title, ours, f"{chance} (random)")]
    if planning.get("by_start") is None:  # a region; or measured before starts were told apart
        at_start = f"{planning['solved_at_start']:.0%}"
        return [*rows, ("Solved before the first action", at_start, f"{at_start} (doing nothing)")]
    straight = _rate(planning["straight_success_rate"], planning["straight_ci95"])
    rows.append(("", "", f"{straight} (moving straight)"))
    for kind, words in _STARTS.items():
        part = planning["by_start"][kind]
        if part["count"]:
            ours, chance = (_rate(part[f"{policy}success_rate"], part[f"{policy}ci95"]) for policy in ("", "random_"))
            rows.append((f"Success of {_counted(part['count'], 'start')} {words}", ours, f"{chance} (random)"))
    return rows


def _goal_rows(goal: Mapping[str, Any]) -> list[Row]:
    """Say how well the probe reads the variables of a goal that is given by the state."""
    return [(f"Held-out R² of {name}", _number(r2), "0 (the mean)") for name, r2 in goal.get("r2", {}).items()]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _rate(rate: float, interval: Sequence[float]) -> str:
    return f"{rate:.0%} ({interval[0]:.0%} to {interval[1]:.0%})"


# What each command is for, and what it does; a number that it returns is the exit status.
_COMMANDS: dict[str, tuple[str, Callable[[list[str]], int | None]]] = {
    "collect": ("episodes of a task into a store", _collect),
    "import": ("a recording of a robot, or images, into a store", _import),
    "check": ("a store for what would spoil training; writes check.html", _check),
    "train": ("a world model on a store; resumes", _train),
    "eval": ("everything that can be measured, beside trivial rivals; writes eval.json and report.html", _eval),
    "plan": ("with CEM or MPPI: in closed loop, beside a random policy, or once", _plan),
    "info": ("sizes and parameter counts of a run or a preset", _info),
    "report": ("report.html of a run folder", _report),
    "ablate": ("variants of a table of studies, side by side; resumes", _ablate),
    "demo": ("all of it on Two-Room, from nothing", _demo),
}
# Modules that are not in the base install, and the extra that brings them.
_EXTRA_OF = {
    **dict.fromkeys(("torch", "pyarrow", "tensorboard", "rich", "av", "h5py", "filelock"), "train"),
    **dict.fromkeys(("gymnasium", "gym_pusht", "pymunk", "pygame"), "env"),
    **dict.fromkeys(("mujoco", "dm_control"), "mujoco"),
    **dict.fromkeys(("matplotlib", "PIL", "imageio"), "report"),
    "ray": "ray",
    **dict.fromkeys(("zarr", "numcodecs"), "zarr"),
}
