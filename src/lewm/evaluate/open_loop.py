"""Open loop: one plan from a frame of the data, for robots that are not simulated here."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm.config import Config
from lewm.evaluate.evaluation import finite, open_run, require_actions, state_reader
from lewm.evaluate.frames import encode_frames
from lewm.evaluate.goal_reading import frame_index, goal_report
from lewm.plan import (
    ActionSpace,
    FrameGoal,
    LatentController,
    goal_cost,
    latent_cost_fn,
    parse_frame,
    parse_goal,
)

RANDOM_PLANS = 64


@torch.no_grad()
def plan_once(
    run: str | Path,
    *,
    goal: str,
    start: str | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    config: Config | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Plan once from a frame of the data, and give the actions without carrying any out.

    What is searched lies within the bounds of the task's actions or, for data of no known task, within the smallest and
    the largest value of each entry over the training episodes' actions.

    Args:
        run: Run folder.
        goal: A goal in a form of `lewm.plan.parse_goal`.
        start: `frame:EPISODE:INDEX`, where the plan starts; None takes the first frame of the first held-out episode.
        data: Store; None takes the one that the run was trained on.
        device: auto, cpu, cuda or mps; None takes the run's setting.
        config: Settings whose `eval`, `plan` and `seed` replace the run's; None keeps those.
        progress: Show progress on standard error.

    Returns:
        `start`; `goal`, as `plan_run` has it; `actions`, one row an environment step, in the data's own units (an
        integer a step for discrete actions); `cost`, of what the model predicts at the end of the plan, beside
        `cost_now`, of the start, and `cost_random`, the mean of random plans; `planner`, and `seconds`, the time to
        encode and plan. With a goal given by the state also `predicted_state`, what the probe reads at the end of the
        plan, and `start_state`, the true state at the start, by name.

    Raises:
        ValueError: If the run or the store is missing, broken, or they do not fit, or there is no such goal or start.
    """
    of = open_run(run, data=data, device=device, config=config)
    require_actions(of)
    store, settings, model = of.store, of.config, of.model
    begin = FrameGoal(int(of.held_out[0]), 0) if start is None else parse_frame(start, "start")
    index = frame_index(begin, store, str(start), "start")
    frame = store.frames[[index]]  # (1, height, width, 3), a copy: the store is read-only
    wanted, read = parse_goal(goal, store.meta.state_names), None
    if isinstance(wanted, FrameGoal):
        pursued = store.frames[[frame_index(wanted, store, goal, "goal")]]
        target = encode_frames(model.encode, pursued, model.device)
    else:
        read = state_reader(of, goal, wanted, progress=progress)
        pursued = target = read.region

    # What was told last, where actions are positions: the row before, or at an episode's first frame its own.
    command = store.actions[index - 1 if begin.index else index][None]
    space = of.space
    space = space.at(torch.tensor(command, device=space.device))
    generator = torch.Generator(space.device).manual_seed(settings.seed)
    controller = LatentController(
        model, settings, space, cost=of.learnt, proposal=of.proposal, batch=1, generator=generator
    )
    controller.reset(pursued, command=command if space.relative else None)
    began = time.perf_counter()
    controller.act(frame)
    seconds = time.perf_counter() - began
    plan = controller.last_plan
    assert plan is not None

    tokens = encode_frames(model.encode, frame, model.device)[:, None]  # (1, T=1, N, D)
    past = plan.actions[:, :0]  # none yet
    end_cost = latent_cost_fn(model, tokens, past, target, space, of.cost, over="last")
    results: dict[str, Any] = {
        "start": f"frame:{begin.episode}:{begin.index}",
        "goal": goal_report(goal, read),
        "actions": space.to_env(plan.actions).flatten(1, 2)[0].tolist(),
        "cost": end_cost(plan.searched[:, None]).item(),
        "cost_now": goal_cost(of.cost, tokens[:, None], target).item(),
        "cost_random": end_cost(random_plans(space, settings.plan.horizon, generator)).mean().item(),
        "planner": settings.plan.planner,
        "seconds": seconds,
    }
    if read is not None:
        assert store.states is not None
        results["predicted_state"] = read.read(controller.imagined()[0, -1])
        results["start_state"] = dict(zip(store.meta.state_names, store.states[index].tolist(), strict=True))
    return finite(results)


def random_plans(space: ActionSpace, horizon: int, generator: torch.Generator) -> Tensor:
    """Draw plans (1, K, H, a) uniformly."""
    shape = (1, RANDOM_PLANS, horizon, space.size)
    if space.kind == "discrete":
        return torch.randint(space.num_actions, shape, generator=generator, device=space.device)
    return space.low + (space.high - space.low) * torch.rand(shape, generator=generator, device=space.device)
