"""Which jobs a command does: what is missing, in order, shared with other commands; then real commands, one killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import lewm.research.jobs as run
from ablation_fixture import TABLE, line_for, table
from lewm.cli import main
from lewm.research import Job, Table
from lewm.research.jobs import Done, run_jobs
from lewm.research.measure import Work
from lewm.research.results import Line, append, by_label, read

FIXTURE = Path(__file__).with_name("ablation_fixture.py")


class Recorder:
    """Stands in for `do`: writes made-up lines at once, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], bool]] = []
        self.errors: dict[str, Exception] = {}

    def __call__(self, jobs: Sequence[Job], work: Work) -> list[Line]:
        self.calls.append(([f"{job.study}/{job.variant}/{job.seed}" for job in jobs], work.keep))
        lines = []
        for job in jobs:
            if job.variant in self.errors:
                raise self.errors[job.variant]
            lines.append(line_for(job))
            assert work.out is not None
            append(work.out, lines[-1])
        return lines


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(run, "do", found)
    monkeypatch.setattr(run, "RETRY_SECONDS", 0.01)
    return found


def go(folder: Path, studies: Table = TABLE, jobs: Sequence[Job] | None = None, **options: Any) -> Done:
    chosen = studies.jobs() if jobs is None else jobs
    return run_jobs(studies, chosen, out=folder / "out.jsonl", work=folder / "work", **options)


def test_jobs_go_by_seed_and_training_and_are_done_once(tmp_path: Path, recorder: Recorder) -> None:
    told: list[str] = []
    assert go(tmp_path, tell=told.append) == Done(6, ())
    assert [jobs for jobs, _ in recorder.calls] == [
        ["levers/ours/0", "levers/pooled/0"],
        ["levers/slow/0"],
        ["levers/ours/1", "levers/pooled/1"],
        ["levers/slow/1"],
    ]
    assert not any(keep for _, keep in recorder.calls)
    labels = by_label(read(tmp_path / "out.jsonl"))
    assert sorted(labels) == sorted(job.label for job in TABLE.jobs())  # `again`'s job has the line of `ours`
    assert "levers / ours / rooms / seed 0: begins and 1 more with its training" in told
    assert "again / the same / rooms / seed 0: has the settings of another job, and its results" in told
    assert go(tmp_path) == Done(0, ())
    assert len(recorder.calls) == 4


def test_changed_settings_run_again(tmp_path: Path, recorder: Recorder) -> None:
    go(tmp_path)
    recorder.calls.clear()
    variants = {"ours": {}, "slow": {"model": {"slowness": 3.0}}, "pooled, renamed": {"plan.cost": "pooled"}}
    assert go(tmp_path, table(variants=variants)) == Done(2, ())
    assert [jobs for jobs, _ in recorder.calls] == [["levers/slow/0"], ["levers/slow/1"]]


def test_run_is_kept_for_jobs_that_were_not_chosen(tmp_path: Path, recorder: Recorder) -> None:
    first = [job for job in TABLE.jobs() if job.variant == "ours"]
    assert go(tmp_path, jobs=first) == Done(2, ())
    assert [keep for _, keep in recorder.calls] == [True, True]
    recorder.calls.clear()
    go(tmp_path)
    assert recorder.calls[0][0] == ["levers/pooled/0"]
    assert not any(keep for _, keep in recorder.calls)
    recorder.calls.clear()
    go(tmp_path, table(settings={"eval.episodes": 4}), keep=True)
    assert all(keep for _, keep in recorder.calls)


def test_failed_job_does_not_stop_the_others(tmp_path: Path, recorder: Recorder) -> None:
    recorder.errors["slow"] = ValueError("data.frame_skip=99: is longer than every episode; use a smaller one")
    done = go(tmp_path)
    assert done.measured == 4
    assert done.failed[0].startswith("levers / slow / rooms / seed 0: data.frame_skip=99")
    assert len(done.failed) == 2
    recorder.errors["slow"] = TypeError("a mistake")
    assert "Traceback" in go(tmp_path).failed[0]
    recorder.errors["slow"] = OSError(28, "disk full")
    with pytest.raises(OSError, match="disk full") as full:
        go(tmp_path)
    recorder.errors.clear()
    assert full.tb is not None  # the error is still there, with all that was at work, and holds no claim
    assert go(tmp_path) == Done(2, ())


def test_claimed_training_is_left_to_who_claimed_it(tmp_path: Path, recorder: Recorder) -> None:
    """Another command does the first training; its results are waited for and not measured again."""
    first, out = TABLE.jobs()[0], tmp_path / "out.jsonl"
    (tmp_path / "work" / "claims").mkdir(parents=True)
    other = FileLock(tmp_path / "work" / "claims" / first.training)
    other.acquire()

    def finish(text: str) -> None:
        if text.startswith("levers / slow / rooms / seed 1: success"):  # the last that is not claimed
            append(out, line_for(first, number=7))
            other.release()

    assert go(tmp_path, tell=finish).failed == ()
    assert recorder.calls[-1][0] == ["levers/pooled/0"]
    assert ["levers/ours/1", "levers/pooled/1"] in [jobs for jobs, _ in recorder.calls]
    assert [line.get("number") for line in read(out) if line["key"] == first.key] == [7, 7]


def test_bad_number_of_workers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs=0: must be at least 1"):
        go(tmp_path, workers=0)


def test_interrupted_command_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "do", interrupt)
    out = tmp_path / "out.jsonl"
    assert main(["ablate", str(FIXTURE), "--out", str(out), "--work", str(tmp_path)]) == 130
    *_, last = capsys.readouterr().err.splitlines()
    assert last == f"stopped; {out} keeps the results so far, and the same command goes on"


@pytest.mark.parametrize("options", [[], ["--list"]])
def test_out_that_cannot_be_gone_on_from_is_refused_first(
    tmp_path: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    out = tmp_path / "out.jsonl"
    command = ["ablate", str(FIXTURE), "--work", str(tmp_path / "work"), *options, "--out"]
    assert main([*command, str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"error: out={tmp_path}: is a folder; give a file, such as {tmp_path}/results.jsonl\n"
    )
    out.write_text("# notes\n", encoding="utf-8")
    assert main([*command, str(out)]) == 1
    assert f"error: out={out}: line 1 is not one of results" in capsys.readouterr().err
    assert not recorder.calls
    assert out.read_text(encoding="utf-8") == "# notes\n"


def command(folder: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "lewm", "ablate", str(FIXTURE), "--out", str(folder / "out.jsonl")]
    words += ["--work", str(folder / "work"), *options]
    path = os.pathsep.join(filter(None, (str(FIXTURE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}  # the table imports what lies beside it
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


@pytest.mark.slow
def test_killed_command_and_two_at_once(tmp_path: Path) -> None:
    """Kill a command that has a claim and has begun a training; two at once then do all that is left, each job once."""
    killed, runs = command(tmp_path), tmp_path / "work" / "runs"
    end = time.monotonic() + 300
    while not list(runs.glob("*/config.json")):
        assert time.monotonic() < end, killed.communicate(timeout=10)
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert read(tmp_path / "out.jsonl") == []
    both = [command(tmp_path, "--jobs", "1"), command(tmp_path, "--jobs", "2")]
    said = [process.communicate(timeout=600)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(text.count(": begins") for text in said) == 4
    lines = read(tmp_path / "out.jsonl")
    assert len(lines) == len(TABLE.jobs())
    assert {line["key"] for line in lines} == {job.key for job in TABLE.jobs()}
    assert all(line["train"]["steps"] == 6 for line in lines)
    assert [line["train"]["resumed"] for line in lines if line["seed"] == 1] == [False] * 3
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize(("option", "path"), [("--out", "file/out.jsonl"), ("--work", "file"), ("--work", "file/work")])
def test_what_cannot_be_written_is_refused_first(
    tmp_path: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str], option: str, path: str
) -> None:
    (tmp_path / "file").touch()
    places = {"--out": tmp_path / "out.jsonl", "--work": tmp_path / "work", option: tmp_path / path}
    assert main(["ablate", str(FIXTURE), *(str(part) for pair in places.items() for part in pair)]) == 1
    told = f"error: {option[2:]}={tmp_path / path}: {tmp_path}/file is no folder; give another path\n"
    assert capsys.readouterr().err == told
    assert not recorder.calls
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
