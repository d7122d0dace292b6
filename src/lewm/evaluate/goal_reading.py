"""Goals given by the state, in a run's data: the probe that reads them from representations, and where they are met."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.store import Store
from lewm.envs import Rule, Task
from lewm.evaluate.angles import RADIANS, near_the_data
from lewm.evaluate.judge import Judge
from lewm.evaluate.probe import (
    SMALLEST_STD,
    LinearProbe,
    ProbeSet,
    fit_linear,
    probe_targets,
    r2_score,
    validation_part,
)
from lewm.evaluate.starts import Starts
from lewm.plan import FrameGoal, Region, RegionGoal, StateGoal, parse_goal
from lewm.plan.goal import Goal

READABLE_R2 = 0.5
"""A variable with a smaller held-out R^2 cannot be read well enough to be a goal."""


@dataclass(frozen=True, slots=True)
class StateGoalReader:
    """A goal given by the state, as representations tell it.

    Args:
        region: The goal; its numbers are those of the variables named, an angle as sine and cosine.
        r2: Held-out R^2 of these numbers by name; None where it has no value.
        read: Reads the state's variables by name from representations (N, D), those that vary over the training frames.
    """

    region: Region
    r2: dict[str, float | None]
    read: Callable[[Tensor], dict[str, float]]


def read_goal(
    text: str,
    goal: StateGoal | RegionGoal,
    data: ProbeSet,
    encode: Callable[[NDArray[np.uint8]], Tensor],
    *,
    device: torch.device,
    seed: int,
) -> StateGoalReader:
    """Fit the linear probe on flattened tokens that reads a goal.

    Args:
        text: The goal as the user gave it, for errors.
        goal: Values or ranges of state variables.
        data: Frames and states that the probe is fitted to and measured on.
        encode: The trained encoder, frames (M, height, width, 3) to tokens (M, N, D).
        device: Where plans are made.
        seed: Seed of the validation part.

    Raises:
        ValueError: If the goal names a variable that does not vary over the training frames, or a range of an angle.
    """
    assert data.turns is not None
    bounds = _bounds(text, goal, data.turns)
    probe, labels, scale, scores = fit_reader(data, encode, seed=seed)
    for label in bounds:
        if label not in labels:
            raise ValueError(
                f"goal={text}: {label} is the same in all training frames, so it has no probe; leave it out"
            )
    probe = LinearProbe(probe.weight.to(device), probe.x_mean.to(device), probe.y_mean.to(device), probe.ridge)

    columns = [labels.index(label) for label in bounds]
    part = replace(probe, weight=probe.weight[:, columns], y_mean=probe.y_mean[columns])
    low, high = torch.tensor(list(bounds.values()), device=device).T
    region = Region(lambda tokens: part(tokens.flatten(-2)), low, high, scale[columns].to(device))

    def read(tokens: Tensor) -> dict[str, float]:
        return _state(dict(zip(labels, probe(tokens.flatten()).tolist(), strict=True)), data)

    return StateGoalReader(region, {label: scores[labels.index(label)] for label in bounds}, read)


def fit_reader(
    data: ProbeSet, encode: Callable[[NDArray[np.uint8]], Tensor], *, seed: int
) -> tuple[LinearProbe, list[str], Tensor, list[float | None]]:
    """Fit the linear probe on flattened tokens that reads the state.

    Args:
        data: Frames and states that the probe is fitted to and measured on.
        encode: The trained encoder, frames (M, height, width, 3) to tokens (M, N, D).
        seed: Seed of the validation part.

    Returns:
        The probe, the names of the S' numbers that it reads, those that vary over the training frames, their standard
        deviations (S',), and their held-out R^2; None where it has no value.
    """
    y, y_test, labels = data.targets()
    varies = y.std(0) > SMALLEST_STD
    y, y_test = y[:, varies], y_test[:, varies]
    labels = [label for label, keep in zip(labels, varies.tolist(), strict=True) if keep]
    train, test = (encode(frames).cpu().flatten(1) for frames in (data.train_frames, data.test_frames))
    probe = fit_linear(train, y, validation_part(data.train_episode, seed=seed))
    scores = [r2 if np.isfinite(r2) else None for r2 in r2_score(y_test, probe(test)).tolist()]
    return probe, labels, y.std(0), scores


def _bounds(text: str, goal: StateGoal | RegionGoal, turns: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of what a probe reads, by its name."""
    if isinstance(goal, StateGoal):
        given = np.array([list(goal.values.values())], dtype=np.float32)
        values, labels = probe_targets(given, list(goal.values), turns)
        return {label: (value, value) for label, value in zip(labels, values[0].tolist(), strict=True)}
    for name in goal.ranges:
        if name in turns:
            raise ValueError(
                f"goal={text}: {name} is an angle, read as sine and cosine, and has no range; leave it out, or give "
                f"values as in state:{name}=0.5"
            )
    return goal.ranges


def _state(read: dict[str, float], data: ProbeSet) -> dict[str, float]:
    """Turn what the probe reads into the state's variables: sine and cosine become an angle in the data's unit."""
    assert data.turns is not None
    state = {}
    for name, values in zip(data.names, data.train_states.T, strict=True):
        sine, cosine = (read.get(f"{name} ({part})") for part in ("sine", "cosine"))
        if name in read:
            state[name] = read[name]
        elif sine is not None and cosine is not None:
            turn = data.turns[name]
            state[name] = near_the_data(float(np.arctan2(sine, cosine)) * turn / RADIANS, turn, values)
    return state


def frame_index(goal: FrameGoal, store: Store, text: str, field: str) -> int:
    """Return the index in the store of a frame that a user named; `field` and `text` are what an error shows.

    Raises:
        ValueError: If there is no such frame.
    """
    if goal.episode >= store.num_episodes:
        raise ValueError(f"{field}={text}: {store.path} has no such episode; use 0 to {store.num_episodes - 1}")
    frames = store.episode(goal.episode)
    length = frames.stop - frames.start
    if goal.index >= length:
        raise ValueError(f"{field}={text}: episode {goal.episode} has no such frame; use 0 to {length - 1}")
    return frames.start + goal.index


@dataclass(frozen=True, slots=True)
class Aim:
    """One goal for all closed-loop episodes.

    Args:
        starts: Where they start, and the goal.
        judge: Tells which states are at it, and what success is.
        report: What is said of it in the results.
    """

    starts: Starts
    judge: Judge
    report: dict[str, Any]


def closed_loop_goal(text: str, names: tuple[str, ...]) -> Goal:
    """Read a goal whose success a task with the state variables `names` can tell.

    Raises:
        ValueError: If the text is no goal, or leaves variables of a state open.
    """
    goal = parse_goal(text, names)
    if isinstance(goal, StateGoal) and (missing := [name for name in names if name not in goal.values]):
        raise ValueError(
            f"goal={text}: leaves {', '.join(missing)} open, so the task cannot tell success; give all variables, or a "
            "region"
        )
    return goal


def aim(
    text: str,
    draw: Callable[[Rule], Starts],
    task: Task,
    store: Store,
    reader: Callable[[StateGoal | RegionGoal], StateGoalReader],
    *,
    rule: Rule,
) -> Aim:
    """Turn all starts to one goal.

    Args:
        text: The goal, in a form of `lewm.plan.parse_goal`.
        draw: Draws where the episodes start, by a rule that knows the goal; their own goals are dropped.
        task: The true dynamics, by which success is told.
        store: The data, with its states.
        reader: Fits the probe for a goal given by the state.
        rule: What success is, of a goal that is a state; of a region it says for how long alone.

    Raises:
        ValueError: If the text is no goal, or not one whose success the task can tell.
    """
    assert store.states is not None
    goal, names = closed_loop_goal(text, store.meta.state_names), store.meta.state_names
    index = None
    match goal:
        case FrameGoal():
            index = frame_index(goal, store, text, "goal")
            state, frame = store.states[index], store.frames[index]
        case StateGoal():
            state = np.array(list(goal.values.values()), dtype=np.float32)
            try:
                task.set_state(state)
            except ValueError as error:
                raise ValueError(f"goal={text}: is no possible state: {error}") from error
            frame = task.render()
        case RegionGoal():
            state, frame = np.full(len(names), np.nan, dtype=np.float32), np.zeros_like(store.frames[0])
    if isinstance(goal, RegionGoal):
        here = replace(rule, inside=lambda states, _: goal.contains(np.asarray(states), names), counts=None)
    else:
        here = _towards(rule, state)
    starts = draw(here)
    read = None if isinstance(goal, FrameGoal) else reader(goal)
    count = len(starts.index)
    starts = replace(
        starts,
        goal_state=np.repeat(state[None], count, axis=0),
        goal_frame=np.repeat(frame[None], count, axis=0),
        region=None if read is None else read.region,
        goal_index=None if index is None else np.full(count, index),
    )
    return Aim(starts, Judge(here, starts.goal_state), goal_report(text, read))


def _towards(rule: Rule, goal: NDArray[np.float32]) -> Rule:
    """Return the rule with one goal (S,) in place of every other."""
    counts = rule.counts
    return replace(
        rule,
        inside=lambda states, _: rule.inside(states, goal),
        counts=None if counts is None else lambda states, _: counts(states, goal),
    )


def goal_report(text: str, read: StateGoalReader | None) -> dict[str, Any]:
    """Return what is said of a goal in the results: the text, its kind, and the held-out R^2 of what is read."""
    report: dict[str, Any] = {"text": text, "kind": text.partition(":")[0]}
    return report if read is None else report | {"r2": read.r2}
