"""`lewm train`: a world model on a store."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lewm.cli.options import Folder, RunFolder, Settings, WithSettings, parse_settings
from lewm.cli.show import announce, counted, print_result
from lewm.config import Config
from lewm.families.presets import preset
from lewm.files import check_folder


@dataclass(frozen=True, kw_only=True)
class Train(WithSettings):
    """Train a world model on a store (--data, --out), or go on with a run that was stopped (--resume).

    Ctrl-C and SIGTERM save a checkpoint first. Every setting below can be given by name; the others come from
    the preset. Below, "the article" is LeWorldModel: Legendre World Model, whose sections are named, and "published" is
    LeWM of arXiv 2603.19312.
    """

    data: Folder = None
    """Store to train on; with --resume, the new place of the run's store."""
    out: Folder = None
    """New run folder."""
    resume: RunFolder = None
    """Run folder to go on with, by the settings that it was started with."""


def command(argv: list[str]) -> None:
    args = parse_settings("train", Train, argv)
    from lewm.train.checkpoint import CONFIG, load_config

    if args.resume is not None:
        if args != Train(resume=args.resume, data=args.data, json=args.json, settings=Settings.of(preset("tiny"))):
            raise ValueError(
                f"resume={args.resume}: goes on with the settings that the run was started with; leave all options but "
                "--data and --json out, and train a new run for others, or for more steps"
            )
        run, config = args.resume, None
    elif args.data is None or args.out is None:
        wanted = {"--data DIR, the store to train on": args.data, "--out DIR, the new run folder": args.out}
        missing = " and ".join(what for what, given in wanted.items() if given is None)
        raise ValueError(f"train: needs more to begin; give {missing}, or --resume RUN to go on with a run")
    else:
        run, config = args.out, args.settings.config()
        check_folder(run, "out")
        _check_before_training(args.data, config)
    before = None if config is not None else load_config(run).data.path
    try:
        train_run(config, args.data, run)
    except KeyboardInterrupt as stopped:
        there = (run / CONFIG).is_file()
        on = f"go on with `lewm train --resume {run}`" if there else "nothing was written; give the same command again"
        raise KeyboardInterrupt(str(stopped) or f"stopped; {on}") from None
    finally:
        if before is not None and (now := load_config(run).data.path) != before:
            announce(f"{run} was moved from the store {before} to {now}")
    if os.environ.get("RANK", "0") != "0":
        return  # under `torchrun`, the first process speaks for all
    trained = load_config(run)
    if trained.model.plans and trained.action.kind != "none" and trained.plan.reached_below is None:
        print(
            "warning: too few pairs of held-out frames show one goal, so `controller.reached`, which tells from a "
            "frame that the goal is reached, will not work; planning and evaluation do. To have it, train on more "
            "episodes, or give --plan.reached-below, the largest cost that counts",
            file=sys.stderr,
        )
    summary: dict[str, Any] = {"run": str(run)} | _last_metrics(run)
    print_result(
        args.json, summary, lambda: print(f"{run}: {counted(summary['step'], 'step')}, loss {summary['loss']:.4f}")
    )


def _check_before_training(data: Path, config: Config) -> None:
    """Warn of what a sample of the data shows, and stop where training would fail or learn nothing."""
    from lewm.data import Store
    from lewm.data.check.store_check import check_store

    result = check_store(
        Store(data),
        frame_skip=config.data.frame_skip,
        clip_frames=config.model.clip_frames,
        held_out=config.data.held_out,
        split_seed=config.data.split_seed,
    )
    for finding in result.findings:
        line = f"{finding.message}; {finding.remedy}"
        if finding.severity == "error":
            raise ValueError(f"data={data}: {line} (`lewm check {data}` shows more)")
        if finding.severity == "warning" and os.environ.get("RANK", "0") == "0":
            print(f"warning: {line}", file=sys.stderr)


def train_run(config: Config | None, data: Path | None, run: Path) -> None:
    """Train a new run, or go on with one when there is no configuration; under `torchrun`, with the other processes."""
    from lewm.device import resolve_device
    from lewm.distributed import process_group
    from lewm.train import NonFiniteLossError, resume, train
    from lewm.train.checkpoint import load_config

    with process_group(resolve_device((config or load_config(run)).device)):
        try:
            if config is None:
                resume(run, data=data)
            else:
                assert data is not None
                train(config, data, run)
        except NonFiniteLossError as error:
            raise ValueError(str(error)) from error


def _last_metrics(run: Path) -> dict[str, Any]:
    """Return the loss and its parts at the last step."""
    from lewm.train.checkpoint import METRICS

    row = json.loads((run / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    return {name: value for name, value in row.items() if name == "step" or name.startswith("loss")}
