"""The command line from end to end, in one process: what it accepts, what it prints, and how it fails.

Run as a script, this file writes the list of options anew: `python tests/test_cli.py`.
"""

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lewm
import lewm.cli.demo_command
import lewm.envs
import lewm.evaluate.pretrained
import lewm.families.presets
import lewm.pretrained
import lewm.train.loop
from lewm.cli import main
from lewm.cli.info_command import describe
from lewm.cli.numbers import number_rows, planning_rows
from lewm.cli.usage import as_options
from lewm.config import EvalConfig, PlanConfig
from lewm.families.article.settings import ArticleSettings
from lewm.families.presets import PRESETS
from lewm.train.checkpoint import PROPOSAL, load_config, save_config
from tiny import ARTICLE, IMAGE, tiny

GOLDEN = Path(__file__).parent / "golden" / "cli.txt"
COMMANDS = (
    "collect",
    "import",
    "import-model",
    "check",
    "train",
    "distill",
    "eval",
    "plan",
    "export",
    "bench",
    "serve",
    "view",
    "info",
    "report",
    "ablate",
    "demo",
)
FULL = lewm.preset("tiny")
OF_FAMILIES = list({config.model.family: name for name, config in reversed(PRESETS.items())}.values())[::-1]
"""The first preset of each family."""
EVAL = EvalConfig(
    episodes=3, split_episodes=2, goal_offset=5, budget=6, horizons=(1, 2), clips=8, probe_frames=40
)  # fmt: skip
SMALL = dataclasses.replace(
    tiny(data__frame_skip=2, data__held_out=0.34, train__steps=6, train__checkpoint_every=2, train__cost_steps=2),
    plan=PlanConfig(horizon=2, candidates=4, elites=2, iterations=1),
    eval=EVAL,
)
SMALL_ARTICLE = dataclasses.replace(SMALL, preset="literal", model=ARTICLE.model)
COLLECT = ("--episodes", "6", "--episode-length", "20", "--image-size", str(IMAGE), "--workers", "1")


def options(*command: str) -> list[str]:
    """Return the options of a command, maybe with a preset, with what they take, as its help lists them."""
    columns, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "110"
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*command, "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    lines = [line.strip("│ ") for line in out.getvalue().splitlines()]  # without frames where the stream has no Unicode
    usage = re.sub(r" \[-[^]]*\]", "", lines[0])
    positional = re.findall(r" (\[?(?!OPTIONS)[A-Z]+\]?)$", usage)
    listed = [re.split(" {2,}", line)[0] for line in lines if re.match("--?[a-z]", line)]
    return [f"{' '.join(command)} {option}" for option in (*positional, *listed)]


def surface() -> str:
    """Return the whole command line as text, one option a line; of presets of other families, what only they have."""
    lines = [line for command in COMMANDS for line in options(command)]
    there = {line.removeprefix("train ") for line in lines}
    for name in OF_FAMILIES:
        start = f"train --preset {name} "
        lines += [line for line in options(*start.split()) if line.removeprefix(start) not in there]
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `tiny` a preset that trains in milliseconds."""
    monkeypatch.setitem(lewm.families.presets.PRESETS, "tiny", SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds a store, `store`, and a run of it, `run`, trained and stopped and resumed."""
    path = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lewm.families.presets.PRESETS, "tiny", SMALL)
        assert main(["collect", "two-room", "--out", str(path / "store"), *COLLECT]) == 0
        step, calls = lewm.train.loop.train_step, []

        def stop_at_third(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGTERM)
            return step(*args, **kwargs)

        patch.setattr(lewm.train.loop, "train_step", stop_at_third)
        train = ["train", "--data", str(path / "store"), "--preset", "tiny", "--out", str(path / "run"), "--seed", "3"]
        with contextlib.redirect_stderr(io.StringIO()) as told:
            assert main(train) == 1
        assert "error: stopped at step 3; go on with `lewm train --resume" in told.getvalue()
        assert main(["train", "--resume", str(path / "run")]) == 0
    return path


def json_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the one line of JSON that is all a command has printed on standard output."""
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with one line on standard error, and return that line."""
    capsys.readouterr()
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith(("collecting", "train ", "warning: "))]
    assert line.startswith("error: ")
    return line


def test_options_are_those_of_the_golden_list() -> None:
    assert surface() == GOLDEN.read_text(encoding="utf-8"), "if this is meant, run: python tests/test_cli.py"


@pytest.mark.parametrize("name", OF_FAMILIES)
def test_every_setting_has_an_option_and_a_help_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = {line.split()[3].rstrip(",") for line in options("train", "--preset", name)}
    config, wanted = lewm.preset(name), {"--preset", "--seed", "--device", "--data", "--out", "--resume"}
    for group in ("data", "model", "train", "plan", "eval"):
        wanted |= {f"--{group}.{f.name.replace('_', '-')}" for f in dataclasses.fields(getattr(config, group))}
    assert listed - {"-h", "--json"} == wanted - {"--data.path"}  # none of another family
    with pytest.raises(SystemExit):
        main(["train", "--preset", name, "--help"])
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert f"{{{','.join(PRESETS)}}}" in text.replace(" ", "")  # the list may break across lines
    assert f"(default: {config.model.image_size})" in text
    assert "Peak learning rate." in text
    assert "K: action sequences" in text


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--help"], ["info", "--help"], ["train", "--preset", "literal", "--help"]])
def test_help_loads_no_torch(argv: list[str]) -> None:
    code = f"""
import sys, contextlib
from lewm.cli import main
with contextlib.suppress(SystemExit):
    main({argv!r})
sys.exit('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: lewm" in done.stdout


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "lewm", "colect"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "did you mean lewm collect?" in done.stderr


def test_usage_errors_have_status_2_and_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["trian"]) == 2
    assert "did you mean lewm train?" in capsys.readouterr().err
    assert main(["bogus"]) == 2
    assert capsys.readouterr().err.endswith(", demo; see lewm --help\n")  # none is near
    for argv, told in (
        (["train", "--model.image-sise", "64"], "--model.image-size"),
        (["train", "--train.steps", "many"], "--train.steps"),
        (["train", "--preset", "tinny"], "; did you mean tiny?"),
        (["train", "--model.family", "gcbc"], "the preset chooses the family; leave it out, and give --preset"),
        (["plan", "run", "--planner", "cme"], "cem"),
        (["report"], "RUN"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        assert told in err
        assert out == ""


def test_wrong_values_are_one_line(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, run, new = str(folder / "store"), str(folder / "run"), str(tmp_path / "new")
    train = ["train", "--data", store, "--out", new]
    assert "did you mean push-t?" in error_of(["collect", "pusht", "--episodes", "2", "--out", new], capsys)
    assert "use 128 or 136" in error_of([*train, "--model.image-size", "130"], capsys)
    both = f"use --model.image-size {IMAGE}, or collect or import them with --image-size 64"
    assert both in error_of([*train, "--model.image-size", "64"], capsys)
    assert "is not a store" in error_of(["train", "--data", new, "--out", new], capsys)
    assert "give --out DIR, the new run folder, or --resume" in error_of(["train", "--data", store], capsys)
    assert "give --data DIR, the store to train on, or --re" in error_of(["train", "--out", new], capsys)
    assert "is a store already; give it to `lewm train --data`" in error_of(["import", store, "--out", new], capsys)
    assert "all options but --data and --json" in error_of(["train", "--resume", run, "--seed", "4"], capsys)
    assert "is a run already" in error_of(["train", "--data", store, "--out", run], capsys)
    assert "no such folder" in error_of(["train", "--resume", new], capsys)
    assert "no such folder" in error_of(["eval", new], capsys)
    assert "must end in .mp4" in error_of(["plan", run, "--video", "plan.gif"], capsys)
    fewer = "must not exceed 1 candidates; use --plan.elites 1 or fewer, or more --plan.candidates"
    assert fewer in error_of(["plan", run, "--plan.candidates", "1"], capsys)
    cem = "plan.elites=3: is a setting of cem, and plan.planner=mppi; leave it out, or use --plan.planner cem"
    assert cem in error_of(["plan", run, "--planner", "mppi", "--plan.elites", "3"], capsys)
    assert "is a setting of mppi" in error_of([*train, "--plan.temperature", "0.5"], capsys)
    assert "give some of x, y" in error_of(["plan", run, "--goal", "state:z=1"], capsys)
    assert "give all variables, or a region" in error_of(["plan", run, "--goal", "state:x=0.3"], capsys)
    assert "give --goal" in error_of(["plan", run, "--start", "frame:0:0"], capsys)
    assert "use 0 to 5" in error_of(["plan", run, "--start", "frame:6:0", "--goal", "frame:0:0"], capsys)
    assert "has settings of its own" in error_of(["info", run, "--seed", "4"], capsys)
    assert not Path(new).exists()


def test_a_remedy_names_settings_as_they_are_typed() -> None:
    line = "plan.cost=x: is wrong; use plan.planner=mppi, plan.cost tokens, model.residual False or a lower train.py"
    typed = (
        "plan.cost=x: is wrong; use --plan.planner mppi, --plan.cost tokens, --model.no-residual or a lower train.py"
    )
    assert as_options(line) == typed


def test_empty_store_is_one_line(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "store", tmp_path / "empty")
    table = pq.read_table(tmp_path / "empty" / "episodes.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "empty" / "episodes.parquet")
    line = error_of(["train", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "new")], capsys)
    assert "no complete episode" in line


def test_run_without_weights_is_one_line(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("weights*", "state"))
    for command in ("eval", "plan"):
        assert "has no weights.safetensors" in error_of([command, str(tmp_path / "run")], capsys)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert error_of(["info"], capsys) == 'error: torch is not installed; pip install "lewm[train]"'


def test_failures_of_the_machine_are_one_line(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> Any:
        def raise_it(*args: Any, **kwargs: Any) -> None:
            raise error

        return raise_it

    collect = ["collect", "two-room", "--episodes", "2", "--out", str(tmp_path / "new")]
    monkeypatch.setattr(lewm.envs, "collect", fail(RuntimeError("episode=1: a worker failed; run again to go on")))
    assert "a worker failed" in error_of(collect, capsys)
    monkeypatch.setattr(lewm.envs, "collect", fail(OSError(28, "store: disk full; free some space")))
    assert error_of(collect, capsys) == "error: store: disk full; free some space"
    monkeypatch.setattr(lewm.envs, "collect", fail(PermissionError(13, "Permission denied", "/store")))
    assert error_of(collect, capsys) == "error: /store: Permission denied"
    monkeypatch.setattr(lewm.envs, "collect", fail(KeyboardInterrupt()))  # pyright: ignore[reportArgumentType]
    assert main(collect) == 130
    assert capsys.readouterr() == ("", "stopped; the same command goes on with what is not done yet\n")
    monkeypatch.setattr(lewm.train, "train", fail(lewm.train.NonFiniteLossError("loss=nan: not finite at step 3")))
    train = ["train", "--data", str(folder / "store"), "--out", str(tmp_path / "run")]
    assert error_of(train, capsys) == "error: loss=nan: not finite at step 3"


@pytest.mark.parametrize(
    ("long_part", "argv"),
    [
        ("lewm.evaluate.evaluation._run_model", "plan RUN --video FILE/plan.mp4"),
        ("lewm.evaluate.evaluation._run_model", "plan RUN --video RUN --goal region:x=0.1..0.9"),
        ("lewm.evaluate.pretrained.collect", "plan --pretrained two-room --video FILE/plan.mp4"),
        (
            "lewm.data.check.store_check.check_store",
            "train --data STORE --out FILE/run",
        ),
        (
            "lewm.data.check.store_check.check_store",
            "check STORE --repair --out FILE/store",
        ),
        (
            "lewm.data.check.store_check.check_store",
            "check STORE --repair --out STORE",
        ),
        ("lewm.data.importing.open_source", "import STORE --out FILE/store"),
        ("lewm.research.study_tables.write_tables", "ablate TABLE --out NEW/out.jsonl --tables FILE/page.md"),
        ("lewm.research.study_figures.write_figures", "ablate TABLE --out NEW/out.jsonl --figures FILE/figures"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_long_part(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    long_part: str,
    argv: str,
) -> None:
    (tmp_path / "file").touch()
    places = {"RUN": folder / "run", "STORE": folder / "store", "FILE": tmp_path / "file", "NEW": tmp_path / "new"}
    places["TABLE"] = Path(__file__).with_name("ablation_fixture.py")
    for name, path in places.items():
        argv = argv.replace(name, str(path))
    monkeypatch.setattr(long_part, lambda *_, **__: pytest.fail("the long part was begun"))
    assert re.match("error: (video|out|tables|figures)=[^;]*: [^;]*; [^;]*$", error_of(argv.split(), capsys))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_demo_tries_its_folder_and_its_video_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lewm.envs.collect", lambda *_, **__: pytest.fail("collecting was begun"))
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "demo"
    assert error_of(["demo", "--out", str(below)], capsys).startswith(
        f"error: out={below}: {tmp_path}/file is no folder"
    )
    monkeypatch.setattr("av.codecs_available", set())
    assert "has no encoder libx264" in error_of(["demo", "--out", str(tmp_path / "demo")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["eval.json", "eval.npz", "report.html", None])
def test_eval_tries_its_files_first(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unwritable: Callable[[Path, int], None],
    name: str | None,
) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    told = "cannot be written (Read-only file system); see to the disk and the permissions, or give another place"
    if name is None:
        unwritable(run, errno.EROFS)
    else:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
        told = f"run={run / name}: is a folder; give a file"
    monkeypatch.setattr(
        "lewm.evaluate.evaluation.evaluate_model", lambda *_, **__: pytest.fail("the evaluation was begun")
    )
    assert told in error_of(["eval", str(run)], capsys)
    if name in ("report.html", None):
        assert told in error_of(["report", str(run)], capsys)


def test_check_of_a_store_that_cannot_be_written_tells_what_it_finds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unwritable: Callable[[Path, int], None]
) -> None:
    store = Path(shutil.copytree(folder / "store", tmp_path / "store"))
    assert main(["check", str(store)]) == 0
    whole = capsys.readouterr().out
    assert whole.endswith(f"; {store}/check.html\n")
    (store / "check.html").unlink()
    unwritable(store, errno.EROFS)
    assert main(["check", str(store)]) == 0
    out, err = capsys.readouterr()
    assert out == whole.replace(f"; {store}/check.html", "")
    (line,) = err.splitlines()
    assert line.startswith(f"warning: store={store}/check.html: cannot be written (Read-only file system); ")
    assert line.endswith("; the findings are told here alone")
    assert main(["check", str(store), "--json"]) == 0
    assert json_line(capsys)["findings"]
    assert not (store / "check.html").exists()


def test_check_asks_for_room_before_it_reads_the_store_whole(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free_space: Callable[[float], None],
) -> None:
    free_space(1000)
    monkeypatch.setattr(
        "lewm.data.check.store_check.check_store",
        lambda *_, **__: pytest.fail("the check was begun"),
    )
    new = tmp_path / "new" / "store"
    line = error_of(["check", str(folder / "store"), "--repair", "--out", str(new)], capsys)
    assert line.startswith(f"error: out={new}: needs about ")
    assert not list(tmp_path.iterdir())


def test_collect_goes_on_and_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect = ["collect", "two-room-discrete", "--out", str(tmp_path), *COLLECT[2:], "--json"]
    assert main([*collect, "--episodes", "2"]) == 0
    assert json_line(capsys)["episodes"] == 2
    assert main([*collect, "--episodes", "3"]) == 0
    assert json_line(capsys) == {
        "store": str(tmp_path),
        "task": "two-room-discrete",
        "episodes": 3,
        "frames": 60,
        "image_size": IMAGE,
    }


def test_training_was_stopped_and_went_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_pred", "loss_reg"} <= rows[0].keys()
    config = load_config(run)
    assert (config.seed, config.train.steps, config.data.path) == (3, 6, str((folder / "store").resolve()))
    assert main(["train", "--resume", str(run), "--json"]) == 0
    summary = json_line(capsys)
    assert (summary["run"], summary["step"], summary["loss"]) == (str(run), 6, rows[-1]["loss"])


@pytest.mark.slow
def test_two_processes_train_as_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(lewm.families.presets.PRESETS, "tiny", FULL)  # other processes see the package as it is
    small = (
        "--train.steps", "2", "--train.batch-size", "8", "--train.cost-steps", "0", "--plan.cost", "tokens",
        "--model.image-size", str(IMAGE), "--data.frame-skip", "2", "--data.held-out", "0.34", "--device", "cpu",
    )  # fmt: skip
    train = ["train", "--data", str(folder / "store"), *small, "--json", "--out"]
    assert main([*train, str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lewm"]
    command = [*launch, *train, str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()  # one process speaks for all
    assert json.loads(line)["loss"] == pytest.approx(json_line(capsys)["loss"], rel=1e-4)


def test_settings_given_by_name_win_over_the_preset(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lewm.families.presets.PRESETS, "literal", SMALL_ARTICLE)
    named = ("--train.steps", "2", "--model.context-ratio", "None", "--train.cost-steps", "0", "--plan.cost", "tokens")
    train = ["train", "--data", str(folder / "store"), "--out", str(tmp_path / "run"), "--preset", "literal", *named]
    assert main(train) == 0
    config = load_config(tmp_path / "run")
    assert isinstance(config.model, ArticleSettings)
    assert (config.train.steps, config.model.context_ratio, config.plan.cost) == (2, None, "tokens")
    assert dataclasses.replace(config.model, context_ratio=0.5) == ARTICLE.model


@pytest.mark.slow
def test_eval_without_the_true_dynamics_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    assert main(["eval", str(run), "--json", "--eval.split-episodes", "0"]) == 0
    results = json_line(capsys)
    assert results["planning"]["episodes"] == EVAL.episodes
    assert not [name for name in results["cost"] if "alone" in name or "split" in name]
    titles = [row[0] for row in number_rows(results)]
    assert not [title for title in titles if "alone" in title]
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Not measured: planner alone, cost alone: eval.split_episodes was 0" in report


@pytest.mark.slow
def test_eval_writes_what_it_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run"
    assert main(["eval", str(run), "--json", "--eval.split-episodes", "1"]) == 0
    results = json_line(capsys)
    assert results == json.loads((run / "eval.json").read_text(encoding="utf-8"))
    assert results["planning"]["episodes"] == EVAL.episodes
    assert results["cost"]["split_episodes"] == 1
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    table = "\n".join(" ".join(row) for row in number_rows(results))
    for name in (
        "Error ratio, 2 steps ahead",
        "State R²",
        "CEM success, standard, 3 episodes",
        "Cost alone, 1 episode ",
    ):
        assert name in table
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.split() == [str(run / "report.html")]


@pytest.mark.slow
def test_plan_prints_the_planning_object(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "videos" / "plan.mp4"
    plan = ["plan", str(folder / "run"), "--planner", "mppi", "--episodes", "2", "--plan.candidates", "5"]
    assert main([*plan, "--video", str(video), "--json"]) == 0
    planning = json_line(capsys)
    assert (planning["planner"], planning["episodes"], planning["candidates"]) == ("mppi", 2, 5)
    wanted = {"success_rate", "ci95", "random_success_rate", "random_ci95", "seconds_per_plan"}
    assert wanted <= planning.keys()
    assert video.stat().st_size > 0


def test_moving_straight_stands_by_the_success(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["plan", str(folder / "run"), "--json"]) == 0
    planning = json_line(capsys) | {"presolved": 3, "starts_left_out": 2, "start_candidates": 40}
    rows = planning_rows(planning)
    assert rows[1][:2] == ("", "")
    assert "(moving straight)" in rows[1][2]
    assert rows[2] == ("Starts left out, at the goal already", "3 of 40", "")
    assert rows[3] == ("Starts left out, not counted by the protocol", "2 of 40", "")


def test_plan_goes_to_a_goal_in_closed_loop(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that the table breaks no line
    plan = ["plan", str(folder / "run"), "--episodes", "2", "--goal", "region:x=0.1..0.9"]
    assert main([*plan, "--json"]) == 0
    out, err = capsys.readouterr()
    planning = json.loads(out)
    assert planning["goal"]["kind"] == "region"
    assert (planning["goal"]["r2"]["x"] < 0.5) == ("warning: goal=region:x=0.1..0.9: x is read" in err)
    assert main(plan) == 0
    out, err = capsys.readouterr()
    assert "in closed loop to region:x=0.1..0.9" in out
    assert "Solved before the first action" in out
    assert "(random)" in out


@pytest.fixture(scope="module")
def robot(folder: Path) -> Path:
    """Return a copy of the store that comes from an unknown robot, so that nothing simulates it."""
    shutil.copytree(folder / "store", folder / "robot")
    meta = json.loads((folder / "robot" / "meta.json").read_text(encoding="utf-8"))
    (folder / "robot" / "meta.json").write_text(json.dumps(meta | {"task": "arm [a]"}), encoding="utf-8")
    return folder / "robot"


def test_plan_gives_actions_where_nothing_is_simulated(
    folder: Path, robot: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    plan = ["plan", str(folder / "run"), "--data", str(robot)]
    assert "give --goal to plan once from a frame" in error_of(plan, capsys)
    assert main([*plan, "--goal", "state:x=0.4", "--planner", "mppi", "--json"]) == 0
    result = json_line(capsys)
    assert np.array(result["actions"]).shape == (SMALL.plan.horizon * SMALL.data.frame_skip, 2)
    assert result["planner"] == "mppi"
    assert {"start", "goal", "cost", "cost_now", "cost_random", "seconds", "predicted_state"} <= result.keys()

    again = ["plan", str(folder / "run"), "--start", "frame:1:2", "--goal", "frame:1:9"]  # although it is simulated
    assert main(again) == 0
    out = capsys.readouterr().out
    assert "from frame:1:2 to frame:1:9" in out
    assert "(random plans)" in out
    rows = [line.split() for line in out.splitlines()[-SMALL.plan.horizon * SMALL.data.frame_skip :]]
    assert np.abs(np.array(rows, dtype=float)).max() <= 1
    assert "has none; leave it out" in error_of([*again, "--video", "plan.mp4"], capsys)


def test_info_counts_parameters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--preset", "literal", "--json"]) == 0
    literal = json_line(capsys)
    counts = literal["parameters"]
    assert counts["total"] == counts["encoder"] + counts["predictor"] + counts["action"]
    assert counts["encoder"] == counts["target_encoder"] == pytest.approx(11.5e6, rel=0.01)
    assert counts["predictor"] == pytest.approx(2e6, rel=0.05)
    assert (literal["tokens"], literal["width"]) == (64, 384)
    assert main(["info", "--preset", "literal", "--model.image-size", "224", "--json"]) == 0
    assert json_line(capsys)["tokens"] == 196
    assert main(["info", str(folder / "run"), "--json"]) == 0
    ours = json_line(capsys)
    model = lewm.load_run(folder / "run").model
    assert ours["parameters"]["encoder"] == sum(p.numel() for p in model.encoder.parameters())
    assert (ours["frame_skip"], ours["model_action_size"]) == (2, 4)
    assert main(["info", str(folder / "run")]) == 0
    assert f"{ours['parameters']['total']:,}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_says_what_it_is_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    assert main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    assert "2 numbers, displacement: move_x -1 to 1, move_y -1 to 1" in out
    assert "10 environment steps a second, 5 model steps" in out
    assert main(["info", str(run), "--json"]) == 0
    assert json_line(capsys)["spec"] == json.loads((run / "spec.json").read_text(encoding="utf-8"))

    (run / "spec.json").unlink()  # as of an earlier version
    told = f"run={run}: has no spec.json (made by an older version); `lewm train --resume {run}` writes it"
    for command in ("eval", "plan"):
        assert error_of([command, str(run)], capsys).startswith(f"error: {told}")
    assert main(["info", str(run), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"warning: {told}")
    assert json.loads(captured.out)["spec"] is None
    assert main(["train", "--resume", str(run)]) == 0
    capsys.readouterr()
    assert (run / "spec.json").read_bytes() == (folder / "run" / "spec.json").read_bytes()

    (run / "spec.json").write_text("{", encoding="utf-8")
    for command in ("eval", "plan", "info"):
        assert error_of([command, str(run)], capsys).startswith(f"error: {run / 'spec.json'}: is not JSON (")


def test_plans_stay_within_the_bounds_that_a_run_says(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    values = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    (run / "spec.json").write_text(json.dumps(values | {"low": [0.1, -0.3], "high": [0.2, -0.2]}), encoding="utf-8")
    assert main(["plan", str(run), "--start", "frame:1:2", "--goal", "frame:1:9", "--json"]) == 0
    actions = np.array(json_line(capsys)["actions"], np.float32)
    assert (actions >= np.array([0.1, -0.3], np.float32)).all()
    assert (actions <= np.array([0.2, -0.2], np.float32)).all()


@pytest.mark.slow
def test_a_model_that_comes_with_the_package_needs_no_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lewm.pretrained, "FOLDER", tmp_path)
    monkeypatch.setattr(lewm.evaluate.pretrained, "FIT_EPISODES", 4)
    monkeypatch.setenv("COLUMNS", "200")  # so that the table breaks no line
    config = dataclasses.replace(load_config(folder / "run"), data=dataclasses.replace(SMALL.data, path=""))
    (tmp_path / "two-room").mkdir()
    for name in ("weights.safetensors", "cost.safetensors", "spec.json"):
        shutil.copy(folder / "run" / name, tmp_path / "two-room")
    save_config(tmp_path / "two-room", config)
    names = sorted(file.name for file in (tmp_path / "two-room").iterdir())

    assert main(["plan", "--pretrained", "two-room", "--episodes", "5", "--seed", "7", "--json"]) == 0
    planning = json_line(capsys)
    assert (planning["episodes"], planning["goal_offset"]) == (5, EVAL.goal_offset)
    assert sum(part["count"] for part in planning["by_start"].values()) == 5
    assert main(["plan", "--pretrained", "two-room", "--planner", "mppi"]) == 0
    out = capsys.readouterr().out
    assert "two-room in closed loop" in out
    assert str(tmp_path) not in out
    assert "(moving straight)" in out
    assert main(["eval", "--pretrained", "two-room"]) == 0
    out = capsys.readouterr().out
    assert "two-room on held-out episodes" in out
    assert "CEM success, standard, 3 episodes" in out
    plan = ["plan", "--pretrained", "two-room", "--data", str(folder / "store"), "--goal", "frame:0:3"]
    assert main([*plan, "--start", "frame:0:1", "--json"]) == 0
    assert json_line(capsys)["start"] == "frame:0:1"
    assert main(["info", "--pretrained", "two-room", "--json"]) == 0
    spec = json.loads((folder / "run" / "spec.json").read_text(encoding="utf-8"))
    assert json_line(capsys) == describe(config) | {"spec": spec}
    assert sorted(file.name for file in (tmp_path / "two-room").iterdir()) == names

    for command in ("plan", "eval", "info"):
        both = [command, str(folder / "run"), "--pretrained", "two-room"]
        assert "pretrained=two-room: stands in place of RUN" in error_of(both, capsys)
        unknown = error_of([command, "--pretrained", "two-rom"], capsys)
        assert "pretrained=two-rom: must be one of two-room; did you mean two-room?" in unknown
    for command in ("plan", "eval"):
        told = error_of([command], capsys)
        assert told == "error: run: not given; give a run folder RUN, or --pretrained NAME"
    assert "leave the other options out" in error_of(["info", "--pretrained", "two-room", "--seed", "4"], capsys)
    started = ["plan", "--pretrained", "two-room", "--goal", "frame:0:3", "--start", "frame:0:1"]
    assert "data: not given, and " in error_of(started, capsys)


@pytest.mark.slow
def test_demo_does_it_all_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lewm.cli.demo_command, "DEMO_EPISODES", 6)
    monkeypatch.setattr(lewm.cli.demo_command, "DEMO_EPISODE_LENGTH", 20)
    monkeypatch.setattr(lewm.cli.demo_command, "DEMO_EVAL", EVAL)
    monkeypatch.setattr(lewm.cli.demo_command, "DEMO_VIDEO_EPISODES", 1)
    demo = ["demo", "--out", str(tmp_path / "demo")]
    assert main(demo) == 0
    out, err = capsys.readouterr()
    results = json.loads((tmp_path / "demo" / "eval.json").read_text(encoding="utf-8"))
    assert out.splitlines()[-1] == results["verdict"]
    assert "Error ratio, 1 step ahead" in out
    assert "3 in closed loop (200 by default)" in err
    for name in ("report.html", "plan.mp4", "config.json", "weights.safetensors", "store/frames.npy"):
        assert (tmp_path / "demo" / name).stat().st_size > 0

    before = (tmp_path / "demo" / "weights.safetensors").read_bytes()
    (tmp_path / "demo" / "report.html").unlink()  # as if stopped in the last stage
    assert main([*demo, "--json"]) == 0
    assert json_line(capsys)["verdict"] == results["verdict"]
    assert (tmp_path / "demo" / "weights.safetensors").read_bytes() == before
    assert main(demo) == 0
    assert "holds a finished demo" in capsys.readouterr().err
    assert "seed 0" in error_of([*demo, "--seed", "1"], capsys)


@pytest.mark.slow
def test_images_from_folders_to_a_robot(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that the table breaks no line
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(20):
            pixels = rng.integers(low, low + 128, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{k}.jpg")
    store, run, robot = (str(tmp_path / name) for name in ("store", "images", "robot"))
    imported = ["import", str(tmp_path / "set"), "--out", store, "--image-size", str(IMAGE), "--workers", "1"]
    assert main([*imported, "--format", "images", "--json"]) == 0
    assert json_line(capsys)["frames"] == 40
    train = ["train", "--data", store, "--out", run]
    assert "; use --preset literal, which learns from masked contexts" in error_of(train, capsys)
    monkeypatch.setitem(lewm.families.presets.PRESETS, "literal", SMALL_ARTICLE)
    assert main([*train, "--preset", "literal"]) == 0  # the remedy is complete
    capsys.readouterr()
    assert main(["eval", run]) == 0
    shown = capsys.readouterr().out
    assert "(random encoder)" in shown
    assert "(largest class)" in shown
    assert "images, which have no actions to plan" in error_of(["plan", run], capsys)
    assert main(["info", run]) == 0
    capsys.readouterr()
    assert main(["train", "--data", str(folder / "store"), "--out", robot, "--train.encoder-from", run]) == 0
    assert load_config(Path(robot)).train.encoder_from == run


@pytest.mark.slow
def test_ablate_lists_runs_and_writes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out, page = tmp_path / "studies.py", tmp_path / "out.jsonl", tmp_path / "page.md"
    table.write_text(
        """
from lewm.research import Study, Table, TaskData

data = TaskData(task="two-room", episodes=6, episode_length=20, image_size=32)
costs = {"learnt": {}, "tokens": {"plan.cost": "tokens"}}
study = Study(variants=costs, tasks=("rooms",), seeds=(0,), curve="step")
TABLE = Table(tasks={"rooms": data}, studies={"costs": study})
""".replace("32", str(IMAGE)),
        encoding="utf-8",
    )
    ablate = ["ablate", str(table), "--out", str(out), "--work", str(tmp_path / "work")]
    assert "study=cost: must be one of costs; did you mean costs?" in error_of([*ablate, "--study", "cost"], capsys)
    assert "no such file" in error_of(["ablate", "nothing.py", "--out", str(out)], capsys)
    assert main([*ablate, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "missing costs / learnt / rooms / seed 0",
        "missing costs / tokens / rooms / seed 0",
        f"{out}: 0 of 2 jobs done",
    ]
    assert main([*ablate, "--variants", "tokens", "--json"]) == 0
    assert json_line(capsys) == {"out": str(out), "failed": [], "jobs": 1, "done": 1}
    assert main([*ablate, "--list", "--json"]) == 0
    assert [job["done"] for job in json_line(capsys)["list"]] == [False, True]
    page.write_text("<!-- study costs -->\n<!-- /study costs -->\n", encoding="utf-8")
    assert main([*ablate, "--tables", str(page), "--figures", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(page), str(tmp_path / "costs.png"), f"{out}: 1 of 2 jobs done"]
    assert "| tokens | 1 |" in page.read_text(encoding="utf-8")

    def fail(*_: Any) -> None:
        raise ValueError("data.frame_skip=99: too long")

    monkeypatch.setattr("lewm.research.measure._evaluated", fail)
    assert main([*ablate, "--json"]) == 1  # what failed is told, and the rest was done
    assert json_line(capsys)["failed"] == ["costs / learnt / rooms / seed 0: data.frame_skip=99: too long"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lewm {lewm.__version__}\n"


@pytest.mark.slow
def test_distill_makes_what_plans_may_start_from(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    without = error_of(["plan", str(run), "--planner", "proposal"], capsys)
    assert "plan.planner=proposal: the run has no proposal; make one by `lewm distill RUN`" in without
    assert main(["distill", str(run), "--steps", "2"]) == 0
    assert "Error on held-out episodes" in (told := capsys.readouterr().out)
    assert told.splitlines()[-1] == str(run / PROPOSAL)
    assert main(["distill", str(run), "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    for options in (["--planner", "proposal"], ["--plan.proposals", "2"]):
        assert main(["plan", str(run), *options, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["episodes"] == 3
    assert "is a setting of cem and mppi" in error_of(
        ["plan", str(run), "--planner", "proposal", "--plan.proposals", "2"], capsys
    )
    assert "steps=0: must be at least 1" in error_of(["distill", str(run), "--steps", "0"], capsys)


if __name__ == "__main__":
    GOLDEN.write_text(surface(), encoding="utf-8")
