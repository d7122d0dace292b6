"""Measure what the article times: encoder, predictor step, planning cycle and training, beside a matrix product.

    python benchmarks/timing.py --out benchmarks/results/timing.json
    python benchmarks/timing.py --device cuda

Every time stands beside its count of operations (a multiplication and an addition are two), and their quotient beside
that of a large matrix product in the same run, the most that the machine can be hoped to do in float32, in which all of
it computes but the training step that is named so. On a CPU one thread computes and its processor time counts, so that
work beside it hardly falls on either; elsewhere it is the clock's.

The planning cycle is the article's: one frame encoded, then CEM with 64 candidates, 8 steps and 3 iterations, which
after its last iteration rolls out the mean as well. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lewm.config import Config
from lewm.deploy.processor import has_bfloat16
from lewm.device import resolve_device
from lewm.evaluate.evaluation import machine
from lewm.families.article.settings import ArticleSettings
from lewm.families.family import Batch, make_model
from lewm.families.presets import preset
from lewm.files import write_text
from lewm.plan import ActionSpace, StepsToGo, cem, latent_cost_fn, planning_cost
from lewm.train.schedule import make_optimizer
from lewm.train.step import train_step

CANDIDATES, HORIZON, ITERATIONS = 64, 8, 3  # article, section 8
MATRIX = 2048
IMAGES, EPOCHS = 1_281_167, 300  # of ImageNet-1K's training set, and the article's epochs


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median seconds of some work, after one call that does not count."""

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    work()
    times = []
    for _ in range(repeats):
        begin = now()
        work()
        times.append(now() - begin)
    return statistics.median(times)


def operations(work: Callable[[], object]) -> int:
    """Count the floating-point operations of some work."""
    # attention in its plain form, of which every product is counted
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def make_work(config: Config, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name. How long it takes does not depend on weights or frames, which are random."""
    torch.manual_seed(0)
    model = make_model(config).to(device).eval()
    size, batch, length = config.model.image_size, config.train.batch_size, config.model.clip_frames
    clip = torch.randint(0, 256, (batch, length, size, size, 3), dtype=torch.uint8, device=device)
    actions = torch.randn(batch, length - 1, config.model_action_size, device=device)
    frame = clip[:1, 0]
    with torch.no_grad():
        tokens = model.encode(clip[:1, 0])  # (1, N, D)
        goal = model.encode(clip[:1, 1])
    bound = torch.ones(config.model_action_size, device=device)
    space = ActionSpace(kind="continuous", size=config.model_action_size, low=-bound, high=bound)
    no_actions = torch.zeros(1, 0, config.model_action_size, device=device)
    learnt = StepsToGo(config.model.num_tokens, config.model.token_width).to(device).eval()
    cost = planning_cost(config.plan, learnt)

    @torch.no_grad()
    def cycle() -> object:
        now = model.encode(frame)[:, None]
        cost_fn = latent_cost_fn(model, now, no_actions, goal, space, cost, over=config.plan.over)
        generator = torch.Generator(device).manual_seed(0)
        return cem(
            cost_fn,
            space=space,
            batch=1,
            horizon=HORIZON,
            candidates=CANDIDATES,
            iterations=ITERATIONS,
            elites=CANDIDATES // 8,
            generator=generator,
        )

    def step_of(config: Config) -> Callable[[], object]:
        trained = make_model(config).to(device).train()
        optimizer, generator = make_optimizer(trained, config.train), torch.Generator().manual_seed(0)
        clips = Batch(clip, actions, np.arange(batch))
        return lambda: train_step(
            trained, optimizer, clips, config.train, generator=generator, learning_rate=1e-4, share_done=0.5
        )

    def predict(count: int) -> object:
        states = tokens[:, None].expand(count, -1, -1, -1)  # (K, 1, N, D)
        return model.rollout(states, no_actions.expand(count, -1, -1), actions[:1, :1].expand(count, -1, -1))

    work: dict[str, Callable[[], object]] = {
        "encoder": torch.no_grad()(lambda: model.encode(frame)),
        "step": torch.no_grad()(lambda: predict(1)),
        "steps": torch.no_grad()(lambda: predict(CANDIDATES)),
        "cycle": cycle,
        "train": step_of(config),
    }
    if device.type != "cpu" or has_bfloat16():
        work["train_bfloat16"] = step_of(replace(config, train=replace(config.train, precision="bfloat16")))
    if isinstance(config.model, ArticleSettings) and config.model.full_context_prob < 1:
        whole = replace(config, model=replace(config.model, full_context_prob=1.0))
        work["train_whole"] = step_of(whole)
    return work


def measure(config: Config, device: torch.device, repeats: int) -> dict[str, Any]:
    """Time a model's parts, count their operations, and work out how long the article's training would take."""
    found: dict[str, Any] = {}
    for name, work in make_work(config, device).items():
        taken, count = seconds(work, device, repeats), operations(work)
        found[name] = {"ms": 1e3 * taken, "gflop": count / 1e9, "gflop_per_s": count / taken / 1e9}
    per_second = config.train.batch_size / found["train"]["ms"] * 1e3
    found["train"] |= {
        "images_per_s": per_second,
        "hours_of_imagenet": EPOCHS * IMAGES / per_second / 3600,
    }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Time the parts that the article times, beside a matrix product.")
    parser.add_argument("--presets", nargs="+", default=["literal", "large", "tiny"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--batch-size", type=int, default=32, help="of a training step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # PyTorch's default for products, not for convolutions
    a, b = (torch.randn(MATRIX, MATRIX, device=device) for _ in range(2))
    product = seconds(lambda: a @ b, device, arguments.repeats)
    found: dict[str, Any] = {
        "machine": machine(device),
        "candidates": CANDIDATES,
        "horizon": HORIZON,
        "iterations": ITERATIONS,
        "images": IMAGES,
        "epochs": EPOCHS,
        "repeats": arguments.repeats,
        "batch_size": arguments.batch_size,
        "product_gflop_per_s": 2 * MATRIX**3 / product / 1e9,
        "presets": {},
    }
    for name in arguments.presets:
        config = preset(name)
        train = replace(config.train, batch_size=arguments.batch_size, precision="float32")
        found["presets"][name] = measure(replace(config, train=train), device, arguments.repeats)
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
