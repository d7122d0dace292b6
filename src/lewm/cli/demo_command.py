"""`lewm demo`: all of it on Two-Room."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lewm.cli.numbers import HEADS, number_rows, verdicts
from lewm.cli.options import Json, parse
from lewm.cli.show import announce, print_result, print_table
from lewm.cli.train_command import train_run
from lewm.config import EvalConfig
from lewm.families.presets import preset

# What it costs and how well it works is decided here, and by the preset.
DEMO_TASK = "two-room"
DEMO_PRESET = "tiny"
DEMO_EPISODES = 400
DEMO_EPISODE_LENGTH = 100
DEMO_EVAL = EvalConfig(episodes=60, split_episodes=15)
DEMO_VIDEO_EPISODES = 6


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Do the main job on Two-Room: collect, train, evaluate, plan, report. Goes on where it was stopped."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/demo")
    """Run folder, which gets the store as well."""
    seed: int = 0
    """Seed of everything that is drawn."""
    json: Json = False
    """Print the content of eval.json as one line and nothing else."""


def command(argv: list[str]) -> None:
    args = parse("demo", Demo, argv)
    from lewm.envs import collect
    from lewm.evaluate import evaluate_run, plan_run
    from lewm.evaluate.video import check_video
    from lewm.files import check_folder
    from lewm.report import figures  # noqa: F401  without an extra, fail early
    from lewm.report.run_report import NAME, write_report
    from lewm.train.checkpoint import CONFIG, load_config

    run, store = args.out, args.out / "store"
    config = dataclasses.replace(preset(DEMO_PRESET), seed=args.seed, eval=DEMO_EVAL)
    if (run / CONFIG).is_file():
        old = load_config(run)
        filled_in = {"action": config.action, "data": dataclasses.replace(old.data, path="")}
        filled_in["plan"] = dataclasses.replace(old.plan, reached_below=config.plan.reached_below)
        if dataclasses.replace(old, **filled_in) != config:
            raise ValueError(
                f"out={run}: holds a run with other settings (seed {old.seed}, preset {old.preset}); remove the folder "
                "or give another --out"
            )
    results_file = run / "eval.json"
    if (run / NAME).is_file() and results_file.is_file():
        announce(f"{run} holds a finished demo, shown again here; remove the folder to run it anew")
    else:
        check_folder(run, "out")
        check_video(run / "plan.mp4")
        announce(f"1 of 5: collect {DEMO_EPISODES} episodes of {DEMO_TASK} into {store}")
        collect(
            DEMO_TASK,
            store,
            episodes=DEMO_EPISODES,
            image_size=config.model.image_size,
            episode_length=DEMO_EPISODE_LENGTH,
            seed=args.seed,
        )
        if not results_file.is_file():
            steps, extra = config.train.steps, config.train.cost_steps
            announce(f"2 of 5: train preset {DEMO_PRESET}, {steps} steps, then the planning cost, {extra} steps")
            try:
                train_run(None if (run / CONFIG).is_file() else config, store, run)
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None  # this command goes on by itself
            few, usual = DEMO_EVAL.episodes, EvalConfig().episodes
            announce(f"3 of 5: evaluate on held-out episodes, {few} in closed loop ({usual} by default)")
            evaluate_run(run)
        announce(f"4 of 5: plan {DEMO_VIDEO_EPISODES} episodes for the video")
        for_video = dataclasses.replace(config.eval, episodes=DEMO_VIDEO_EPISODES)
        plan_run(run, config=dataclasses.replace(config, eval=for_video), video=run / "plan.mp4")
        announce("5 of 5: report")
        write_report(run)
    results = json.loads(results_file.read_text(encoding="utf-8"))

    def show() -> None:
        print_table("Two-Room, held-out episodes", HEADS, number_rows(results))
        print(f"{run / NAME}, {run / 'plan.mp4'}\n{verdicts(results)}")

    print_result(args.json, results, show)
