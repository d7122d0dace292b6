"""How commands end early: Ctrl-C, errors that a program reads, a store that was moved."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import lewm.families.presets
import lewm.train.loop
from lewm.cli import main
from lewm.config import PlanConfig
from lewm.train.checkpoint import load_config
from tiny import moving_dot, tiny

SMALL = dataclasses.replace(
    tiny(train__steps=6, train__cost_steps=2), plan=PlanConfig(horizon=2, candidates=4, elites=2, iterations=1)
)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a command that trains in milliseconds."""
    monkeypatch.setitem(lewm.families.presets.PRESETS, "tiny", SMALL)
    store = moving_dot(tmp_path / "store").path
    return ["train", "--data", str(store), "--out", str(tmp_path / "run")]


def ctrl_c_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    step, calls = lewm.train.loop.train_step, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return step(*args, **kwargs)

    monkeypatch.setattr(lewm.train.loop, "train_step", interrupted)


def error(argv: list[str], capsys: pytest.CaptureFixture[str], *, status: int = 1) -> str:
    """Run a command with --json that must fail, and return the error that it prints."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == status
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told.keys() == {"error"}
    assert len(told["error"]) <= 300
    return told["error"]


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_says_how_to_go_on(
    train: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        ctrl_c_in_step(patch, 3)
        if as_json:
            told = error(train, capsys, status=130)
        else:
            assert main(train) == 130
            told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"stopped at step 3; go on with `lewm train --resume {run}`"
    assert main(["train", "--resume", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 6


@pytest.mark.usefixtures("ctrl_c")
def test_resume_takes_a_store_from_its_new_place(
    train: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = tmp_path / "run", tmp_path / "new"
    with monkeypatch.context() as patch:
        ctrl_c_in_step(patch, 3)
        main(train)
    shutil.move(tmp_path / "store", new)
    assert "give its new place, --data DIR" in error(["train", "--resume", str(run)], capsys)
    for command in (["eval", str(run)], ["plan", str(run)], ["plan", str(run), "--goal", "state:x=0.1,y=0.2"]):
        assert "is not there; if it was moved, give its new place, --data DIR" in error(command, capsys)
    assert main(["train", "--resume", str(run), "--data", str(new)]) == 0
    assert f"{run} was moved from the store {tmp_path / 'store'} to {new}" in capsys.readouterr().err
    assert load_config(run).data.path == str(new)
    with_seed = ["train", "--resume", str(run), "--seed", "4"]
    assert "leave all options but --data and --json out" in error(with_seed, capsys)


def test_errors_are_json_where_a_program_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error(["info", str(tmp_path / "none")], capsys).startswith(f"run={tmp_path / 'none'}: no such folder")
    assert "--colour" in error(["train", "--colour", "red"], capsys)
    assert "--episodes" in error(["collect", "two-room", "--out", str(tmp_path / "store")], capsys)
    assert error(["colect"], capsys).endswith("did you mean lewm collect?")
    assert "must be one of two-room" in error(["collect", "x", "--episodes", "1", "--out", str(tmp_path / "s")], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ctrl_c")
def test_two_trainings_of_one_run(
    train: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lock that another process holds; that it is held while a run is trained is tested with the training."""
    from filelock import FileLock

    with monkeypatch.context() as patch:
        ctrl_c_in_step(patch, 3)
        main(train)
    run = tmp_path / "run"
    before = (run / "config.json").read_text(encoding="utf-8")
    copy = shutil.copytree(tmp_path / "store", tmp_path / "copy")
    for more in ([], ["--data", str(copy)]):
        with FileLock(run / ".lock"):
            told = error(["train", "--resume", str(run), *more], capsys)
        assert told == f"run={run}: another process is training it; wait for it, or stop it"
    assert (run / "config.json").read_text(encoding="utf-8") == before
