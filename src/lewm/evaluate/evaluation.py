"""Evaluate a trained run on held-out episodes: `eval.json` with every number, `eval.npz` with what the report draws.

Arrays of `eval.npz`, where n rows are examples:

    spectrum                   (D,) normalised eigenvalues of the tokens' covariance
    projection                 (M, 2) flattened representations of held-out frames on their first two components
    projection_share           (2,) share of the variance on each
    projection_states          (M, S) true states, where the store has them
    state_names                (S,) their names
    rollout_start              (n, height, width, 3) the present frame of held-out clips
    rollout_horizon            (h,) model steps ahead
    rollout_real               (n, h, height, width, 3) the frame that came at each horizon
    rollout_nearest            (n, h, height, width, 3) held-out frame whose representation is nearest to the prediction
    cost_gap                   (P,) environment steps between the frames of a pair
    cost_distance              (P,) their true distance, where the task can tell
    cost_tokens, cost_pooled, cost_steps_to_go      (P,) each cost of the pairs
    episode_frames             (n, budget + 1, height, width, 3) closed-loop episodes, every environment step; from a
                               success on, its frame stays, as its state does below and the last plan made before it
    episode_cost               (n, budget + 1) planning cost of being at each frame
    episode_states             (n, budget + 1, S)
    episode_goal_frame         (n, height, width, 3)
    episode_goal_state         (n, S)
    episode_solved_at          (n,) environment step at which the goal was first reached, -1 for never
    episode_plan_step          (p,) environment step of each decision
    episode_imagined_nearest   (n, p, H) the real frame nearest to each imagined step of each decision's plan, in
    episode_library            (l, height, width, 3)
    episode_imagined_states    (n, p, H, S') those steps read by the linear probe, in the order of `probe.r2_by_state`
    episode_place, episode_goal_place, episode_imagined_place      (n, budget + 1, 2), (n, 2), (n, p, H, 2) where on the
                               frame these states are, in pixels, for a task that tells it
"""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from lewm.config import Config, PlanConfig
from lewm.data.importers.images import LABEL
from lewm.data.store import Store
from lewm.envs import TASKS, Rule, Task, make_task
from lewm.envs.registry import known_task
from lewm.evaluate.angles import RADIANS, full_turns
from lewm.evaluate.class_probe import LabelledImages, measure_classes
from lewm.evaluate.closed_loop import (
    DecidingPolicy,
    Loop,
    ModelPolicy,
    Policy,
    cost_alone,
    planner_alone,
    random_policy,
    run_closed_loop,
    straight_policy,
    wilson_interval,
)
from lewm.evaluate.cost_order import CostReport, measure_cost
from lewm.evaluate.doctor import pose_verdict, verdict
from lewm.evaluate.frames import draw_frames, encode_frames, episode_of
from lewm.evaluate.goal_reading import StateGoalReader, aim, read_goal
from lewm.evaluate.judge import Judge, reaches
from lewm.evaluate.pose_sensitivity import FRAMES, measure_pose_sensitivity
from lewm.evaluate.prediction import measure_prediction, nearest, prediction_clips, roll_out_clips
from lewm.evaluate.probe import ProbeReport, ProbeSet, measure_probes
from lewm.evaluate.recording import Recording, episode_places, record_episodes
from lewm.evaluate.starts import NAME as STARTS_NAME
from lewm.evaluate.starts import Starts, digest, make_starts, starts_text
from lewm.families.family import PolicyModel, WorldModel
from lewm.files import atomic_path, check_file, write_text
from lewm.objective.spectrum import spectrum_report
from lewm.plan import ActionSpace, GoalCost, Proposal, RegionGoal, StateGoal, StepsToGo, action_space, planning_cost
from lewm.plan.cost import DISTANCES
from lewm.plan.proposal import required_proposal
from lewm.progress import progress_bars
from lewm.run_spec import RunSpec
from lewm.train.checkpoint import load_run, require_fit

HELD_OUT_FRAMES = 1000  # for probes, the spectrum, the projection and as nearest neighbours
MEAN_FRAMES = 2000  # training frames of the per-position mean
PAIRS = 1000
EXAMPLES = 6

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What all measurements start from: a run's model and the data it is measured on."""

    run: Path
    config: Config
    model: WorldModel
    """Or a `PolicyModel`, of which the closed loop alone is measured."""
    learnt: StepsToGo | None
    """The run's learnt cost, if it has one."""
    store: Store
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    task: Task | None
    """The true dynamics, when the run is of a known task and the store tells its states."""
    spec: RunSpec
    proposal: Proposal | None = None
    """The run's proposal, if it has one."""
    starts: Starts | None = None
    """Where episodes start and end in place of a draw from the held-out episodes, of the configured protocol."""

    @property
    def cost(self) -> GoalCost:
        """What plans are judged by."""
        return planning_cost(self.config.plan, self.learnt)

    @property
    def space(self) -> ActionSpace:
        """What the planner searches."""
        bounds = (self.spec.low, self.spec.high) if self.spec.action_kind == "continuous" else ()
        return action_space(self.config, *bounds, device=self.model.device)


def open_run(
    run: str | Path,
    *,
    data: str | Path | None,
    device: str | None,
    config: Config | None,
    fit_episodes: int | None = None,
) -> Evaluation:
    """Load a run's model and its data, and check that they fit.

    Args:
        run: Run folder.
        data: Store; None takes the one that the run was trained on.
        device: auto, cpu, cuda or mps; None takes the run's setting.
        config: Settings whose `eval`, `plan` and `seed` replace the run's; None keeps those.
        fit_episodes: First episodes that stand in for training episodes, of data that training has not seen: probes are
            fitted to them, and all others are held out. None splits the store as training did.

    Raises:
        ValueError: If the run or the store is missing, broken, or they do not fit.
    """
    run = Path(run)
    loaded = load_run(run, device)
    path = loaded.data if data is None else Path(data)
    if path is None:
        raise ValueError(f"data: not given, and {run} does not say which it was trained on; give a store by --data")
    if data is None and not path.is_dir():
        raise ValueError(
            f"data.path={path}: the store that {run} was trained on is not there; if it was moved, give its new place, "
            "--data DIR"
        )
    store, settings = Store(path), loaded.config
    if config is not None:
        settings = dataclasses.replace(settings, eval=config.eval, plan=config.plan, seed=config.seed)
    if loaded.config.model.plans and settings.plan.cost == "steps_to_go" and loaded.cost is None:
        raise ValueError(
            f"plan.cost=steps_to_go: {run} stopped before this cost was fitted; finish it with `lewm train --resume "
            f"{run}`, or use --plan.cost tokens"
        )
    require_fit(store, settings, run)
    required_proposal(settings.plan, loaded.proposal)
    own = loaded.spec.task
    if own != store.meta.task and {own, store.meta.task} <= TASKS.keys():
        raise ValueError(f"data={path}: is of task {store.meta.task}, and the model of {own}; give a store of {own}")
    if fit_episodes is None:
        share, seed = settings.data.held_out, settings.data.split_seed
        train, held_out = store.split(held_out=share, seed=seed)
    else:
        train, held_out = np.split(np.arange(store.num_episodes), [fit_episodes])
    task = make_task(own, loaded.spec.image_size) if has_simulator(loaded.spec, store) else None
    return Evaluation(
        run, settings, loaded.model, loaded.cost, store, train, held_out, task, loaded.spec, loaded.proposal
    )


def has_simulator(spec: RunSpec, store: Store) -> bool:
    """Say whether the true dynamics are at hand: the run is of a known task, and the store tells its states."""
    task = known_task(spec)
    return task is not None and known_task(store.meta) is task and store.states is not None


def evaluate_run(
    run: str | Path,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    config: Config | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate a run and write `eval.json`, `eval.npz` and `starts.json` into its folder.

    Args:
        run: Run folder.
        data: Store; None takes the one that the run was trained on.
        device: auto, cpu, cuda or mps; None takes the run's setting.
        config: Settings whose `eval`, `plan` and `seed` replace the run's; None keeps those.
        progress: Show progress and the time left on standard error.

    Returns:
        The content of `eval.json`: numbers are finite or None, rates 0 to 1, lists follow `prediction.horizon`.

    Raises:
        ValueError: If the run or the store is missing, broken, or they do not fit, or episodes are too short, or the
            files cannot be written.
    """
    run = Path(run)
    for name in ("eval.npz", "eval.json", STARTS_NAME):
        check_file(run / name, "run")
    of = open_run(run, data=data, device=device, config=config)
    results, arrays = evaluate_model(of, progress=progress)
    with atomic_path(run / "eval.npz") as temporary:
        np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]
    if of.task is None:
        (run / STARTS_NAME).unlink(missing_ok=True)  # of an earlier evaluation, which had a task
    else:
        write_text(run / STARTS_NAME, _starts_text(of, draw_starts(of, of.task)))
    write_text(run / "eval.json", json.dumps(results, indent=2) + "\n")
    return results


def evaluate_model(of: Evaluation, *, progress: bool = True) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Measure a model in memory; returns what `eval.json` and `eval.npz` hold.

    Raises:
        ValueError: If episodes are too short.
    """
    if not of.config.model.plans:
        return _measure_decisions(of), {}
    with show_progress(progress) as stage:
        with stage("representation", 1):
            results, arrays, library = _measure_representation(of)
        if of.config.action.kind == "none":
            with stage("classes", 1):
                results |= dict.fromkeys(("prediction", "probe", "cost", "pose_sensitivity", "planning"))
                results["class_probe"] = _measure_classes(of)
            return _judged(results), arrays
        with stage("prediction", 1):
            results["prediction"], rollouts = _measure_prediction(of, library)
            arrays |= rollouts
        with stage("probes", 1):
            probe = _measure_probes(of)
        with stage("cost", 1):
            cost = _measure_cost(of)
        results["probe"] = None if probe is None else probe.summary()
        results["cost"] = cost.summary()
        arrays |= {"cost_gap": cost.pairs.gap} | {f"cost_{name}": value for name, value in cost.costs.items()}
        if cost.distance is not None:
            arrays["cost_distance"] = cost.distance
        results["pose_sensitivity"] = results["planning"] = None  # in the order of the file
        if of.task is not None:
            with stage("pose sensitivity", 1):
                results["pose_sensitivity"] = _measure_pose(of, of.task)
            starts = draw_starts(of, of.task)
            with stage("planning", decisions(of.config)) as tick:
                results["planning"], episodes, success = _measure_planning(of, of.task, starts, library, probe, tick)
            if of.config.eval.split_episodes:
                with stage("planner alone, cost alone (--eval.split-episodes)", 2 * decisions(of.config)) as tick:
                    results["cost"] |= _measure_split(of, of.task, starts, success, tick)
            arrays |= episodes
    return _judged(results), arrays


def _measure_decisions(of: Evaluation) -> dict[str, Any]:
    """Measure the closed loop of a model that decides without a plan; everything else is None."""
    results = describe(of) | dict.fromkeys(("spectrum", "prediction", "probe", "cost", "pose_sensitivity", "planning"))
    if of.task is None:
        return _judged(results)
    model, starts = of.model, draw_starts(of, of.task)
    assert isinstance(model, PolicyModel)
    policy = DecidingPolicy(model, of.task, starts, of.space)
    planning, _ = measure_policy(of, of.task, starts, reaches(of.task, starts, of.config.eval.protocol), policy)
    results["planning"] = {
        **dict.fromkeys(field.name for field in dataclasses.fields(PlanConfig)),
        **planning,
        "planner": None,
        "seconds_per_plan": policy.seconds / policy.plans,
        "plans": policy.decisions,
    }
    return _judged(results)


def _judged(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with the verdict, in the form that JSON has."""
    results = finite(results)
    results["learnt"], results["verdict"] = verdict(results)
    return results


def plan_run(
    run: str | Path,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    config: Config | None = None,
    goal: str | None = None,
    video: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Plan in closed loop from held-out starts, beside a random policy.

    Args:
        run: Run folder.
        data: Store; None takes the one that the run was trained on.
        device: auto, cpu, cuda or mps; None takes the run's setting.
        config: Settings whose `eval`, `plan` and `seed` replace the run's: `plan.planner` and `eval.episodes` among
            them; None keeps those.
        goal: Where all episodes are to end, in a form of `lewm.plan.parse_goal`; None takes for each the frame
            `eval.goal_offset` steps ahead of its start.
        video: Where to write a video (.mp4) of some episodes; None writes none.
        progress: Show progress and the time left on standard error.

    Returns:
        The `planning` part of `eval.json`. With a goal, its entry `goal` holds the `text`, the `kind` and, of one that
        is given by the state, the held-out `r2` of the probe that reads it; its `cost` is then `region`.

    Raises:
        ValueError: As `evaluate_run`; or the store's task is not a known one, the goal is none that the task can tell
            success of, or the video is not an .mp4 or cannot be written.
    """
    of = open_run(run, data=data, device=device, config=config)
    return plan_model(of, goal=goal, video=video, progress=progress)


def plan_model(
    of: Evaluation, *, goal: str | None = None, video: str | Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Plan in closed loop with a model in memory; see `plan_run`.

    Raises:
        ValueError: As `plan_run`.
    """
    if video is not None:
        # needs the `report` extra, and nothing else here does
        from lewm.evaluate.video import check_video, write_video

        video = Path(video)
        check_video(video)  # before the long part
    require_actions(of)
    task = of.task
    if task is None:
        raise ValueError(
            f"task={of.spec.task}: planning in closed loop needs a known task and its states, of "
            f"{', '.join(TASKS)}; measure your own by lewm.evaluate_env, or give --goal to plan once from a frame"
        )
    protocol, report = of.config.eval.protocol, {}
    if goal is None:
        starts = draw_starts(of, task)
        judge = reaches(task, starts, protocol)
    else:
        aimed = aim(
            goal,
            lambda rule: draw_starts(of, task, rule),
            task,
            of.store,
            lambda wanted: state_reader(of, goal, wanted, progress=progress),
            rule=task.rule(protocol),
        )
        starts, judge, report = aimed.starts, aimed.judge, {"goal": aimed.report}
    with show_progress(progress) as stage, stage("planning", decisions(of.config)) as tick:
        count = 0 if video is None else min(EXAMPLES, len(starts.index))
        planning, loop, policy = _run_model(of, task, starts, judge, tick, record=count)
    planning |= report
    if video is not None:
        library = _library(of)
        recording = _record(of, task, starts, loop, policy, library)
        name = "goal" if goal is None else f"goal {goal}"
        write_video(video, recording, of.store.frames[library.index], goal=name)
    return finite(planning)


def require_actions(of: Evaluation) -> None:
    """Check that a run can plan at all.

    Raises:
        ValueError: If it was trained on images, or is a policy.
    """
    if not of.config.model.plans:
        raise ValueError(
            f"run={of.run}: is a policy of the family {of.config.model.family}, which makes no plans; measure it by "
            f"`lewm eval {of.run}`"
        )
    if of.config.action.kind == "none":
        raise ValueError(
            f"run={of.run}: was trained on images, which have no actions to plan; train on episodes, from its encoder "
            f"by --train.encoder-from {of.run}"
        )


def state_reader(of: Evaluation, text: str, goal: StateGoal | RegionGoal, *, progress: bool) -> StateGoalReader:
    """Fit the probe that reads a goal, given by a user as `text`, from representations; the store has states."""
    data, device = probe_set(of), of.model.device
    assert data is not None

    def encode(frames: NDArray[np.uint8]) -> Tensor:
        return encode_frames(of.model.encode, frames, device)

    with show_progress(progress) as stage, stage("probe", 1):
        return read_goal(text, goal, data, encode, device=device, seed=of.config.seed)


def decisions(config: Config) -> int:
    """Return how often an episode is planned in, at most."""
    return math.ceil(config.eval.budget / (config.plan.execute * config.data.frame_skip))


def describe(of: Evaluation) -> dict[str, Any]:
    """Return what `eval.json` says of the run, the machine and the data."""
    config, store = of.config, of.store
    return {
        "preset": config.preset,
        "seed": config.seed,
        "protocol": config.eval.protocol,
        "machine": machine(of.model.device),
        "data": {
            "task": of.spec.task,
            "episodes": {"train": len(of.train), "held_out": len(of.held_out)},
            "frame_skip": config.data.frame_skip,
            "state_names": list(store.meta.state_names),
        },
    }


@dataclass(frozen=True, slots=True)
class Library:
    """Held-out frames, in which the neighbours of predictions are looked for.

    Args:
        index: (L,) indices in the store.
        tokens: (L, N, D) the target encoder's representations, in whose space predictions live.
    """

    index: NDArray[np.int64]
    tokens: Tensor


def _library(of: Evaluation) -> Library:
    index = draw_frames(of.store, of.held_out, HELD_OUT_FRAMES, seed=of.config.seed)
    return Library(index, encode_frames(of.model.encode_target, of.store.frames[index], of.model.device))


def _measure_representation(of: Evaluation) -> tuple[dict[str, Any], dict[str, NDArray], Library]:
    """Measure the spectrum; also collect what the report draws of it, and the library."""
    model, store, library = of.model, of.store, _library(of)
    index = library.index
    tokens = encode_frames(model.encode, store.frames[index], model.device)
    spectrum = spectrum_report(tokens)
    points, share = _project(tokens)
    arrays: dict[str, NDArray] = {
        "spectrum": spectrum.spectrum.numpy(),
        "projection": points,
        "projection_share": share,
    }
    if store.states is not None:
        arrays |= {"projection_states": store.states[index], "state_names": np.array(store.meta.state_names)}
    results = describe(of)
    results |= {
        "spectrum": {
            "effective_rank": spectrum.effective_rank,
            "content_rank": spectrum.content_rank,
            "condition_number": spectrum.condition_number,
            "content_share": spectrum.content_share,
            "feature_std": spectrum.feature_std,
        },
    }
    return results, arrays, library


def _measure_prediction(of: Evaluation, library: Library) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Measure rollouts; also collect what the report draws of them."""
    config, model, store = of.config, of.model, of.store
    train = draw_frames(store, of.train, min(MEAN_FRAMES, config.eval.probe_frames), seed=config.seed)
    mean = encode_frames(model.encode_target, store.frames[train], model.device).mean(0)
    sampler, clips, horizons = prediction_clips(
        store,
        of.held_out,
        horizons=config.eval.horizons,
        history=config.model.history,
        frame_skip=config.data.frame_skip,
        count=config.eval.clips,
        seed=config.seed,
    )
    prediction = measure_prediction(model, sampler, clips, horizons=horizons, mean=mean)

    chosen = clips[np.linspace(0, len(clips) - 1, min(EXAMPLES, len(clips))).astype(np.int64)]
    examples = sampler.clips(chosen)
    predicted = roll_out_clips(model, examples.frames, examples.actions, config.model.history)
    steps = np.array(horizons)
    shown = predicted[:, torch.from_numpy(steps - 1).to(model.device)]
    arrays: dict[str, NDArray] = {
        "rollout_start": examples.frames[:, config.model.history - 1],
        "rollout_horizon": steps,
        "rollout_real": examples.frames[:, config.model.history - 1 + steps],
        "rollout_nearest": store.frames[
            library.index[nearest(shown.flatten(0, 1), library.tokens).cpu().numpy()]
        ].reshape(*shown.shape[:2], *store.frames.shape[1:]),
    }
    return dataclasses.asdict(prediction), arrays


def _fresh_encoder(of: Evaluation) -> Callable[[Tensor], Tensor]:
    """Return an encoder with random weights, other ones than training started from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(of.config.seed + 1)
        return of.model.fresh_encoder()


def _measure_classes(of: Evaluation) -> dict[str, Any] | None:
    config, store, device = of.config, of.store, of.model.device
    if store.states is None or store.meta.state_names != (LABEL,):
        return None

    def draw(episodes: NDArray[np.int64], count: int) -> LabelledImages:
        index = draw_frames(store, episodes, count, seed=config.seed)
        return LabelledImages(store.frames[index], labels[index].astype(np.int64), episode_of(store, index))

    labels, fresh = store.states[:, 0], _fresh_encoder(of)
    report = measure_classes(
        draw(of.train, config.eval.probe_frames),
        draw(of.held_out, HELD_OUT_FRAMES),
        lambda frames: encode_frames(of.model.encode, frames, device),
        lambda frames: encode_frames(fresh, frames, device),
        seed=config.seed,
    )
    return None if report is None else dataclasses.asdict(report)


def probe_set(of: Evaluation) -> ProbeSet | None:
    """Draw what probes are fitted to and measured on; None when the store has no states."""
    config, store, states = of.config, of.store, of.store.states
    if states is None:
        return None
    train = draw_frames(store, of.train, config.eval.probe_frames, seed=config.seed)
    test = draw_frames(store, of.held_out, HELD_OUT_FRAMES, seed=config.seed)
    return ProbeSet(
        train_frames=store.frames[train],
        train_states=states[train],
        train_episode=episode_of(store, train),
        test_frames=store.frames[test],
        test_states=states[test],
        names=store.meta.state_names,
        turns=full_turns(
            store.meta.state_names, states, starts=store.episodes.start, known=None if of.task is None else RADIANS
        ),
    )


def _measure_probes(of: Evaluation) -> ProbeReport | None:
    data, device = probe_set(of), of.model.device
    if data is None:
        return None
    fresh = _fresh_encoder(of)
    return measure_probes(
        data,
        lambda frames: encode_frames(of.model.encode, frames, device),
        lambda frames: encode_frames(fresh, frames, device),
        seed=of.config.seed,
    )


def _measure_cost(of: Evaluation) -> CostReport:
    task = of.task
    learnt = {} if of.learnt is None else {"steps_to_go": of.learnt}
    return measure_cost(
        of.model,
        DISTANCES | learnt,
        of.store,
        of.held_out,
        distance=None if task is None else task.distance,
        planning=of.config.plan.cost,
        goal_offset=of.config.eval.goal_offset,
        count=PAIRS,
        seed=of.config.seed,
    )


def _measure_pose(of: Evaluation, task: Task) -> dict[str, Any] | None:
    assert of.store.states is not None
    states = of.store.states[draw_frames(of.store, of.held_out, FRAMES, seed=of.config.seed)]
    measured = measure_pose_sensitivity(
        task, states, lambda frames: encode_frames(of.model.encode, frames, of.model.device), seed=of.config.seed
    )
    if measured is None:
        return None
    pose = dataclasses.asdict(measured)
    return pose | {"verdict": pose_verdict(pose)}


def draw_starts(of: Evaluation, task: Task, rule: Rule | None = None) -> Starts:
    """Draw the closed loop's starts by the protocol, and by its rule for the task if no other is given.

    Starts that come with the model are taken as they are, from the first on, unless the rule is another.
    """
    settings = of.config.eval
    if of.starts is not None and rule is None:
        return of.starts.first(settings.episodes)
    return make_starts(
        of.store,
        of.held_out,
        count=settings.episodes,
        goal_offset=settings.goal_offset,
        seed=of.config.seed,
        protocol=settings.protocol,
        rule=rule or task.rule(settings.protocol),
    )


def _starts_text(of: Evaluation, starts: Starts) -> str:
    return starts_text(starts, of.store, protocol=of.config.eval.protocol, seed=of.config.seed)


def _run_model(
    of: Evaluation, task: Task, starts: Starts, judge: Judge, tick: Tick, *, record: int
) -> tuple[dict[str, Any], Loop, ModelPolicy]:
    """Run the model, the random policy and the straight way from the same starts, and sum up."""
    policy = ModelPolicy(
        of.model, of.config, task, starts, of.space, cost=of.learnt, proposal=of.proposal, record=record
    )
    planning, loop = measure_policy(of, task, starts, judge, policy, tick)
    planning |= {
        "seconds_per_plan": policy.seconds / policy.plans,  # of one environment, planned in a batch
        "plans": policy.decisions,
        **dataclasses.asdict(of.config.plan),
    }
    if starts.region is not None:
        planning["cost"] = "region"  # what the plans were judged by
    return planning, loop, policy


def measure_policy(
    of: Evaluation, task: Task, starts: Starts, judge: Judge, policy: Policy, tick: Tick | None = None
) -> tuple[dict[str, Any], Loop]:
    """Run a policy, the random one and the straight way from the same starts; returns the rates, and its loop."""
    config = of.config
    loop = _loop(of, task, starts, policy, judge, tick)
    chance = _loop(of, task, starts, random_policy(task, seed=config.seed, length=config.eval.budget), judge, None)
    return {
        "planner": config.plan.planner,
        "protocol": config.eval.protocol,
        "episodes": len(starts.index),
        "start_episodes": len(np.unique(starts.episodes(of.store))),
        "start_candidates": starts.candidates,
        "presolved": starts.presolved,
        "starts_left_out": starts.left_out,
        "starts_sha256": digest(_starts_text(of, starts)),
        **_rate(loop.success),
        **_rate(chance.success, "random_"),
        "solved_at_start": float(judge(starts.state[:, None]).mean()),
        **_by_start(of, task, starts, judge, {"": loop, "random_": chance}),
        "goal_offset": config.eval.goal_offset,
        "budget": config.eval.budget,
    }, loop


def _by_start(of: Evaluation, task: Task, starts: Starts, judge: Judge, loops: Mapping[str, Loop]) -> dict[str, Any]:
    """Tell starts apart by what they ask for, and give the success of each kind, for every loop under its prefix.

    All is None where the goal is a region, to which no way is straight.
    """
    if np.isnan(starts.goal_state).any():
        return dict.fromkeys(("straight_success_rate", "straight_ci95", "by_start"))
    straight = run_closed_loop(
        task, starts, straight_policy(task, starts), judge, budget=of.config.eval.budget, frame_skip=1
    ).success
    nothing = judge(starts.state[:, None])[:, 0]
    kinds = {"nothing": nothing, "straight": straight & ~nothing, "hard": ~straight & ~nothing}
    by_start: dict[str, Any] = {}
    for name, chosen in kinds.items():
        by_start[name] = {"count": int(chosen.sum())}
        for prefix, loop in loops.items():
            by_start[name] |= _rate(loop.success[chosen], prefix)
    return _rate(straight, "straight_") | {"by_start": by_start}


def _rate(success: NDArray[np.bool_], prefix: str = "") -> dict[str, Any]:
    """Return the success rate and its interval, None if there are no episodes."""
    count = len(success)
    rate = float(success.mean()) if count else None
    interval = list(wilson_interval(int(success.sum()), count)) if count else None
    return {f"{prefix}success_rate": rate, f"{prefix}ci95": interval}


def _measure_planning(
    of: Evaluation, task: Task, starts: Starts, library: Library, probe: ProbeReport | None, tick: Tick
) -> tuple[dict[str, Any], dict[str, NDArray], NDArray[np.bool_]]:
    """Plan in closed loop; also record some episodes, with what their plans were imagined to lead through."""
    count = min(EXAMPLES, len(starts.index))
    judge = reaches(task, starts, of.config.eval.protocol)
    planning, loop, policy = _run_model(of, task, starts, judge, tick, record=count)
    recording = _record(of, task, starts, loop, policy, library)
    # Of the library, only the frames that something was nearest to are kept.
    unique, renumbered = np.unique(recording.plan_row, return_inverse=True)
    arrays: dict[str, NDArray] = {
        "episode_frames": recording.frames,
        "episode_cost": recording.cost,
        "episode_states": loop.states[:count],
        "episode_goal_frame": starts.goal_frame[:count],
        "episode_goal_state": starts.goal_state[:count],
        "episode_solved_at": recording.solved_at,
        "episode_plan_step": recording.plan_step,
        "episode_imagined_nearest": renumbered.reshape(recording.plan_row.shape),
        "episode_library": of.store.frames[library.index[unique]],
    }
    if probe is not None:
        read = probe.linear(policy.recorded().flatten(3))
        arrays["episode_imagined_states"] = read.numpy()
        arrays |= episode_places(task, starts, loop, read, probe.names)
    return planning, arrays, loop.success


def _record(of: Evaluation, task: Task, starts: Starts, loop: Loop, policy: ModelPolicy, library: Library) -> Recording:
    stride = of.config.plan.execute * of.config.data.frame_skip
    return record_episodes(of.model, task, starts, loop, policy.recorded(), library.tokens, of.cost, stride=stride)


def _measure_split(
    of: Evaluation, task: Task, starts: Starts, success: NDArray[np.bool_], tick: Tick
) -> dict[str, Any]:
    """Run the planner alone and the cost alone from the first of the same starts, beside the model's `success`."""
    config, some = of.config, starts.first(of.config.eval.split_episodes)
    count, space, plan = len(some.index), of.space, config.plan
    if plan.planner == "proposal":  # which has no search of its own
        plan = dataclasses.replace(plan, planner="cem")
    policies = {
        "planner_alone": planner_alone(task, some, space, plan, seed=config.seed),
        "cost_alone": cost_alone(of.model, of.cost, task, some, space, plan, seed=config.seed),
    }
    judge = reaches(task, some, config.eval.protocol)
    reached = {name: _loop(of, task, some, policy, judge, tick).success for name, policy in policies.items()}
    reached["model"] = success[:count]
    results: dict[str, Any] = {"split_episodes": count}
    for name, solved in reached.items():
        results[f"{name}_success"] = float(solved.mean())
        results[f"{name}_ci95"] = list(wilson_interval(int(solved.sum()), count))
    return results


def _loop(of: Evaluation, task: Task, starts: Starts, policy: Policy, judge: Judge, tick: Tick | None) -> Loop:
    budget, frame_skip = of.config.eval.budget, of.config.data.frame_skip
    return run_closed_loop(task, starts, policy, judge, budget=budget, frame_skip=frame_skip, tick=tick)


def _project(tokens: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Project flattened representations (M, N, D) on their first two principal components, (M, 2), and their shares."""
    x = tokens.flatten(1).cpu()
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh((x @ x.T).double())  # of the smaller side: frames, not features
    values = values.clamp_min(0.0).flip(0)
    points = vectors.flip(1)[:, :2] * values[:2].sqrt()
    return points.float().numpy(), (values[:2] / values.sum().clamp_min(1e-30)).float().numpy()


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine that numbers were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@contextmanager
def show_progress(show: bool) -> Iterator[Callable[..., Any]]:
    """Show the stages of an evaluation; yields `stage(name, total)`, whose context yields a tick."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} in"))
    times = (TimeElapsedColumn(), TextColumn("|"), TimeRemainingColumn(), TextColumn("left"))
    with progress_bars(*columns, *times, show=show) as bars:

        @contextmanager
        def stage(name: str, total: int) -> Iterator[Tick]:
            bar = bars.add_task(name, total=total)
            yield lambda: bars.advance(bar)
            bars.update(bar, completed=total)

        yield stage


def finite(value: Any) -> Any:
    """Replace numbers that JSON has no form for by None, in nested dictionaries and lists."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
