"""One training and all evaluations that share it."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock

from lewm.device import resolve_device
from lewm.envs import collect
from lewm.evaluate.evaluation import evaluate_model, machine, open_run
from lewm.families.family import make_model
from lewm.files import write_text
from lewm.research.results import Line, append
from lewm.research.summary import summarise
from lewm.research.table import Job
from lewm.train import NonFiniteLossError, resume, train
from lewm.train.checkpoint import CONFIG, DIVERGED, STATE

RUNS, STORES, CLAIMS = "runs", "stores", "claims"
_TRAINED = "training.json"  # written last: a run folder without it is unfinished


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Where and how jobs are done."""

    folder: Path
    """Folder of stores, runs and claims."""
    out: Path | None
    """File that every line is appended to as soon as it is there; None leaves that to the caller."""
    keep: bool
    """Keep the run folder afterwards."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    workers: int | None
    """Processes that collect episodes; None for one a core."""
    progress: bool


def do(jobs: Sequence[Job], work: Work) -> list[Line]:
    """Do jobs that share a training, and return their lines.

    A training that was killed goes on from its last checkpoint. One that diverges is a result: its lines have `error`.

    Raises:
        ValueError: If the data and the settings do not fit.
        SystemExit: If SIGTERM came; the run folder is kept.
    """
    lines = []
    try:
        for line in _measure(jobs, work):
            if work.out is not None:
                append(work.out, line)
            lines.append(line)
    except SystemExit:
        raise SystemExit("stopped; run the command again to go on") from None
    if not work.keep:
        shutil.rmtree(work.folder / RUNS / jobs[0].training, ignore_errors=True)
    return lines


def _measure(jobs: Sequence[Job], work: Work) -> Iterator[Line]:
    first = jobs[0]
    data = _collected(first, work)
    run = work.folder / RUNS / first.training
    trained = _trained(first, data, run, work)
    for job in jobs:
        yield _head(job) | trained | ({} if "error" in trained else _evaluated(job, data, run, work))


def _head(job: Job) -> Line:
    return {
        "study": job.study,
        "variant": job.variant,
        "task": job.task,
        "seed": job.seed,
        "changes": dict(job.changes),
        "family": job.config.model.family,
        "key": job.key,
        "training": job.training,
    }


def _collected(job: Job, work: Work) -> Path:
    store = work.folder / STORES / job.store
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store.with_name(f".{store.name}.lock")):
        collect(
            job.data.task,
            store,
            episodes=job.data.episodes,
            image_size=job.config.model.image_size,
            episode_length=job.data.episode_length,
            seed=job.data.seed,
            workers=work.workers,
            progress=work.progress,
        )
    return store


def _trained(job: Job, data: Path, run: Path, work: Work) -> Line:
    """Train, or go on, unless it is done; returns what a line says of the training."""
    if (run / _TRAINED).is_file():
        return json.loads((run / _TRAINED).read_text(encoding="utf-8"))
    config, resumed = dataclasses.replace(job.training_config, device=work.device), (run / CONFIG).is_file()
    began, start, processor = time.time(), time.perf_counter(), time.process_time()
    error: dict[str, str] = {}
    try:
        if resumed:
            resume(run, progress=work.progress)
        else:
            train(config, data, run, progress=work.progress)
    except NonFiniteLossError as diverged:
        error = _diverged(diverged)
    seconds = {"wall": time.perf_counter() - start, "processor": time.process_time() - processor}
    summary = summarise(run / DIVERGED if error else run, diverged=bool(error))
    step_ms = None
    if not resumed and not error:  # the checkpoint of the last step comes before the planning cost is learnt
        step_ms = 1000 * ((run / STATE).stat().st_mtime - began) / config.train.steps
    line = {"train": {"seconds": seconds, "resumed": resumed, "step_ms": step_ms} | summary} | error
    line["machine"] = machine(resolve_device(config.device))
    write_text(run / _TRAINED, json.dumps(line, allow_nan=False))
    return line


def _evaluated(job: Job, data: Path, run: Path, work: Work) -> Line:
    with torch.device("meta"):  # shapes without numbers
        parameters = make_model(job.config).num_parameters
    of = open_run(run, data=data, device=work.device, config=job.config)
    results, _ = evaluate_model(of, progress=work.progress)
    return {"parameters": parameters, "eval": results}


def _diverged(error: NonFiniteLossError) -> dict[str, str]:
    return {"error": str(error).partition(";")[0]}  # the rest names files of this machine
