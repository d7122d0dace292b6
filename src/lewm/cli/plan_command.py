"""`lewm plan`: in closed loop, or once."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from lewm.cli.numbers import HEADS, goal_rows, planning_rows
from lewm.cli.options import OfRun, parse_of_run
from lewm.cli.show import number_text, print_result, print_table, short_text
from lewm.config import Config, EvalProtocol, PlanConfig
from lewm.config.choices import PLANNERS, PlannerName


@dataclass(frozen=True, kw_only=True)
class Plan(OfRun):
    """Plan in closed loop from held-out starts, beside a random policy; --json prints eval.json's `planning` object.

    Each start goes to a later frame of its episode, or all go to one --goal. Without a simulator of the data's task, or
    with a --start, one plan to the goal is made and its actions are given. Settings that are not given are those of the
    run.
    """

    goal: Annotated[str | None, tyro.conf.arg(metavar="GOAL")] = None
    """state:0.3,0.5 or state:x=0.3,y=0.5, region:x=0.2..0.4,y=0.1.. or frame:EPISODE:INDEX."""
    start: Annotated[str | None, tyro.conf.arg(metavar="frame:EPISODE:INDEX")] = None
    """Plan once from this frame; without a simulator, from the first held-out one by default."""
    planner: Annotated[PlannerName | None, tyro.conf.arg(metavar=f"{{{','.join(PLANNERS)}}}")] = None
    """Short for --plan.planner."""
    protocol: Annotated[EvalProtocol | None, tyro.conf.arg(metavar=f"{{{','.join(get_args(EvalProtocol))}}}")] = None
    """Short for --eval.protocol."""
    episodes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Short for --eval.episodes."""
    video: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mp4")] = None
    """Write a video of some episodes."""

    @property
    def chosen_plan(self) -> PlanConfig:
        """The planning settings, with the planner of --planner."""
        return self.plan if self.planner is None else dataclasses.replace(self.plan, planner=self.planner)


def command(argv: list[str]) -> None:
    args, config = parse_of_run("plan", Plan, argv)
    short = {name: value for name in ("protocol", "episodes") if (value := getattr(args, name)) is not None}
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, **short))
    if args.start is not None and args.goal is None:
        raise ValueError(f"start={args.start}: a plan needs a goal; give --goal")
    if args.goal is not None and (args.start is not None or not _is_simulated(args.run, args.data, config)):
        return _plan_once(args, args.goal, config)
    assert args.run is not None
    from lewm.evaluate import plan_pretrained, plan_run
    from lewm.evaluate.doctor import planning_verdict

    plan = partial(plan_run, args.run) if args.pretrained is None else partial(plan_pretrained, args.pretrained)
    planning = plan(data=args.data, device=args.device, config=config, goal=args.goal, video=args.video)
    _warn_of_goal(planning.get("goal", {}))

    def show() -> None:
        rows = [*planning_rows(planning), ("Seconds a plan", f"{planning['seconds_per_plan']:.4f}", "")]
        if args.goal is not None:
            rows += goal_rows(planning["goal"])
        title = f"{args.pretrained or args.run} in closed loop{f' to {args.goal}' if args.goal else ''}"
        print_table(title, HEADS, rows)
        print(planning_verdict(planning))
        if args.video is not None:
            print(args.video)

    print_result(args.json, planning, show)


def _is_simulated(run: Path | None, data: Path | None, config: Config) -> bool:
    """Say whether the true dynamics of a run's task are at hand."""
    from lewm.data import Store
    from lewm.evaluate.evaluation import has_simulator
    from lewm.run_spec import load_spec

    path = data or config.data.path
    if run is None or not path or (data is None and not Path(path).is_dir()):
        return True  # of a model that comes with the package; and closed loop says what is missing
    return has_simulator(load_spec(run), Store(path))


def _plan_once(args: Plan, goal: str, config: Config) -> None:
    """Show one plan, beside what else it might have been."""
    if args.video is not None:
        raise ValueError(f"video={args.video}: a plan that is not carried out has none; leave it out")
    from lewm.evaluate import plan_once

    assert args.run is not None
    plan = plan_once(args.run, goal=goal, start=args.start, data=args.data, device=args.device, config=config)
    _warn_of_goal(plan["goal"])

    def show() -> None:
        rivals = f"{short_text(plan['cost_now'])} (start), {short_text(plan['cost_random'])} (random plans)"
        rows = [("Predicted cost at the end", short_text(plan["cost"]), rivals)]
        for name, value in plan.get("predicted_state", {}).items():
            rows.append(
                (f"Predicted {name} at the end", short_text(value), f"{short_text(plan['start_state'][name])} (start)")
            )
        rows += goal_rows(plan["goal"])
        rows.append(("Seconds", f"{plan['seconds']:.4f}", ""))
        print_table(f"{args.run} from {plan['start']} to {goal}", HEADS, rows)
        for action in plan["actions"]:
            print(*([f"{value:.6g}" for value in action] if isinstance(action, list) else [action]))

    print_result(args.json, plan, show)


def _warn_of_goal(goal: Mapping[str, Any]) -> None:
    """Say which variables of a goal the probe cannot read."""
    from lewm.evaluate.goal_reading import READABLE_R2

    for name, r2 in goal.get("r2", {}).items():
        if r2 is None or r2 < READABLE_R2:
            print(
                f"warning: goal={goal['text']}: {name} is read from representations with a held-out R² of "
                f"{number_text(r2)}, below {READABLE_R2}, so that plans hardly know the goal",
                file=sys.stderr,
            )
