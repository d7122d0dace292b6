"""The training run: batches in, checkpoints and metrics out; stopped and resumed at any moment."""

import dataclasses
import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lewm.config import Config, DataConfig, TrainConfig
from lewm.data.sampler import ClipSampler
from lewm.data.store import Store, split_episodes
from lewm.data.store_files import remove_empty
from lewm.device import resolve_device
from lewm.distributed import any_rank, rank, world_size
from lewm.files import check_folder, plain_os_error, shorten, write_text
from lewm.model import WorldModel
from lewm.model.mask import sample_context
from lewm.objective import make_regulariser
from lewm.objective.spectrum import spectrum_report
from lewm.progress import progress_bars
from lewm.run_spec import SPEC, save_spec
from lewm.train.batches import batches_on
from lewm.train.checkpoint import (
    CONFIG,
    DIVERGED,
    LOCK,
    METRICS,
    REACHED,
    STATE,
    WEIGHTS,
    check_room,
    load_config,
    load_encoder,
    load_state,
    save_config,
    save_state,
    save_weights,
    with_data,
)
from lewm.train.describe import spec_of
from lewm.train.reached import Reached, measure_reached
from lewm.train.schedule import ema_momentum, learning_rate, make_optimizer, regulariser_weight
from lewm.train.step import train_step
from lewm.train.steps_to_go import fit_steps_to_go

DIAGNOSTICS = 50  # measurements of the spectrum in a run
DIAGNOSTIC_FRAMES = 256
FETCH_EVERY = 20  # steps between two looks at the scalars where a look waits for the device
_NAMED_CLIPS = 4  # of a batch that diverged
_KEPT = "the run goes on from its last checkpoint"


@dataclass(frozen=True, slots=True)
class _Step:
    """A step whose scalars may still be under way."""

    number: int
    out: dict[str, Tensor]
    index: NDArray[np.int64]


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient is not a finite number."""


def train(config: Config, data: str | Path, run: str | Path, *, progress: bool = True) -> None:
    """Train a world model on a store into a new run folder.

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
        raise ValueError(
            f"model.image_size={config.model.image_size}: the frames of {store.path} are {size} px; "
            f"use --model.image-size {size}"
        )
    if (store.meta.action_kind, store.meta.action_size) != (config.action.kind, config.action.size):
        raise ValueError(
            f"action={config.action.kind} of size {config.action.size}: the actions of {store.path} are "
            f"{store.meta.action_kind} of size {store.meta.action_size}; use the store that the run was started with"
        )


def _run(config: Config, store: Store, run: Path, *, progress: bool) -> None:
    with _locked(run):
        try:
            _take_steps(config, store, run, progress=progress)
        except NonFiniteLossError:
            if rank() == 0:
                _set_aside(run)
            raise


def _take_steps(config: Config, store: Store, run: Path, *, progress: bool) -> None:
    device, train_cfg, past = resolve_device(config.device), config.train, config.model.history
    episodes, held_out = split_episodes(store.num_episodes, held_out=config.data.held_out, seed=config.data.split_seed)
    episodes = training_part(episodes, config.data)
    sampler = ClipSampler(
        store,
        episodes,
        clip_frames=past + train_cfg.rollout_steps,
        frame_skip=config.data.frame_skip,
        batch_size=train_cfg.batch_size,
        seed=config.seed,
        rank=rank(),
        world_size=world_size(),
    )
    torch.manual_seed(config.seed)
    model = WorldModel(config)
    if train_cfg.encoder_from and not (run / STATE).is_file():  # a checkpoint has gone on from there
        load_encoder(model, Path(train_cfg.encoder_from))
    if rank() == 0:
        check_room(run, model)
    # only now: settings that do not fit leave no folder behind, and no other process trains the run
    if rank() == 0:
        if not ((run / CONFIG).exists() and (run / SPEC).exists()):
            save_spec(run, spec_of(store, config))
        if not ((run / CONFIG).exists() and load_config(run) == config):
            save_config(run, config)
    if config.action.kind == "continuous":
        model.action_embed.standardise(*action_moments(store, episodes))
    model.to(device).train()
    optimizer = make_optimizer(model, train_cfg)
    regulariser = make_regulariser(config.loss, config.model.num_tokens)
    done = load_state(run, model, optimizer)
    batches = batches_on(device, sampler)
    if config.train.compile:
        for module in (model.encoder, model.target_encoder, model.predictor):
            module.compile()
    probe_frames = _frames_of(store, held_out, DIAGNOSTIC_FRAMES, config.seed)

    with _Metrics(run, done) as metrics, _stop_on_signals() as stopped, _bar(progress) as bar:
        task = bar.add_task("train", total=train_cfg.steps, completed=done, loss="")
        pending: list[_Step] = []
        fetch_every = FETCH_EVERY if optimizer.defaults["fused"] else 1
        for step in range(done, train_cfg.steps):
            # everything random is a function of the seed and the step: resuming needs no generator's state
            seed = np.random.SeedSequence((config.seed, step)).generate_state(1).item()
            torch.manual_seed(seed)
            batch = batches(step)
            context_idx = None
            if config.mask.full_context_prob < 1:
                generator = torch.Generator().manual_seed(seed)
                context_idx = sample_context(config.mask, config.model.grid, train_cfg.batch_size, generator)
            if context_idx is not None:
                context_idx = context_idx.chunk(world_size())[rank()].to(device)
            seen = 1 + seed % past  # as many context frames as there are early in an episode, up to all
            out = train_step(
                model,
                optimizer,
                batch.frames[:, past - seen :],
                batch.actions[:, past - seen :],
                context_idx,
                regulariser,
                config,
                learning_rate=learning_rate(step, train_cfg),
                momentum=ema_momentum(step, train_cfg),
                weight=regulariser_weight(step, config),
            )
            pending.append(_Step(step, out, batch.index))
            last, save = step + 1 == train_cfg.steps, (step + 1) % train_cfg.checkpoint_every == 0
            diagnose = (step + 1) % max(1, train_cfg.steps // DIAGNOSTICS) == 0
            if not (last or save or diagnose or len(pending) == fetch_every):
                continue
            for row, index in _fetch(pending, train_cfg):
                if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                    metrics.flush()
                    raise NonFiniteLossError(_describe_divergence(row, index, run))
                if diagnose and row["step"] == step + 1:
                    row |= _diagnose(model, probe_frames)
                metrics.write(row)
                bar.update(task, completed=row["step"], loss=f"loss {row['loss']:.4f}")
            pending = []
            stop = any_rank(stopped() is not None, device)
            if last or stop or save:
                metrics.flush()
                if rank() == 0:
                    save_state(run, model, optimizer, step + 1)
            if stop and not last:
                _stop(stopped(), f"stopped at step {step + 1}; go on with `lewm train --resume {run}`")

        if config.train.cost_steps and rank() == 0:
            task = bar.add_task("cost", total=config.train.cost_steps, loss="")

            def on_step() -> None:
                bar.update(task, advance=1)
                if stopped() is not None:
                    _stop(stopped(), f"stopped before the cost was learnt; go on with `lewm train --resume {run}`")

            fit_steps_to_go(model, store, episodes, config, on_step=on_step)
            save_weights(run, model)
        if config.action.kind != "none" and rank() == 0:
            reached = measure_reached(model.eval(), store, held_out, config)
            if reached is not None:
                _save_reached(run, reached, config)


def _save_reached(run: Path, reached: Reached, config: Config) -> None:
    """Write into a run when a goal counts as reached, and how often that is wrong."""
    write_text(run / REACHED, json.dumps(dataclasses.asdict(reached), indent=2) + "\n")
    if config.plan.reached_below is None:
        save_config(
            run, dataclasses.replace(config, plan=dataclasses.replace(config.plan, reached_below=reached.below))
        )


def _fetch(steps: list[_Step], train_cfg: TrainConfig) -> Iterator[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Yield each step's row of metrics, and the first frames of its clips; all scalars come in one transfer."""
    values = torch.stack([torch.stack(list(step.out.values())) for step in steps]).tolist()
    for step, numbers in zip(steps, values, strict=True):
        row = {"step": step.number + 1} | dict(zip(step.out, numbers, strict=True))
        row |= {"learning_rate": learning_rate(step.number, train_cfg)}
        yield row | {"ema_momentum": ema_momentum(step.number, train_cfg)}, step.index


def training_part(episodes: np.ndarray, data: DataConfig) -> np.ndarray:
    """Return the part of the training episodes (E,) that `data.train_share` leaves, the same for every run."""
    if data.train_share == 1:
        return episodes
    count = max(1, round(data.train_share * len(episodes)))
    return np.sort(np.random.default_rng(data.split_seed).permutation(episodes)[:count])


def action_moments(store: Store, episodes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (A,) of the actions of some episodes."""
    total, square, count = 0.0, 0.0, 0
    for episode in episodes.tolist():
        actions = np.asarray(store.actions[store.episode(episode)], dtype=np.float64)
        total, square, count = total + actions.sum(0), square + (actions**2).sum(0), count + len(actions)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _frames_of(store: Store, episodes: np.ndarray, count: int, seed: int) -> Tensor:
    """Draw some frames (M, height, width, 3) of some episodes."""
    index = np.concatenate([np.r_[store.episode(episode)] for episode in episodes.tolist()])
    chosen = np.random.default_rng(seed).choice(index, min(count, len(index)), replace=False)
    return torch.from_numpy(store.frames[np.sort(chosen)])


@torch.no_grad()
def _diagnose(model: WorldModel, frames: Tensor) -> dict[str, float]:
    """Measure the spectrum of the inference representation on held-out frames."""
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


def _set_aside(run: Path) -> None:
    """Move what a diverged run left into a folder of its own, so that the same command can be given again."""
    shutil.rmtree(run / DIVERGED, ignore_errors=True)
    for name in (CONFIG, SPEC, METRICS, WEIGHTS, STATE, "tensorboard"):
        if (run / name).exists():
            (run / DIVERGED / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(run / name, run / DIVERGED / name)


@contextmanager
def _locked(run: Path) -> Iterator[None]:
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


class _Metrics:
    """Write one JSON object a step to `metrics.jsonl`, and the same to TensorBoard; only on rank 0."""

    def __init__(self, run: Path, done: int) -> None:
        self._path, self._rows = run / METRICS, []
        if rank() != 0:
            return
        # rows beyond the checkpoint will be written again; the last one may be cut short
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.is_file() else []
        kept = [line for line in lines if line.endswith("\n")][:done]
        if len(kept) < done:
            raise ValueError(f"{self._path}: has {len(kept)} rows and the checkpoint {done} steps; restore the file")
        write_text(self._path, "".join(kept))
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def __enter__(self) -> "_Metrics":
        return self

    def __exit__(self, *exception: object) -> None:
        if rank() == 0:
            self.flush()
            with plain_os_error(self._path.parent, _KEPT):
                self._writer.close()

    def write(self, row: dict[str, Any]) -> None:
        if rank() != 0:
            return
        self._rows.append(row)
        if len(self._rows) >= 20:
            self.flush()

    def flush(self) -> None:
        """Bring all rows to disk; a checkpoint must not be ahead of them."""
        if rank() != 0:
            return
        rows, self._rows = self._rows, []  # given up if they cannot be written: a resumed run makes them again
        with plain_os_error(self._path, _KEPT):
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        self._writer.add_scalar(name, value, row["step"])


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that tells which of SIGTERM and Ctrl-C has come; the step under way is finished first.

    A second Ctrl-C does not wait for it.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python lets no handler be set
        yield lambda: None
        return

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    numbers = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before: dict[int, Any] = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int | None, message: str) -> NoReturn:
    """End by what came; on another process of the same run nothing may have come."""
    raise KeyboardInterrupt(message) if number == signal.SIGINT else SystemExit(message)


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
