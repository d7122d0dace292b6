"""Do the jobs of a table that are missing: here, in processes, or on a Ray cluster."""

import multiprocessing
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from lewm.device import gpus
from lewm.files import check_file, check_folder
from lewm.processes import start_worker
from lewm.research.measure import CLAIMS, Work, do
from lewm.research.results import Line, append, by_label, made_for, read
from lewm.research.table import Job, Table

RETRY_SECONDS = 1.0  # between looks at whether another command has finished


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    measured: int
    """Jobs that were done now."""
    failed: tuple[str, ...]
    """Jobs that could not be done, and why; they are tried again by the next command."""


def run_jobs(
    table: Table,
    jobs: Sequence[Job],
    *,
    out: Path,
    work: Path,
    workers: int | None = None,
    ray: str | None = None,
    keep: bool = False,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Done:
    """Do those of some jobs that a file of results lacks, and append a line for each.

    Several commands may share the file and the folder: a training is claimed by one of them, and what another does
    is waited for at the end. A claim ends with its process. Jobs with the same settings under several names are
    done once.

    Args:
        table: Where the jobs come from; the run folder of a training stays until all of its jobs are done.
        jobs: What to do.
        out: JSONL file of results.
        work: Folder of stores and unfinished runs.
        workers: Processes, each on one thread, or on a GPU of its own; None takes one a GPU where there are several,
            and else does one job after another in this process.
        ray: Address of a Ray cluster to run on instead.
        keep: Keep run folders.
        device: auto, cpu, cuda or mps.
        progress: Show progress of jobs that run in this process.
        tell: Gets a line of text for each job.

    Raises:
        ValueError: If the number of workers makes no sense, or the file or the folder cannot be written.
        RuntimeError: If a worker died, or there is no such cluster.
        OSError: If results cannot be written.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"jobs={workers}: must be at least 1; leave it out for one after another")
    check_file(out, "out")
    check_folder(work, "work")
    (work / CLAIMS).mkdir(parents=True, exist_ok=True)
    folder = work.resolve()  # a cluster's processes have other working folders
    ours = Work(folder=folder, out=None if ray else out, keep=keep, device=device, workers=1, progress=False)
    if ray is not None:
        from lewm.research.ray_jobs import on_ray

        place = on_ray(ray)
    elif (count := workers or (1 if device == "cpu" else len(gpus()))) > 1:
        place = _pool(count)
    else:
        place, ours = _here(), replace(ours, workers=None, progress=progress)

    waiting = deque(_grouped(jobs))
    running: dict[Future[list[Line]], tuple[Sequence[Job], Sequence[Job], FileLock]] = {}
    measured, failed = 0, []
    needed: dict[str, set[str]] = {}  # keys of all that a training serves, chosen now or not
    for job in table.jobs():
        needed.setdefault(job.training, set()).add(job.key)
    # An error leaves none claimed: a command given again in the same process would wait for itself.
    with ExitStack() as claims, place as (executor, slots):
        while waiting or running:
            for _ in range(len(waiting)):
                if len(running) >= slots:
                    break
                group = waiting.popleft()
                if (claim := _claim(work, group)) is None:
                    waiting.append(group)
                    continue
                claims.callback(claim.release)
                missing, measured_keys = _still_missing(group, out, tell)
                if missing:
                    tell(f"{_name(missing[0])}: begins{_and_more(missing)}")
                    wanted = needed[group[0].training] - measured_keys - {job.key for job in missing}
                    begun = executor.submit(do, missing, replace(ours, keep=keep or bool(wanted)))
                    running[begun] = group, missing, claim
                else:
                    claim.release()
            if waiting and not running:  # all that is left is claimed by other commands
                time.sleep(RETRY_SECONDS)
            for future in wait(list(running), RETRY_SECONDS if waiting else None, FIRST_COMPLETED).done:
                group, missing, claim = running.pop(future)
                lines, error = [], None
                try:
                    lines = future.result()
                except BrokenProcessPool as broken:
                    raise RuntimeError("jobs: a worker died; run again to go on, with fewer --jobs") from broken
                except OSError:  # the disk is full, or the like: so it is for the other jobs
                    raise
                except Exception as failure:  # a job that fails does not stop the others
                    error = failure
                for line in lines:
                    if ours.out is None:
                        append(out, line)
                    tell(_told(line))
                left, _ = _still_missing(group, out, tell)  # others of the group get their lines from these
                measured += len(missing) - len(left)
                if error is not None:
                    failed.append(f"{_name(left[0])}{_and_more(left)}: {_reason(error)}")
                    tell(f"failed: {failed[-1]}")
                claim.release()
    return Done(measured, tuple(failed))


def _grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs by training, in the order of the first of each."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.training, []).append(job)
    return list(groups.values())


def _claim(work: Path, group: Sequence[Job]) -> FileLock | None:
    """Take the claim on a training, unless another command has it. The claim of a process that is gone is free."""
    lock = FileLock(work / CLAIMS / group[0].training, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _still_missing(group: Sequence[Job], out: Path, tell: Callable[[str], None]) -> tuple[list[Job], set[str]]:
    """Return the jobs of a claimed group that have no line, and the keys of all lines.

    What was measured with the same settings under another name is written here.
    """
    lines = by_label(read(out))
    by_key = {line["key"]: line for line in lines.values()}
    missing: list[Job] = []
    for job in group:
        if job.label in lines:
            continue
        if job.key in by_key:
            append(out, made_for(job, by_key[job.key]))
            tell(f"{_name(job)}: has the settings of another job, and its results")
        elif all(job.key != other.key for other in missing):
            missing.append(job)
    return missing, set(by_key)


@contextmanager
def _here() -> Iterator[tuple[Executor, int]]:
    yield _Here(), 1


class _Here(Executor):
    """Do every call at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # handed on, as from another process
            future.set_exception(error)
        return future


@contextmanager
def _pool(workers: int) -> Iterator[tuple[Executor, int]]:
    """Yield processes of one thread each, which share the GPUs; they end with this one, after a checkpoint."""
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    names, queue = gpus(), context.SimpleQueue()
    for number in range(workers):
        queue.put(names[number % len(names)] if names else None)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(queue,))
    try:
        yield pool, workers
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start(queue: Any) -> None:
    start_worker()
    if (name := queue.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = name  # read when the first job touches a GPU
    torch.set_num_threads(1)


def _name(job: Job) -> str:
    return f"{job.study} / {job.variant} / {job.task} / seed {job.seed}"


def _and_more(group: Sequence[Job]) -> str:
    return f" and {len(group) - 1} more with its training" if len(group) > 1 else ""


def _reason(error: Exception) -> str:
    """Return a user's error as it is, and any other with where it comes from."""
    if isinstance(error, ValueError):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()


def _told(line: Line) -> str:
    name = f"{line['study']} / {line['variant']} / {line['task']} / seed {line['seed']}"
    if "error" in line:
        return f"{name}: {line['error']}"
    planning, seconds = line["eval"]["planning"], line["train"]["seconds"]["wall"]
    success = (
        "" if planning is None else f"success {planning['success_rate']:.0%} ({planning.get('protocol', 'standard')}), "
    )
    return f"{name}: {success}trained in {seconds:.0f} s"
