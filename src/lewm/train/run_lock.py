"""A run folder while it is trained: who writes it, and what a run that diverged leaves."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lewm.data.store_files import remove_empty
from lewm.distributed import rank
from lewm.files import check_folder
from lewm.run_spec import SPEC
from lewm.train.checkpoint import CONFIG, DIVERGED, LOCK, METRICS, STATE, WEIGHTS


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other processes from training the same run; the lock ends with the process, however that ends.

    A folder that was made for it alone does not stay.
    """
    if rank() != 0:
        yield
        return
    check_folder(run, "run")
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"run={run}: another process is training it; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()
        if made and {path.name for path in run.iterdir()} <= {LOCK}:
            (run / LOCK).unlink(missing_ok=True)
            remove_empty(made)


def set_aside(run: Path) -> None:
    """Move what a diverged run left into a folder of its own, so that the same command can be given again."""
    shutil.rmtree(run / DIVERGED, ignore_errors=True)
    for name in (CONFIG, SPEC, METRICS, WEIGHTS, STATE, "tensorboard"):
        if (run / name).exists():
            (run / DIVERGED / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(run / name, run / DIVERGED / name)
