"""Train the `large` preset at 128 px on Push-T, then on Two-Room, on one GPU, in calls of a few minutes each.

    python benchmarks/gpu/full.py --state state --out benchmarks/results/full.json

A call ends by itself after --minutes. Called again with the same --state, on the same machine or another, it goes on:
the folder takes along weights, optimiser and results, in files of at most 16 MiB; the episodes follow from the seed and
are collected anew where they are missing. On the first task the speed of a training step is measured, with and without
torch.compile; training takes what was quicker.

    python benchmarks/gpu/full.py --state state --device cpu --tiny --no-compile    # the same path in small

The last line is one JSON object; `finished` tells whether another call is needed.
"""

import argparse
import dataclasses
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from parts import load_parts, save_parts
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lewm.config import Config, EvalConfig
from lewm.data import ClipSampler, Store
from lewm.device import resolve_device
from lewm.envs import collect
from lewm.evaluate import evaluate_run
from lewm.evaluate.evaluation import machine
from lewm.families.compact.settings import CompactSettings
from lewm.families.family import make_model
from lewm.families.presets import preset
from lewm.files import write_text
from lewm.run_spec import SPEC
from lewm.train import resume, train
from lewm.train.batches import batches_on
from lewm.train.checkpoint import CONFIG, COST, METRICS, STATE, WEIGHTS, load_config, save_config, with_data
from lewm.train.loop import FETCH_EVERY
from lewm.train.schedule import make_optimizer
from lewm.train.step import train_step

TASKS = ("push-t", "two-room")
SAVE_SECONDS = 120  # between two savings of a training under way
SPARE_SECONDS = 20  # kept at the end of a call to save in
LEAST_SECONDS = 60  # less is not worth moving the data and compiling for
SETTINGS = ("tiny", "tasks", "episodes", "steps", "eval_episodes", "seed")  # a state is continued with the same ones


class TimeUp(SystemExit):
    """The call's time is over, or it was told to end."""


def make_config(task: str, arguments: argparse.Namespace, *, compile: bool) -> Config:
    """Return the settings of a task: `large`, with what the smaller preset was found to need on that task."""
    config = preset("large")
    assert isinstance(config.model, CompactSettings)
    config = replace(
        config,
        seed=arguments.seed,
        device=arguments.device,
        train=replace(config.train, steps=arguments.steps, compile=compile),
        eval=EvalConfig(episodes=arguments.eval_episodes, split_episodes=1),
    )
    if task == "push-t":
        config = replace(
            config,
            data=replace(config.data, frame_skip=5),
            model=replace(config.model, residual=True, slowness=0.1, inverse=0.5),
            plan=replace(config.plan, cost="tokens"),
        )
    else:
        config = replace(
            config, data=replace(config.data, frame_skip=3), plan=replace(config.plan, horizon=5, execute=2)
        )
    return shrink(config) if arguments.tiny else config


def shrink(config: Config) -> Config:
    """Return settings that take seconds on a CPU."""
    assert isinstance(config.model, CompactSettings)
    return replace(
        config,
        model=replace(
            config.model,
            image_size=32,
            patch_size=2,
            stem_channels=(4, 8),
            width=16,
            depth=1,
            num_heads=2,
            predictor_width=12,
            predictor_depth=1,
            predictor_heads=3,
        ),
        train=replace(config.train, batch_size=8, checkpoint_every=5, cost_steps=5),
        plan=replace(config.plan, candidates=4, elites=2, iterations=1, horizon=2, execute=1),
        eval=replace(config.eval, clips=8, probe_frames=50, horizons=(1, 2)),
    )


def wait_for(device: torch.device) -> None:
    """Wait until everything that was asked of a device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def matmul_ceiling(device: torch.device, size: int, repeats: int) -> float:
    """Measure bf16 FLOP/s of a large matrix product, the most that a step can hope for."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.matmul(a, b)
    wait_for(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(a, b)
    wait_for(device)
    return 2 * size**3 * repeats / (time.perf_counter() - begin)


@contextmanager
def gpu_utilisation(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Yield a function that gives, after the block, the mean share of time that the GPU was at work; None if unknown.

    It is the driver's figure: the share of time in which any kernel ran, however small.
    """
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        yield lambda: None
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100", "-i", "0"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        seen: list[float] = []
        try:
            yield lambda: round(statistics.mean(seen) / 100, 3) if seen else None
        finally:
            process.terminate()
            lines = process.communicate()[0].split()
            seen += [float(line) for line in lines if line.isdigit()]


def measure_step(config: Config, store: Store, *, warmup: int, steps: int) -> dict[str, Any]:
    """Measure training steps: synchronised ones one by one, then as training takes them, looking every few steps."""
    device = resolve_device(config.device)
    config = with_data(config, store)
    episodes, _ = store.split(held_out=config.data.held_out, seed=config.data.split_seed)
    sampler = ClipSampler(
        store,
        episodes,
        clip_frames=config.model.clip_frames,
        frame_skip=config.data.frame_skip,
        batch_size=config.train.batch_size,
        seed=config.seed,
    )
    torch.manual_seed(config.seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = make_model(config).to(device).train()
    optimizer, generator = make_optimizer(model, config.train), torch.Generator().manual_seed(config.seed)
    batches = batches_on(device, sampler)
    if config.train.compile:
        model.compile_networks()

    def step(number: int) -> Tensor:
        scalars, _ = train_step(
            model,
            optimizer,
            batches(number),
            config.train,
            generator=generator,
            learning_rate=1e-4,
            share_done=0.5,
        )
        return scalars["loss"]

    begin = time.perf_counter()
    for number in range(warmup):
        step(number)
    wait_for(device)
    first = time.perf_counter() - begin
    seconds = []
    for number in range(steps):
        begin = time.perf_counter()
        step(number)
        wait_for(device)
        seconds.append(time.perf_counter() - begin)
    with gpu_utilisation(device) as utilisation:
        begin = time.perf_counter()
        for number in range(steps):
            loss = step(number)
            if number % FETCH_EVERY == 0:
                loss.item()
        wait_for(device)
        mean = (time.perf_counter() - begin) / steps
    quantiles = statistics.quantiles(seconds, n=100, method="inclusive")
    flops = None
    if not config.train.compile:
        with FlopCounterMode(display=False) as counter:
            step(0)
        flops = counter.get_total_flops()
    return {
        "transitions_per_s": round(config.train.batch_size / mean, 1),
        "step_ms_mean": round(1e3 * mean, 3),
        "synchronised_step_ms": {f"p{p}": round(1e3 * quantiles[p - 1], 3) for p in (50, 90, 99)},
        "warmup_s": round(first, 1),
        "steps": steps,
        "batch_size": config.train.batch_size,
        "flops_per_step": flops,
        "gpu_utilisation": utilisation(),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def measure_speed(config: Config, store: Store, *, tiny: bool, compiled: bool) -> dict[str, Any]:
    """Measure the step of a task with and without torch.compile, each as a share of a matrix product's FLOP/s."""
    device = resolve_device(config.device)
    ceiling = matmul_ceiling(device, *((128, 3) if tiny else (8192, 30)))
    ways = {"eager": False} | ({"compiled": True} if compiled else {})
    speed: dict[str, Any] = {"machine": machine(device), "matmul_bf16_flops": round(ceiling), "compiled": None}
    for name, switch in ways.items():
        with_switch = replace(config, train=replace(config.train, compile=switch))
        speed[name] = measure_step(with_switch, store, warmup=2 if tiny else 20, steps=4 if tiny else 200)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for name in ways:
        speed[name]["flops_per_step"] = speed["eager"]["flops_per_step"]  # the same work
        rate = 1e3 * speed["eager"]["flops_per_step"] / speed[name]["step_ms_mean"]
        speed[name]["share_of_matmul"] = round(rate / ceiling, 4)
    return speed


class Call:
    """One call: what it finds in the state, what it adds, and when it must end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        limit = 60 * arguments.minutes
        self.end = time.monotonic() + limit - min(SPARE_SECONDS, limit / 5)
        self.runs: Path = arguments.work / "runs"
        shutil.rmtree(self.runs, ignore_errors=True)  # the state alone says what has been done
        settings = {name: getattr(arguments, name) for name in SETTINGS}
        self.progress = load_parts(arguments.state, self.runs) or {"settings": settings, "speed": None, "tasks": {}}
        for name, value in settings.items():
            before = self.progress["settings"][name]
            if before != value:
                option = name.replace("_", "-")
                raise ValueError(
                    f"{option}={value}: {arguments.state} was begun with {before}; use that, or another --state"
                )
        self.training = False

    @property
    def finished(self) -> bool:
        """Whether every task has been evaluated."""
        return all("eval" in self.progress["tasks"].get(task, {}) for task in self.arguments.tasks)

    def save(self) -> None:
        """Write the state: of a run under way what resumes it, of a trained one its weights and its learnt cost."""
        files = {}
        for task, done in self.progress["tasks"].items():
            run = self.runs / task
            kept = (WEIGHTS, COST) if done["trained"] else (STATE,)
            if (run / kept[0]).is_file():
                files |= {f"{task}/{name}": run / name for name in (CONFIG, SPEC, METRICS, *kept)}
        save_parts(self.arguments.state, files, self.progress)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Save now and then while training, and end what is under way when time is up; save at the end of it all."""

        def ring(*_: object) -> None:
            if time.monotonic() >= self.end:
                signal.raise_signal(signal.SIGTERM)  # training finishes its step first
                return
            if self.training:
                self.save()
            signal.setitimer(signal.ITIMER_REAL, self.until(SAVE_SECONDS))

        def stop(*_: object) -> None:
            raise TimeUp("time is up")

        before = {number: signal.signal(number, f) for number, f in ((signal.SIGALRM, ring), (signal.SIGTERM, stop))}
        signal.setitimer(signal.ITIMER_REAL, self.until(SAVE_SECONDS))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.save()

    def until(self, seconds: float) -> float:
        """Return the seconds until then, or until the end of the call if that is sooner."""
        return max(1e-3, min(seconds, self.end - time.monotonic()))

    def require(self, seconds: float) -> None:
        """Begin nothing for which too little time is left."""
        if not self.arguments.tiny and self.end - time.monotonic() < seconds:
            raise TimeUp("too little time is left for the next stage")

    def run_task(self, task: str) -> None:
        """Go on with a task until it has been evaluated."""
        arguments, done = self.arguments, self.progress["tasks"].setdefault(task, {"trained": False, "seconds": {}})
        config = make_config(task, arguments, compile=False)
        say(f"{task}: collecting")
        store = collect(
            task,
            arguments.work / f"{task}-{config.model.image_size}px-seed-{arguments.seed}",
            episodes=arguments.episodes,
            image_size=config.model.image_size,
            episode_length=40 if arguments.tiny else 100,
            seed=arguments.seed,
            progress=False,
        )
        if self.progress["speed"] is None:
            self.require(LEAST_SECONDS)
            say(f"{task}: measuring the speed of a step")
            self.progress["speed"] = measure_speed(config, store, tiny=arguments.tiny, compiled=arguments.compile)
            self.save()
        if not done["trained"]:
            self.require(LEAST_SECONDS)
            self.train(task, store)
        self.require(LEAST_SECONDS)
        say(f"{task}: evaluating")
        begin, run = time.monotonic(), self.runs / task
        point_to(run, store)
        done["eval"] = evaluate_run(run, device=arguments.device, progress=False)
        done["seconds"]["eval"] = round(time.monotonic() - begin, 1)
        self.save()

    def train(self, task: str, store: Store) -> None:
        """Train, or go on with training, to the end."""
        speed, done, run = self.progress["speed"], self.progress["tasks"][task], self.runs / task
        rates = {name: speed[name]["transitions_per_s"] for name in ("eager", "compiled") if speed[name]}
        config = make_config(task, self.arguments, compile=max(rates, key=lambda name: rates[name]) == "compiled")
        begin, self.training = time.monotonic(), True
        try:
            if (run / STATE).is_file():
                say(f"{task}: training goes on")
                point_to(run, store)
                resume(run, progress=False)
            else:
                say(f"{task}: training")
                train(config, store.path, run, progress=False)
            done["trained"] = True
        finally:
            self.training = False
            seconds = done["seconds"].get("train", 0) + time.monotonic() - begin
            done["seconds"]["train"] = round(seconds, 1)
            done["steps"] = len((run / METRICS).read_bytes().splitlines()) if (run / METRICS).is_file() else 0
        self.save()


def point_to(run: Path, store: Store) -> None:
    """Let a run that came from another folder find its data here."""
    config = load_config(run)
    save_config(run, replace(config, data=dataclasses.replace(config.data, path=str(store.path.resolve()))))


def say(text: str) -> None:
    """Say what is going on, beside the results."""
    print(text, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder that is gone on from and saved to")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "lewm-full", help="episodes and runs"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="length of this call, at most")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="a small model on a few small frames")
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=list(TASKS))
    parser.add_argument("--episodes", type=int, help="episodes of 100 frames to train on; 2000")
    parser.add_argument("--steps", type=int, help="training steps of a task; 30000")
    parser.add_argument("--eval-episodes", type=int, help="closed-loop episodes; 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="file that also gets the JSON, once all is finished")
    arguments = parser.parse_args(argv)
    if arguments.minutes <= 0:
        parser.error(f"--minutes={arguments.minutes}: must be positive; use 9")
    for name, usual, small in (("episodes", 2000, 20), ("steps", 30_000, 20), ("eval_episodes", 200, 4)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, small if arguments.tiny else usual)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Go on where the last call stopped, until all is done or time is up."""
    arguments = parse(argv)
    try:
        call = Call(arguments)
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 1
    stopped = None
    try:
        with call.limited():
            for task in arguments.tasks:
                if "eval" not in call.progress["tasks"].get(task, {}):
                    call.run_task(task)
    except SystemExit as stop:  # training's way to say that it has stopped, and ours
        stopped = str(stop)
    summary = json.dumps({"benchmark": "full", "finished": call.finished, "stopped": stopped, **call.progress})
    if arguments.out and call.finished:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.out, summary + "\n")
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
