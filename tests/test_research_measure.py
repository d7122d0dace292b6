"""One training and its evaluations, for real on a small task: shared, resumed, diverged, and of another family."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import lewm.research.measure as measure
import lewm.train.loop
from ablation_fixture import TABLE, line_for, table
from lewm.research import Job, ModelOf
from lewm.research.measure import Work, do
from lewm.research.results import Line, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work folder that keeps the collected episodes from test to test."""
    return tmp_path_factory.mktemp("work")


def work(folder: Path, *, keep: bool = False, out: Path | None = None) -> Work:
    return Work(folder=folder, out=out, keep=keep, device="cpu", workers=1, progress=False)


def sharing() -> list[Job]:
    """Return the two jobs with seed 0 that differ in planning alone."""
    return [job for job in TABLE.jobs()[:3] if job.variant != "slow"]


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> list[int]:
    """Let a training step fail, as often as it is reached; returns a list that grows with every step."""
    step, calls = lewm.train.loop.train_step, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise error
        return step(*args, **kwargs)

    monkeypatch.setattr(lewm.train.loop, "train_step", counted)
    return calls


@pytest.mark.slow
def test_jobs_share_one_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = stop_at(monkeypatch, 99, AssertionError())
    out, jobs = tmp_path / "out.jsonl", sharing()
    lines = do(jobs, work(folder, out=out))
    assert len(steps) == 6
    assert read(out) == lines
    assert [line["variant"] for line in lines] == ["ours", "pooled"]
    ours, pooled = lines
    assert ours.keys() == line_for(jobs[0]).keys() | {"machine"}
    assert ours["train"] == pooled["train"]
    assert ours["eval"]["planning"]["cost"] == "tokens"
    assert pooled["eval"]["planning"]["cost"] == "pooled"
    assert ours["eval"]["planning"]["episodes"] == 3
    assert ours["eval"]["spectrum"] == pooled["eval"]["spectrum"]
    training = ours["train"]
    assert (training["steps"], training["nonfinite_steps"], training["resumed"]) == (6, 0, False)
    assert training["curve"]["step"] == [1, 2, 3, 4, 5, 6]
    assert 0 < training["step_ms"] < 1000 * training["seconds"]["wall"] / 6
    assert training["seconds"]["processor"] > 0
    assert ours["parameters"] > 1000
    assert ours["machine"]["device"] == "cpu"
    assert str(folder) not in out.read_text(encoding="utf-8")  # results are for others to read
    assert list((folder / "runs").iterdir()) == []


@pytest.mark.slow
def test_killed_training_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = sharing()[:1]
    with monkeypatch.context() as patch:
        stop_at(patch, 6, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            do(jobs, work(folder))
    steps = stop_at(monkeypatch, 99, AssertionError())
    (line,) = do(jobs, work(folder, keep=True))
    assert len(steps) == 2  # from the checkpoint at step 4
    assert (line["train"]["steps"], line["train"]["resumed"], line["train"]["step_ms"]) == (6, True, None)
    (again,) = do(jobs, work(folder, keep=True))  # the run was kept: nothing is trained anew
    assert len(steps) == 2
    assert again["train"] == line["train"]
    assert again["eval"]["prediction"] == line["eval"]["prediction"]
    do(jobs, work(folder))
    assert list((folder / "runs").iterdir()) == []


def test_divergence_is_a_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = lewm.train.loop.train_step

    def diverge(*args: Any, **kwargs: Any) -> Any:
        scalars, told = step(*args, **kwargs)
        return scalars | {"loss": torch.tensor(float("nan"))}, told

    monkeypatch.setattr(lewm.train.loop, "train_step", diverge)
    lines = do(sharing(), work(folder))
    assert [line["variant"] for line in lines] == ["ours", "pooled"]
    for line in lines:
        assert line["error"].startswith("loss=nan: not finite at step 1 with learning rate ")
        assert str(folder) not in line["error"]
        assert "eval" not in line
        assert line["train"]["nonfinite_steps"] == 1
        json.dumps(line, allow_nan=False)
    assert list((folder / "runs").iterdir()) == []


def test_sigterm_leaves_the_run_to_the_next_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 3, SystemExit("stopped at step 3; go on with `lewm train --resume somewhere`"))
    with pytest.raises(SystemExit, match=r"^stopped; run the command again to go on$"):
        do(sharing(), work(folder))
    assert [path.name for path in (folder / "runs").iterdir()] == [sharing()[0].training]


@pytest.mark.slow
def test_models_of_other_families_are_measured_alike(folder: Path) -> None:
    variants = {"article": ModelOf("literal"), "latents": ModelOf("tdmpc2"), "cloning": ModelOf("gcbc")}
    jobs = table(variants=variants, seeds=(0,), settings={"plan.execute": 2}).jobs()[:3]
    article, latents, cloning = (do([job], work(folder))[0] for job in jobs)
    for job, line in zip(jobs, (article, latents, cloning), strict=True):
        assert line.keys() == line_for(job).keys() | {"machine"}
        assert (line["family"], line["changes"]) == (job.config.model.family, {})
        assert line["train"]["steps"] == 6
        assert line["parameters"] > 1000
        assert line["eval"]["planning"]["episodes"] == 3
    for line in (article, latents):
        assert line["eval"]["planning"]["execute"] == 2
        assert len(line["eval"]["prediction"]["error_ratio"]) == 2
    assert [cloning["eval"][part] for part in ("prediction", "spectrum", "cost")] == [None, None, None]
    assert cloning["eval"]["planning"]["planner"] is None
    json.dumps(cloning, allow_nan=False)


@pytest.mark.slow
def test_lines_are_written_one_by_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated, jobs, out = measure._evaluated, sharing(), tmp_path / "out.jsonl"

    def fail_at_second(job: Job, *rest: Any) -> Line:
        if job is jobs[1]:
            raise ValueError("eval.budget=6: too short")
        return evaluated(job, *rest)

    monkeypatch.setattr(measure, "_evaluated", fail_at_second)
    with pytest.raises(ValueError, match="too short"):
        do(jobs, work(folder, out=out))
    variants: Sequence[str] = [line["variant"] for line in read(out)]
    assert variants == ["ours"]
    assert (folder / "runs" / jobs[0].training / "weights.safetensors").is_file()
