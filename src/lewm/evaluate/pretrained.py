"""Measure a model that comes with the package, on episodes that are collected for it and kept nowhere."""

import dataclasses
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lewm.config import Config
from lewm.device import resolve_device
from lewm.envs import collect
from lewm.evaluate.evaluation import Evaluation, evaluate_model, open_run, plan_model
from lewm.evaluate.goal_reading import closed_loop_goal
from lewm.evaluate.starts import read_starts
from lewm.pretrained import pretrained_run, pretrained_starts
from lewm.run_spec import load_spec
from lewm.train.checkpoint import load_config

FRESH_SEED = 1_000_000
"""Added to the seed for episodes that training has not seen: stores to train on are collected with smaller seeds."""
STARTS_PER_EPISODE = 4
"""By the standard protocol; the others leave starts out, and one a collected episode is what they find."""
LISTED_OFFSET = 25
"""Environment steps between a start and its goal, in the lists that come with a model."""
EPISODE_LENGTH = 100
FIT_EPISODES = 40
"""Episodes that probes are fitted to, apart from those that are held out."""


@contextmanager
def open_pretrained(
    name: str, *, data: str | Path | None, device: str | None, config: Config | None, fit: bool, progress: bool
) -> Iterator[Evaluation]:
    """Load a model that comes with the package, with data to measure it on, and with its own starts if it has some.

    Args:
        name: One of `lewm.pretrained.pretrained_names()`, which is the name of its task.
        data: Store, split as training splits, whose starts are used; None collects fresh episodes, which last as long
            as the context.
        device: auto, cpu, cuda or mps; None takes the model's setting.
        config: Settings whose `eval`, `plan` and `seed` replace the model's; None keeps those.
        fit: Collect episodes to fit probes to as well.
        progress: Show progress on standard error.

    Raises:
        ValueError: If there is no such model, or the store does not fit.
    """
    run = pretrained_run(name)
    if data is not None:
        yield open_run(run, data=data, device=device, config=config)
        return
    own = load_config(run)
    resolve_device(device or own.device)  # refused here, and not after minutes of collecting
    settings, fit_episodes = config or own, FIT_EPISODES if fit else 0
    listed = pretrained_starts(name, settings.eval.protocol)
    if listed is not None and settings.eval.goal_offset != LISTED_OFFSET:
        raise ValueError(
            f"eval.goal_offset={settings.eval.goal_offset}: the goals that come with {name} are {LISTED_OFFSET} steps "
            f"from their starts; use {LISTED_OFFSET}, or give a store by --data"
        )
    per_episode = STARTS_PER_EPISODE if listed is not None or settings.eval.protocol == "standard" else 1
    with tempfile.TemporaryDirectory(prefix="lewm-") as folder:
        store = collect(
            load_spec(run).task,
            Path(folder) / "store",
            episodes=fit_episodes + math.ceil(settings.eval.episodes / per_episode),
            image_size=own.model.image_size,
            episode_length=max(EPISODE_LENGTH, 2 * settings.eval.goal_offset),
            seed=settings.seed + FRESH_SEED,
            workers=1,  # soon done, and scripts need no guard against processes that start anew
            progress=progress,
        )
        of = open_run(run, data=store.path, device=device, config=config, fit_episodes=fit_episodes)
        if listed is not None and of.task is not None:
            of = dataclasses.replace(of, starts=read_starts(listed, of.task))
        yield of


def plan_pretrained(
    name: str,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    config: Config | None = None,
    goal: str | None = None,
    video: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Plan in closed loop as `plan_run` does, with a model that comes with the package; see `open_pretrained`.

    Raises:
        ValueError: As `plan_run`, or there is no such model.
    """
    # Refused here, and not after minutes of collecting.
    if video is not None:
        from lewm.evaluate.video import check_video

        check_video(Path(video))
    if goal is not None and data is None:
        closed_loop_goal(goal, load_spec(pretrained_run(name)).state_names)
    fit = goal is not None and not goal.startswith("frame:")  # a goal given by the state is read by a probe
    opened = open_pretrained(name, data=data, device=device, config=config, fit=fit, progress=progress)
    with opened as of:
        return plan_model(of, goal=goal, video=video, progress=progress)


def evaluate_pretrained(
    name: str,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    config: Config | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure all that `evaluate_run` measures, of a model that comes with the package; writes nothing.

    Raises:
        ValueError: As `evaluate_run`, or there is no such model.
    """
    opened = open_pretrained(name, data=data, device=device, config=config, fit=True, progress=progress)
    with opened as of:
        return evaluate_model(of, progress=progress)[0]
