"""Episodes of a task into a store, drawn by its behaviour policy in parallel processes."""

import contextlib
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lewm.data.store import Store, StoreMeta, StoreWriter, frame_bytes
from lewm.envs.registry import make_task
from lewm.envs.task import Task
from lewm.files import check_folder, check_space
from lewm.processes import frame_counter, in_order, num_cores

_EPISODES_PER_WORKER = 8  # fewer are collected before another process has started
_AHEAD_PER_WORKER = 4

_Episode = tuple[NDArray[np.uint8], NDArray, NDArray[np.float32], int]


def collect(
    task_name: str,
    out: str | Path,
    *,
    episodes: int,
    image_size: int | None = None,
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
        image_size: Height and width of a frame in pixels; None takes the task's own.
        episode_length: Frames of an episode.
        seed: Seed of everything that is drawn.
        workers: Processes; None takes one a core as far as there are episodes for them, 1 starts none.
        progress: Show a bar with frames per second and the time left, on the error stream.

    Returns:
        The store.

    Raises:
        ValueError: A setting is out of range, or the store has another task, image size, episode length or seed, or
            cannot be written, or the disk has no room for the episodes that are missing.
        RuntimeError: A worker failed; the episodes before are in the store.
        OSError: The store could not be written; the episodes before are in it.
    """
    for name, value, least in (("episodes", episodes, 1), ("episode_length", episode_length, 2), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}; give a larger number")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1; leave it out for one a core")
    check_folder(Path(out), "out")
    task = make_task(task_name, image_size)
    meta = task_meta(
        type(task), image_size=task.image_size, source=f"lewm collect, seed {seed}, episode length {episode_length}"
    )
    with StoreWriter(out, meta) as writer:
        todo = range(writer.num_episodes, episodes)
        check_space(writer.path, len(todo) * episode_length * frame_bytes(meta), "out", "fewer --episodes")
        if workers is None:
            workers = min(num_cores(), len(todo) // _EPISODES_PER_WORKER)
        with (
            frame_counter(len(todo) * episode_length, f"collecting {task_name}", show=progress) as count,
            contextlib.closing(_collect_all(task, todo, episode_length, seed, workers)) as collected,
        ):
            for frames, actions, states, episode_seed in collected:
                writer.append(frames, actions, states, source="behaviour", seed=episode_seed)
                count(len(frames))
    return Store(out)


def task_meta(task: type[Task], *, image_size: int, source: str = "") -> StoreMeta:
    """Return the metadata of a store of a task's episodes."""
    return StoreMeta(
        task=task.name,
        image_size=image_size,
        action_kind=task.action_kind,
        action_size=task.action_size,
        action_names=task.action_names,
        control_mode=task.control_mode,
        control_evidence="" if task.control_mode == "unknown" else "given by the task",
        state_names=task.state_names,
        fps=float(task.metadata["render_fps"]),
        source=source,
        origin={"format": "collect", "name": task.name},
    )


def _collect_all(task: Task, todo: range, length: int, seed: int, workers: int) -> Generator[_Episode]:
    """Yield episodes in order, a few of them ahead of the writer."""
    if workers <= 1:
        for index in todo:
            yield _collect_episode(task, index, length, seed)
        return
    arguments = ((task.name, task.image_size, index, length, seed) for index in todo)
    yield from in_order(_work, arguments, names=todo, workers=workers, ahead=workers * _AHEAD_PER_WORKER)


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
