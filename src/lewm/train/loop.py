"""The training run of any family: batches in, checkpoints and metrics out; stopped and resumed at any moment."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lewm.config import Config, DataConfig
from lewm.data.sampler import ClipSampler
from lewm.data.store import Store
from lewm.device import resolve_device
from lewm.distributed import any_rank, rank, world_size
from lewm.families.family import Family, WorldModel, family_of, make_model
from lewm.files import shorten, write_text
from lewm.objective.spectrum import spectrum_report
from lewm.plan.cost import planning_cost
from lewm.plan.steps_to_go import StepsToGo
from lewm.progress import progress_bars
from lewm.run_spec import SPEC, save_spec
from lewm.train.batches import Batches, batches_on
from lewm.train.checkpoint import (
    CONFIG,
    COST,
    DIVERGED,
    REACHED,
    STATE,
    check_room,
    load_config,
    load_cost,
    load_encoder,
    load_state,
    save_config,
    save_cost,
    save_state,
    with_data,
)
from lewm.train.describe import spec_of
from lewm.train.fit_steps_to_go import fit_steps_to_go
from lewm.train.metrics import Metrics
from lewm.train.reached import Reached, measure_reached
from lewm.train.run_lock import locked, set_aside
from lewm.train.schedule import learning_rate, make_optimizer
from lewm.train.step import train_step
from lewm.train.stopping import stop, stop_on_signals

DIAGNOSTICS = 50  # measurements of the spectrum in a run
DIAGNOSTIC_FRAMES = 256
FETCH_EVERY = 20  # steps between two looks at the scalars where a look waits for the device
_NAMED_CLIPS = 4  # of a batch that diverged


@dataclass(frozen=True, slots=True)
class _Step:
    """A step whose scalars may still be under way."""

    number: int
    out: dict[str, Tensor]
    told: dict[str, float]
    index: NDArray[np.int64]


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient is not a finite number."""


def train(config: Config, data: str | Path, run: str | Path, *, progress: bool = True) -> None:
    """Train a world model on a store into a new run folder.

    Args:
        config: Settings, as `lewm.preset` gives them; what they leave open is filled in from the store.
        data: Store.
        run: Run folder; made if missing.
        progress: Show progress and the time left on standard error.

    Raises:
        ValueError: If the store and the settings do not fit, or the run folder is already in use or cannot be written,
            or the disk has no room for its checkpoints.
        NonFiniteLossError: If the loss is no longer finite; what there was is then in the folder's `diverged`.
        KeyboardInterrupt: If Ctrl-C came; a checkpoint was saved, as it is when SIGTERM ends the process.
    """
    data, run = Path(data), Path(run)
    if rank() == 0 and (run / CONFIG).exists():  # by the time that another rank looks, rank 0 may have written it
        raise ValueError(f"run={run}: is a run already; use `lewm train --resume {run}` or another --out")
    store = Store(data)
    config = with_data(config, store)
    check_store(store, config)
    _run(config, store, run, progress=progress)


def resume(run: str | Path, *, data: str | Path | None = None, progress: bool = True) -> None:
    """Go on from a run's last checkpoint; the loss curve is that of a run that was never stopped.

    Args:
        run: Run folder.
        data: New place of the store, if it was moved; the run remembers it.
        progress: Show progress on standard error.

    Raises:
        ValueError: If the folder is no run, its store is gone or has changed, or another process trains it.
        NonFiniteLossError: As in `train`.
        KeyboardInterrupt: As in `train`.
    """
    run = Path(run)
    config = load_config(run)
    if data is None and not (config.data.path and Path(config.data.path).is_dir()):
        raise ValueError(
            f"data.path={config.data.path}: the store that {run} was started with is not there; if it was moved, give "
            "its new place, --data DIR"
        )
    store = Store(config.data.path if data is None else data)
    if data is not None and store.meta.image_size != config.model.image_size:
        raise ValueError(
            f"data={data}: has frames of {store.meta.image_size} px, and {run} was started with "
            f"{config.model.image_size} px; give the same store, or train a new run"
        )
    check_store(store, config)
    if data is not None:
        config = _moved(config, store, run)
    _run(config, store, run, progress=progress)


def _moved(config: Config, store: Store, run: Path) -> Config:
    """Return the settings with a store's new place, if it is the one that a run was started with."""
    here = with_data(config, store)
    known = {name: value for name, value in dataclasses.asdict(config.action).items() if value is not None}
    if known.items() - dataclasses.asdict(here.action).items():
        raise ValueError(
            f"data={store.path}: its actions are not those that {run} was started with; give the same store, or train "
            "a new run"
        )
    return here


def check_store(store: Store, config: Config) -> None:
    """Check that a store is sound and fits the settings.

    Raises:
        ValueError: If it is damaged, or has frames of another size or other actions.
    """
    store.validate()
    size = store.meta.image_size
    if size != config.model.image_size:
        remedy = f"collect or import them with --image-size {config.model.image_size}"
        with contextlib.suppress(ValueError):  # a size that this family's patches do not divide
            dataclasses.replace(config.model, image_size=size).validate()
            remedy = f"use --model.image-size {size}, or {remedy}"
        raise ValueError(
            f"model.image_size={config.model.image_size}: the frames of {store.path} are {size} px; {remedy}"
        )
    if (store.meta.action_kind, store.meta.action_size) != (config.action.kind, config.action.size):
        raise ValueError(
            f"action={config.action.kind} of size {config.action.size}: the actions of {store.path} are "
            f"{store.meta.action_kind} of size {store.meta.action_size}; use the store that the run was started with"
        )


def _run(config: Config, store: Store, run: Path, *, progress: bool) -> None:
    with locked(run):
        try:
            _take_steps(config, store, run, progress=progress)
        except NonFiniteLossError:
            if rank() == 0:
                set_aside(run)
            raise


def _take_steps(config: Config, store: Store, run: Path, *, progress: bool) -> None:
    device, cfg = resolve_device(config.device), config.train
    all_episodes, held_out = store.split(held_out=config.data.held_out, seed=config.data.split_seed)
    episodes = training_part(all_episodes, config.data)
    config = family_of(config).completed(config, store)
    model = _new_model(config, store, episodes, run).to(device).train()
    inputs = model.inputs(store)
    sampler = ClipSampler(
        inputs,
        episodes,
        clip_frames=config.model.clip_frames,
        frame_skip=config.data.frame_skip,
        batch_size=cfg.batch_size,
        seed=config.seed,
        rank=rank(),
        world_size=world_size(),
    )
    _begin(config, store, run, model)
    optimizer = make_optimizer(model, cfg)
    done = load_state(run, model, optimizer)
    batches = batches_on(device, sampler, goal_within=config.model.goal_within)
    if cfg.compile:
        model.compile_networks()
    with Metrics(run, done) as metrics, stop_on_signals() as stopped, _bar(progress) as bar:
        if done < cfg.steps:
            frames = _frames_of(store, held_out, DIAGNOSTIC_FRAMES, config.seed)
            state = _Training(config, run, model, optimizer, batches, frames, metrics)
            state.take_steps(done, stopped, bar)
        if rank() == 0 and isinstance(model, WorldModel) and config.action.kind != "none":
            finished = done == cfg.steps and (run / COST).is_file()
            cost = load_cost(run, config) if finished else _learn_cost(model, inputs, episodes, run, stopped, bar)
            cost = None if cost is None else cost.to(device)
            reached = measure_reached(model.eval(), planning_cost(config.plan, cost), store, held_out, seed=config.seed)
            if reached is not None:
                save_reached(run, reached, config)


def _begin(config: Config, store: Store, run: Path, model: Family) -> None:
    """Write what the run is into its folder; only now: settings that do not fit leave no folder behind."""
    if rank() == 0:
        check_room(run, model)
        if not ((run / CONFIG).exists() and (run / SPEC).exists()):
            save_spec(run, spec_of(store, config))
        if not ((run / CONFIG).exists() and load_config(run) == config):
            save_config(run, config)


def _new_model(config: Config, store: Store, episodes: np.ndarray, run: Path) -> Family:
    """Build the model, as it is before its first step."""
    torch.manual_seed(config.seed)
    model: Family = make_model(config)
    if config.train.encoder_from and not (run / STATE).is_file():  # a checkpoint has gone on from there
        load_encoder(model, Path(config.train.encoder_from))
    if not config.train.train_encoder:
        model.encoder.requires_grad_(False)
    if config.action.kind == "continuous":
        model.standardise(*action_moments(store, episodes))
    if store.states is not None:
        model.standardise_states(store.meta.state_names, *moments(store, store.states, episodes))
    return model


@dataclass(frozen=True, slots=True)
class _Training:
    """What the steps of a run work on."""

    config: Config
    run: Path
    model: Family
    optimizer: torch.optim.Optimizer
    batches: Batches
    probe_frames: Tensor
    metrics: Metrics

    def take_steps(self, done: int, stopped: Callable[[], int | None], bar: Progress) -> None:
        """Take the steps that are left (Algorithm 1, lines 1-27)."""
        cfg, run, metrics = self.config.train, self.run, self.metrics
        task = bar.add_task("train", total=cfg.steps, completed=done, loss="")
        pending: list[_Step] = []
        fetch_every = FETCH_EVERY if self.optimizer.defaults["fused"] else 1
        for step in range(done, cfg.steps):
            pending.append(self._step(step))
            last, save = step + 1 == cfg.steps, (step + 1) % cfg.checkpoint_every == 0
            diagnose = (step + 1) % max(1, cfg.steps // DIAGNOSTICS) == 0
            if not (last or save or diagnose or len(pending) == fetch_every):
                continue
            for row, index in _fetch(pending):
                if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                    metrics.flush()
                    raise NonFiniteLossError(_describe_divergence(row, index, run))
                if diagnose and row["step"] == step + 1:
                    row |= _diagnose(self.model, self.probe_frames)
                metrics.write(row)
                bar.update(task, completed=row["step"], loss=f"loss {row['loss']:.4f}")
            pending = []
            ends = any_rank(stopped() is not None, self.model.device)
            if last or ends or save:
                metrics.flush()
                if rank() == 0:
                    save_state(run, self.model, self.optimizer, step + 1)
            if ends and not last:
                stop(stopped(), f"stopped at step {step + 1}; go on with `lewm train --resume {run}`")

    def _step(self, step: int) -> "_Step":
        """Take one step. Everything random is a function of the seed and the step: no generator's state is kept."""
        cfg = self.config.train
        seed = np.random.SeedSequence((self.config.seed, step)).generate_state(1).item()
        torch.manual_seed(seed)
        batch = self.batches(step)  # l.1-2
        rate = learning_rate(step, cfg)
        out, told = train_step(
            self.model,
            self.optimizer,
            batch,
            cfg,
            generator=torch.Generator().manual_seed(seed),
            learning_rate=rate,
            share_done=step / max(1, cfg.steps - 1),
        )
        return _Step(step, out, {"learning_rate": rate} | told, batch.index)


def _learn_cost(
    model: WorldModel, store: Store, episodes: np.ndarray, run: Path, stopped: Callable[[], int | None], bar: Progress
) -> StepsToGo | None:
    """Fit the learnt planning cost and write it into the run, if the settings want one."""
    steps = model.config.train.cost_steps
    if not steps:
        return None
    frames, task = bar.add_task("frames", total=None, loss=""), bar.add_task("cost", total=steps, loss="")

    def on_frames(done: int, total: int) -> None:
        bar.update(frames, completed=done, total=total)
        end_if_stopped()

    def on_step() -> None:
        bar.update(task, advance=1)
        end_if_stopped()

    def end_if_stopped() -> None:
        if stopped() is not None:
            stop(stopped(), f"stopped before the cost was learnt; go on with `lewm train --resume {run}`")

    cost = fit_steps_to_go(model, store, episodes, on_step=on_step, on_frames=on_frames)
    save_cost(run, cost)
    return cost


def save_reached(run: Path, reached: Reached, config: Config) -> None:
    """Write into a run when a goal counts as reached, and how often that is wrong."""
    write_text(run / REACHED, json.dumps(dataclasses.asdict(reached), indent=2) + "\n")
    if config.plan.reached_below is None:
        save_config(
            run, dataclasses.replace(config, plan=dataclasses.replace(config.plan, reached_below=reached.below))
        )


def _fetch(steps: list[_Step]) -> Iterator[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Yield each step's row of metrics, and the first frames of its clips; all scalars come in one transfer."""
    values = torch.stack([torch.stack(list(step.out.values())) for step in steps]).tolist()
    for step, numbers in zip(steps, values, strict=True):
        yield {"step": step.number + 1} | dict(zip(step.out, numbers, strict=True)) | step.told, step.index


def training_part(episodes: np.ndarray, data: DataConfig) -> np.ndarray:
    """Return the part of the training episodes (E,) that `data.train_share` leaves, the same for every run."""
    if data.train_share == 1:
        return episodes
    count = max(1, round(data.train_share * len(episodes)))
    return np.sort(np.random.default_rng(data.split_seed).permutation(episodes)[:count])


def action_moments(store: Store, episodes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (A,) of the actions of some episodes."""
    return moments(store, store.actions, episodes)


def moments(store: Store, rows: np.ndarray, episodes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a store's rows, actions or states, in some episodes."""
    total, square, count = 0.0, 0.0, 0
    for episode in episodes.tolist():
        part = np.asarray(rows[store.episode(episode)], dtype=np.float64)
        total, square, count = total + part.sum(0), square + (part**2).sum(0), count + len(part)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _frames_of(store: Store, episodes: np.ndarray, count: int, seed: int) -> Tensor:
    """Draw some frames (M, height, width, 3) of some episodes."""
    index = np.concatenate([np.r_[store.episode(episode)] for episode in episodes.tolist()])
    chosen = np.random.default_rng(seed).choice(index, min(count, len(index)), replace=False)
    return torch.from_numpy(store.frames[np.sort(chosen)])


@torch.no_grad()
def _diagnose(model: Family, frames: Tensor) -> dict[str, float]:
    """Measure the spectrum of the inference representation on held-out frames; a policy has none."""
    if not isinstance(model, WorldModel):
        return {}
    model.eval()
    tokens = torch.cat([model.encode(batch.to(model.device)) for batch in frames.split(64)])
    model.train()
    report = spectrum_report(tokens)
    names = ("effective_rank", "condition_number", "content_share", "feature_std")
    return {name: getattr(report, name) for name in names}


def _describe_divergence(row: dict[str, Any], index: NDArray[np.int64], run: Path) -> str:
    clips = ", ".join(map(str, index[:_NAMED_CLIPS].tolist()))
    return shorten(
        f"loss={row['loss']}: not finite at step {row['step']} with learning rate {row['learning_rate']:.3g} and "
        f"gradient norm {row['grad_norm']:.3g}; lower train.learning_rate, or look at the clips at frames {clips}...; "
        f"the run is now {run / DIVERGED}, and {run.name} is free"
    )


def _bar(progress: bool) -> Progress:
    return progress_bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        show=progress and rank() == 0,
    )
