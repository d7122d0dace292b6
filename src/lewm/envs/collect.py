"""Episodes of a task into a store, drawn by its behaviour policy in parallel processes."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lewm.data.store import Store, StoreMeta, StoreWriter
from lewm.envs.registry import make_task
from lewm.envs.task import Task

_EPISODES_PER_WORKER = 8  # fewer are collected before another process has started
_AHEAD_PER_WORKER = 4

_Episode = tuple[NDArray[np.uint8], NDArray, NDArray[np.float32], int]


def collect(
    task_name: str,
    out: str | Path,
    *,
    episodes: int,
    image_size: int = 64,
    episode_length: int = 100,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """Collect episodes of a task, going on after those that the store already has.

    Episode i depends on the seed and i alone, and episodes are stored in order: the store is the same for any number of
    workers, and for any number of interruptions. A script that asks for more than one worker must keep its own
    work under `if __name__ == "__main__":`, because the processes are started afresh.

    Args:
        task_name: One of `lewm.envs.TASKS`.
        out: Folder of the store.
        episodes: Episodes that the store has in the end.
        image_size: Height and width of a frame in pixels.
        episode_length: Frames of an episode.
        seed: Seed of everything that is drawn.
        workers: Processes; None takes one a core as far as there are episodes for them, 1 starts none.
        progress: Show a bar with frames per second and the time left, on the error stream.

    Returns:
        The store.

    Raises:
        ValueError: A setting is out of range, or the store has another task, image size, episode length or seed.
        RuntimeError: A worker failed; the episodes before are in the store.
        OSError: The store could not be written; the episodes before are in it.
    """
    for name, value, least in (("episodes", episodes, 1), ("episode_length", episode_length, 2), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}; give a larger number")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1; leave it out for one a core")
    task = make_task(task_name, image_size)
    meta = StoreMeta(
        task=task_name,
        image_size=image_size,
        action_kind=task.action_kind,
        action_size=task.action_size,
        state_names=task.state_names,
        fps=float(task.metadata["render_fps"]),
        source=f"lewm collect, seed {seed}, episode length {episode_length}",
    )
    with StoreWriter(out, meta) as writer:
        todo = range(writer.num_episodes, episodes)
        if workers is None:
            workers = min(_num_cores(), len(todo) // _EPISODES_PER_WORKER)
        with (
            _frame_counter(len(todo) * episode_length, task_name, show=progress) as count,
            contextlib.closing(_collect_all(task, todo, episode_length, seed, workers)) as collected,
        ):
            for frames, actions, states, episode_seed in collected:
                writer.append(frames, actions, states, source="behaviour", seed=episode_seed)
                count(len(frames))
    return Store(out)


def _collect_all(task: Task, todo: range, length: int, seed: int, workers: int) -> Generator[_Episode]:
    """Yield episodes in order, a few of them ahead of the writer."""
    if workers <= 1:
        for index in todo:
            yield _collect_episode(task, index, length, seed)
        return
    # Never fork: a process that has used threads (torch's among them) may not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        ahead: deque[Future[_Episode]] = deque()
        rest = iter(todo)
        for index in todo:
            while len(ahead) < workers * _AHEAD_PER_WORKER and (following := next(rest, None)) is not None:
                ahead.append(pool.submit(_work, task.name, task.image_size, following, length, seed))
            future = ahead.popleft()
            if (error := future.exception()) is not None:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise RuntimeError(
                    f"episode={index}: a worker failed ({reason}); the episodes before are stored, run again to go on"
                ) from error
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _collect_episode(task: Task, index: int, length: int, seed: int) -> _Episode:
    """Collect one episode: frames, actions, states, and the seed of its first state."""
    first, policy = (int(value) for value in np.random.SeedSequence([seed, index]).generate_state(2))
    task.reset(seed=first)
    behaviour = task.behaviour(policy)
    states, actions = [], []
    for _ in range(length):
        states.append(task.state)
        actions.append(behaviour.act(task))
        task.advance(actions[-1])
    return task.render_states(np.stack(states)), np.stack(actions), np.stack(states), first


def _work(task_name: str, image_size: int, index: int, length: int, seed: int) -> _Episode:
    return _collect_episode(_worker_task(task_name, image_size), index, length, seed)


@lru_cache(maxsize=1)
def _worker_task(task_name: str, image_size: int) -> Task:
    return make_task(task_name, image_size)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _frame_counter(total: int, task_name: str, *, show: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts collected frames, on a progress bar if wanted."""
    if not show or total == 0:
        yield lambda frames: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("collecting {task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} frames, {task.fields[rate]} frames/s,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    start = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(task_name, total=total, rate="-")
        done = 0

        def count(frames: int) -> None:
            nonlocal done
            done += frames
            bar.update(row, completed=done, rate=f"{done / (time.perf_counter() - start):,.0f}")

        yield count
