"""Episodes of a task into a store, drawn in parallel processes by its behaviour policy or from demonstrations."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lewm.data.store import Store, StoreMeta, StoreWriter, frame_bytes
from lewm.envs.push_t import PushT
from lewm.envs.push_t_demos import Demonstration, draw_replay, read_demonstrations
from lewm.envs.registry import TASKS, make_task
from lewm.envs.task import Behaviour, Task
from lewm.files import check_folder, check_space
from lewm.processes import frame_counter, in_order, num_cores

_EPISODES_PER_WORKER = 8  # fewer are collected before another process has started
_AHEAD_PER_WORKER = 4

BEHAVIOURS = ("scripted", "demos")
"""Who acts: the task's own policy, or noisy replays of demonstrations of it."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all episodes of a store have in common, in a form that goes to another process."""

    task: str
    image_size: int
    length: int
    seed: int
    demos: Path | None = None


@dataclass(frozen=True, slots=True)
class _Episode:
    frames: NDArray[np.uint8]
    actions: NDArray
    states: NDArray[np.float32]
    seed: int
    group: int | None = None


def collect(
    task_name: str,
    out: str | Path,
    *,
    episodes: int,
    image_size: int | None = None,
    episode_length: int = 100,
    behaviour: Literal["scripted", "demos"] = "scripted",
    demos: str | Path | None = None,
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
        behaviour: Who acts: the task's own policy, or noisy replays of demonstrations, which there are of `push-t`
            alone. Replays of one demonstration are one group of the store, and so are held out together.
        demos: The demonstrations, the public `pusht_cchi_v7_replay.zarr`; needed for their replays only.
        seed: Seed of everything that is drawn.
        workers: Processes; None takes one a core as far as there are episodes for them, 1 starts none.
        progress: Show a bar with frames per second and the time left, on the error stream.

    Returns:
        The store.

    Raises:
        ValueError: A setting is out of range, or the store has another task, image size, episode length, behaviour or
            seed, or cannot be written, or the disk has no room for the episodes that are missing, or the demonstrations
            are missing or of another task.
        RuntimeError: A worker failed; the episodes before are in the store.
        OSError: The store could not be written; the episodes before are in it.
    """
    for name, value, least in (("episodes", episodes, 1), ("episode_length", episode_length, 2), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}; give a larger number")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1; leave it out for one a core")
    _check_behaviour(task_name, behaviour, demos)
    check_folder(Path(out), "out")
    task = make_task(task_name, image_size)
    plan = _Plan(task_name, task.image_size, episode_length, seed, None if demos is None else Path(demos).absolute())
    source = f"lewm collect, seed {seed}, episode length {episode_length}"
    if plan.demos is not None:
        count = len(_demonstrations(plan.demos))  # what is wrong with them is said before anything is written
        source += f", replays of {count} demonstrations in {plan.demos.name}"
    meta = task_meta(type(task), image_size=task.image_size, source=source)
    with StoreWriter(out, meta) as writer:
        todo = range(writer.num_episodes, episodes)
        check_space(writer.path, len(todo) * episode_length * frame_bytes(meta), "out", "fewer --episodes")
        if workers is None:
            workers = min(num_cores(), len(todo) // _EPISODES_PER_WORKER)
        with (
            frame_counter(len(todo) * episode_length, f"collecting {task_name}", show=progress) as count,
            contextlib.closing(_collect_all(plan, todo, workers)) as collected,
        ):
            for episode in collected:
                writer.append(
                    episode.frames,
                    episode.actions,
                    episode.states,
                    source="behaviour" if episode.group is None else f"demonstration {episode.group}",
                    seed=episode.seed,
                    group=episode.group,
                )
                count(len(episode.frames))
    return Store(out)


def _check_behaviour(task_name: str, behaviour: str, demos: str | Path | None) -> None:
    """Check that behaviour, task and demonstrations go together."""
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"behaviour={behaviour}: must be one of {', '.join(BEHAVIOURS)}; leave it out for scripted")
    if behaviour == "scripted":
        if demos is not None:
            raise ValueError(f"demos={demos}: is not read by the scripted behaviour; give --behaviour demos as well")
    elif task_name in TASKS and task_name != PushT.name:
        raise ValueError(f"behaviour=demos: is of {PushT.name}, and {task_name} has no demonstrations; use scripted")
    elif demos is None:
        raise ValueError("behaviour=demos: needs the demonstrations; give pusht_cchi_v7_replay.zarr by --demos")


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


def _collect_all(plan: _Plan, todo: range, workers: int) -> Generator[_Episode]:
    """Yield episodes in order, a few of them ahead of the writer."""
    if workers <= 1:
        for index in todo:
            yield _collect_episode(plan, index)
        return
    arguments = ((plan, index) for index in todo)
    yield from in_order(_collect_episode, arguments, names=todo, workers=workers, ahead=workers * _AHEAD_PER_WORKER)


def _collect_episode(plan: _Plan, index: int) -> _Episode:
    """Collect one episode."""
    task = _task(plan.task, plan.image_size)
    first, policy = (int(value) for value in np.random.SeedSequence([plan.seed, index]).generate_state(2))
    group, behaviour = None, None
    if plan.demos is None:
        task.reset(seed=first)
        behaviour = task.behaviour(policy)
    else:
        behaviour, group = draw_replay(
            _demonstrations(plan.demos), index, plan.length, seed=first, order_seed=plan.seed
        )
        task.set_state(behaviour.start)
    states, actions = _act(task, behaviour, plan.length)
    return _Episode(task.render_states(states), actions, states, first, group)


def _act(task: Task, behaviour: Behaviour, length: int) -> tuple[NDArray[np.float32], NDArray]:
    """Let a policy act from the task's present state; returns the states, and the actions taken in them."""
    states, actions = [], []
    for _ in range(length):
        states.append(task.state)
        actions.append(behaviour.act(task))
        task.advance(actions[-1])
    return np.stack(states), np.stack(actions)


# Kept from one episode to the next, in each process.
@lru_cache(maxsize=1)
def _task(name: str, image_size: int) -> Task:
    return make_task(name, image_size)


@lru_cache(maxsize=1)
def _demonstrations(path: Path) -> list[Demonstration]:
    return read_demonstrations(path)
