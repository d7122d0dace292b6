"""Train a rival as the package's own model is trained, and measure it in the same way."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from lewm.config import Config
from lewm.data.sampler import ClipSampler
from lewm.data.store import Store, split_episodes
from lewm.device import resolve_device
from lewm.envs import make_task
from lewm.evaluate import Evaluation
from lewm.evaluate.run import has_simulator
from lewm.progress import progress_bars
from lewm.rivals.dreamer import Dreamer
from lewm.rivals.gcbc import GCBC
from lewm.rivals.rival import Rival
from lewm.rivals.swm import SWMLeWM
from lewm.rivals.tdmpc2 import TDMPC2
from lewm.train.checkpoint import with_data
from lewm.train.describe import spec_of
from lewm.train.loop import NonFiniteLossError, action_moments, check_store, training_part
from lewm.train.schedule import learning_rate, make_optimizer

RIVALS: dict[str, type[Rival]] = {rival.name: rival for rival in (TDMPC2, Dreamer, GCBC, SWMLeWM)}


def run_rival(name: str, config: Config, data: str | Path, *, progress: bool = False) -> dict[str, Any]:
    """Train a rival on a store and evaluate it on the held-out episodes.

    Split, clips, batch size, steps, learning rate, weight decay and seed are those of `lewm train` with the same
    settings, but for what a rival's `train_config` replaces. Of `config.model`, the image size counts, and the sizes as
    the rival's number of weights; of `config.loss`, nothing.

    Args:
        name: One of `RIVALS`.
        config: Settings of the run; the actions' kind and size are filled in from the store.
        data: Store.
        progress: Show progress on standard error.

    Returns:
        The content of `eval.json`, with None for what does not apply; `parameters`, the weights that training moved;
        and `train_seconds`.

    Raises:
        ValueError: If there is no such rival, the store and the settings do not fit, or episodes are too short.
        NonFiniteLossError: If the loss is no longer finite.
    """
    if name not in RIVALS:
        raise ValueError(f"rival={name}: must be one of {', '.join(RIVALS)}; choose one of them")
    store = Store(data)
    config = with_data(config, store)
    check_store(store, config)
    if config.action.kind == "none":
        raise ValueError(f"data={data}: has images without actions, which no rival learns from; give episodes")
    train, held_out = split_episodes(store.num_episodes, held_out=config.data.held_out, seed=config.data.split_seed)
    torch.manual_seed(config.seed)
    model = RIVALS[name](config)
    began = time.perf_counter()
    train_rival(model, store, training_part(train, config.data), progress=progress)
    seconds = time.perf_counter() - began
    spec = spec_of(store, config)
    task = make_task(spec.task, spec.image_size) if has_simulator(spec, store) else None
    # a policy has less than a `FrameModel`, and measures only what it has
    of = Evaluation(Path(name), config, model, store, train, held_out, task, spec)  # pyright: ignore[reportArgumentType]
    return model.evaluate(of, progress=progress) | {"parameters": model.num_parameters, "train_seconds": seconds}


def train_rival(model: Rival, store: Store, episodes: np.ndarray, *, progress: bool = False) -> list[float]:
    """Train a rival in place, fit what comes after, and return the loss of every step.

    Raises:
        NonFiniteLossError: If the loss is no longer finite.
    """
    config, cfg = model.config, model.train_config
    device = resolve_device(config.device)
    sampler = ClipSampler(
        store,
        episodes,
        clip_frames=model.clip_frames,
        frame_skip=config.data.frame_skip,
        batch_size=cfg.batch_size,
        seed=config.seed,
    )
    if config.action.kind == "continuous":
        model.action_vector.standardise(*action_moments(store, episodes))
    model.to(device).train()
    optimizer = make_optimizer(model, cfg)
    curve = []
    with progress_bars(*Progress.get_default_columns(), show=progress) as bars:
        bar = bars.add_task(f"train {model.name}", total=cfg.steps)
        for step in range(cfg.steps):
            torch.manual_seed(np.random.SeedSequence((config.seed, step)).generate_state(1).item())
            clips = sampler.batch(step)
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bfloat16"):
                loss = model.losses(clips, store)["loss"]
            take_step(optimizer, loss, clip_norm=cfg.clip_norm, learning_rate=learning_rate(step, cfg), step=step + 1)
            curve.append(loss.item())
            bars.advance(bar)
    model.eval()
    model.finish(store, episodes)
    return curve


def take_step(
    optimizer: torch.optim.Optimizer, loss: Tensor, *, clip_norm: float, learning_rate: float, step: int
) -> None:
    """Take one clipped gradient step.

    Raises:
        NonFiniteLossError: If the loss or its gradient is not finite; no weight has changed then.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise NonFiniteLossError(
            f"loss={loss.item()}: not finite at step {step} with learning rate {learning_rate:.3g} (gradient norm "
            f"{norm.item():.3g}); lower train.learning_rate"
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
