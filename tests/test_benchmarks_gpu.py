"""The full-size benchmark in small: stopped and gone on with, its state in parts, and what it refuses."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"
sys.path.insert(0, str(GPU))

import full  # noqa: E402  # pyright: ignore[reportMissingImports]
import parts  # noqa: E402  # pyright: ignore[reportMissingImports]

SMALL_PARTS = 100_000


def options(folder: Path, *more: object) -> list[str]:
    words = ("--state", folder / "state", "--work", folder / "work", "--device", "cpu", "--tiny", "--no-compile")
    return [str(word) for word in (*words, "--tasks", "two-room", *more)]


def call(capsys: pytest.CaptureFixture[str], folder: Path, *more: object) -> dict[str, Any]:
    """Make a call and return its last line."""
    assert full.main(options(folder, *more)) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_stopped_and_gone_on_with_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", SMALL_PARTS)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    result = call(capsys, whole, "--out", tmp_path / "full.json")
    assert result["finished"]
    assert result["stopped"] is None
    assert json.loads((tmp_path / "full.json").read_text()) == result
    speed, task = result["speed"], result["tasks"]["two-room"]
    assert speed["compiled"] is None
    rate = 1e3 * speed["eager"]["flops_per_step"] / speed["eager"]["step_ms_mean"]
    assert speed["eager"]["transitions_per_s"] == pytest.approx(8e3 / speed["eager"]["step_ms_mean"], rel=0.01)
    assert speed["eager"]["share_of_matmul"] == pytest.approx(rate / speed["matmul_bf16_flops"], abs=1e-4)
    steps = speed["eager"]["synchronised_step_ms"]
    assert 0 < steps["p50"] <= steps["p90"] <= steps["p99"]
    assert task["steps"] == 20
    assert task["eval"]["planning"]["episodes"] == 4
    assert {"success_rate", "random_success_rate"} <= task["eval"]["planning"].keys()
    assert len(task["eval"]["prediction"]["error_ratio"]) == 2

    # told to end in the middle of training, as the time limit does it
    real, taken = full.train_step, []
    from lewm.train import loop

    def stop_at_7(*arguments: Any, **settings: Any) -> Any:
        taken.append(0)
        if len(taken) == 7:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_at_7)
        stopped = call(capsys, halves, "--out", tmp_path / "none.json")
    assert not stopped["finished"]
    assert "stopped at step 7" in stopped["stopped"]
    assert stopped["tasks"]["two-room"]["steps"] == 7
    assert not (tmp_path / "none.json").exists()
    sizes = [path.stat().st_size for path in (halves / "state").glob("*.part")]
    assert len(sizes) == 6  # three of the checkpoint, its metrics, its settings, what it says of the robot
    assert max(sizes) == SMALL_PARTS

    # another machine: nothing but the state is there
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(halves / "state", elsewhere / "state")
    shutil.rmtree(halves)
    result = call(capsys, elsewhere)
    assert result["finished"]
    run = Path("work", "runs", "two-room")
    assert (elsewhere / run / "metrics.jsonl").read_text() == (whole / run / "metrics.jsonl").read_text()
    weights = load_file(elsewhere / run / "weights.safetensors")
    for name, value in load_file(whole / run / "weights.safetensors").items():
        assert torch.equal(weights[name], value), name

    # a finished state is not begun again, nor with other settings
    before = result["tasks"]
    monkeypatch.setattr(full, "train", None)
    assert call(capsys, elsewhere)["tasks"] == before
    assert full.main(options(elsewhere, "--steps", 21)) == 1
    assert capsys.readouterr().err == (
        f"error: steps=21: {elsewhere / 'state'} was begun with 20; use that, or another --state\n"
    )


@pytest.mark.slow
def test_a_call_ends_when_its_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full, "SAVE_SECONDS", 0.2)
    begin = time.monotonic()
    result = call(capsys, tmp_path, "--minutes", 0.1, "--steps", 1_000_000)
    assert not result["finished"]
    assert re.search(r"stopped at step \d+", result["stopped"])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert time.monotonic() - begin < 60  # on a machine that may be very busy


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import full
full.SAVE_SECONDS = 0.3
full.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_killed_while_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = options(tmp_path, "--steps", 1_000_000)
    index = tmp_path / "state" / parts.INDEX

    def saved() -> bool:
        return index.is_file() and "two-room/state/checkpoint.safetensors" in index.read_text()

    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(GPU), *arguments], stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        end = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end and not saved():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert saved()
    assert parts.load_parts(tmp_path / "state", tmp_path / "out") is not None
    result = call(capsys, tmp_path, "--minutes", 0.2, "--steps", 1_000_000)
    assert result["tasks"]["two-room"]["steps"] >= 5


def write(folder: Path, content: bytes, step: int) -> None:
    """Save a state of two files."""
    source = folder.with_name("source")
    source.mkdir(exist_ok=True)
    (source / "a").write_bytes(content)
    (source / "b").write_bytes(b"the same")
    parts.save_parts(folder, {"run/a": source / "a", "b": source / "b"}, {"step": step})


OLD, NEW = bytes(range(250)), bytes(range(100)) + b"else" * 30


@pytest.fixture
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 100)


@pytest.mark.usefixtures("tiny_parts")
def test_parts_bring_files_back(tmp_path: Path) -> None:
    assert parts.load_parts(tmp_path / "state", tmp_path / "out") is None
    for content, step in ((OLD, 1), (NEW, 2)):
        write(tmp_path / "state", content, step)
        assert parts.load_parts(tmp_path / "state", tmp_path / "out") == {"step": step}
        assert (tmp_path / "out" / "run" / "a").read_bytes() == content
        assert (tmp_path / "out" / "b").read_bytes() == b"the same"
    assert len(list((tmp_path / "state").iterdir())) == 5  # three parts, one more, the index: nothing of the old state


@pytest.mark.usefixtures("tiny_parts")
def test_a_half_written_state_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before any of the renames leaves the old state whole."""
    replace, results = os.replace, []
    for at in range(4):
        folder = tmp_path / str(at) / "state"
        folder.parent.mkdir()
        write(folder, OLD, 1)
        calls: list[int] = []

        def killed(a: Path, b: Path, calls: list[int] = calls, at: int = at) -> None:
            calls.append(0)
            if len(calls) > at:
                raise KeyboardInterrupt
            replace(a, b)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with contextlib.suppress(KeyboardInterrupt):
                write(folder, NEW, 2)
        progress = parts.load_parts(folder, folder.parent / "out")
        assert progress is not None
        results.append(progress["step"])
        assert (folder.parent / "out" / "run" / "a").read_bytes() == (OLD if progress["step"] == 1 else NEW)
    assert results == [1, 1, 1, 2]  # two new parts and the index


@pytest.mark.usefixtures("tiny_parts")
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("flip", r"\.part of run/a is damaged; copy the folder again or give an empty one$"),
        ("cut", r"\.part of run/a is damaged; copy"),
        ("remove", r"\.part of run/a is missing; copy"),
        ("index", r"index\.json is damaged \(JSONDecodeError: .*\); copy"),
        ("digest", r"index\.json is damaged \(ValueError: sha256='\.\./x'\); copy"),
        ("escape", r"index\.json names a file outside of it \(\.\./run/a\); copy"),
        ("version", r"schema_version=2: must be 1; give an empty folder$"),
    ],
)
def test_a_damaged_state_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str, message: str
) -> None:
    folder = tmp_path / "state"
    write(folder, OLD, 1)
    index = json.loads((folder / parts.INDEX).read_text())
    part = folder / f"{index['files']['run/a'][1]['sha256']}.part"
    if harm == "flip":
        part.write_bytes(part.read_bytes()[:-1] + b"\x00")
    elif harm == "cut":
        part.write_bytes(part.read_bytes()[:-1])
    elif harm == "remove":
        part.unlink()
    elif harm == "digest":
        index["files"]["run/a"][1]["sha256"] = "../x"
    elif harm == "escape":
        index["files"] = {"../run/a": index["files"]["run/a"]}
    elif harm == "version":
        index["schema_version"] = 2
    text = json.dumps(index)
    (folder / parts.INDEX).write_text(text[:-5] if harm == "index" else text)
    with pytest.raises(ValueError, match=rf"^state={folder}: .*{message}" if harm != "version" else message) as error:
        parts.load_parts(folder, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "run" / "a").exists()
    assert full.main(options(tmp_path)) == 1
    assert capsys.readouterr().err == f"error: {error.value}\n"


def test_what_is_trained_is_the_large_preset() -> None:
    arguments = full.parse(["--state", "state"])
    assert arguments.minutes == 9
    for task in full.TASKS:
        config = full.make_config(task, arguments, compile=True)
        assert (config.preset, config.model.image_size, config.model.width) == ("large", 128, 384)
        assert (config.eval.episodes, config.eval.goal_offset, config.eval.budget) == (200, 25, 50)
        assert config.model.family == "compact"  # the speed is measured on whole frames
        assert config.model.clip_frames == 2  # and on pairs


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, tmp_path, "--device", "cuda", "--steps", 50)
    assert result["finished"]
    assert result["speed"]["eager"]["peak_memory_bytes"] > 0
    assert result["tasks"]["two-room"]["steps"] == 50
