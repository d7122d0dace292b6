"""What the report and the video show of closed-loop episodes: frames, costs, plans, and places on the frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.envs import Task
from lewm.evaluate.closed_loop import Loop
from lewm.evaluate.frames import encode_frames
from lewm.evaluate.prediction import nearest
from lewm.evaluate.starts import Starts
from lewm.families.family import WorldModel
from lewm.plan.cost import GoalCost, goal_cost


@dataclass(frozen=True, slots=True)
class Recording:
    """Some episodes, every environment step. From a success on, its frame and its cost stay, as the last plan does.

    Args:
        frames: (n, budget + 1, height, width, 3).
        cost: (n, budget + 1) planning cost of being at each frame.
        goal_frame: (n, height, width, 3); None for a goal without a frame.
        solved_at: (n,) environment step at which the goal was first reached, -1 for never.
        plan_step: (p,) environment step of each decision.
        plan_row: (n, p, H) row of the library whose representation is nearest to each imagined step of each plan.
    """

    frames: NDArray[np.uint8]
    cost: NDArray[np.float32]
    goal_frame: NDArray[np.uint8] | None
    solved_at: NDArray[np.int64]
    plan_step: NDArray[np.int64]
    plan_row: NDArray[np.int64]


def record_episodes(
    model: WorldModel,
    task: Task,
    starts: Starts,
    loop: Loop,
    imagined: Tensor,
    library: Tensor,
    cost: GoalCost,
    *,
    stride: int,
) -> Recording:
    """Draw the first episodes of a closed loop.

    Args:
        model: World model in evaluation mode.
        task: Draws the frames.
        starts: Where the episodes started, and their goals.
        loop: What they came to.
        imagined: (n, p, H, N, D) what the plans of the first n episodes were predicted to lead through.
        library: (L, N, D) representations by the target encoder of frames to show imagined steps by.
        cost: The cost that planning used.
        stride: Environment steps from one decision to the next.
    """
    count = len(imagined)
    frames = _episode_frames(task, loop, count)
    ends = np.where(loop.solved_at >= 0, loop.solved_at, loop.states.shape[1] - 1)[:count]
    return Recording(
        frames=frames,
        cost=_costs(model, frames, ends, starts.first(count), cost),
        goal_frame=starts.goal_frame[:count] if starts.region is None or starts.goal_frame.any() else None,
        solved_at=loop.solved_at[:count],
        plan_step=np.arange(imagined.shape[1]) * stride,
        plan_row=nearest(imagined.flatten(0, 2), library.cpu()).view(imagined.shape[:3]).numpy(),
    )


def episode_places(
    task: Task, starts: Starts, loop: Loop, read: Tensor | None, labels: Sequence[str]
) -> Mapping[str, NDArray]:
    """Return where on the frame the first episodes went, were to go, and were imagined to go.

    Args:
        task: Tells places.
        starts: Where the episodes started, and their goals.
        loop: What they came to.
        read: (n, p, H, S') states that a probe reads from what the plans lead through; None without a probe.
        labels: Names of the S' numbers: state variables, angles as sine and cosine.

    Returns:
        `episode_place` (n, budget + 1, 2), `episode_goal_place` (n, 2) and `episode_imagined_place` (n, p, H, 2) in
        pixels; nothing of a task that tells no places.
    """
    if read is None:
        return {}
    way, goal = task.place(loop.states[: len(read)]), task.place(starts.goal_state[: len(read)])
    # What no probe reads does not vary in the data, or not by itself: it is as it was at the start.
    states = np.broadcast_to(starts.state[: len(read), None, None], (*read.shape[:3], len(task.state_names))).copy()
    column = {label: read[..., k].numpy() for k, label in enumerate(labels)}
    for k, name in enumerate(task.state_names):
        if name in column:
            states[..., k] = column[name]
        elif f"{name} (sine)" in column and f"{name} (cosine)" in column:
            states[..., k] = np.arctan2(column[f"{name} (sine)"], column[f"{name} (cosine)"])
    imagined = task.place(states)
    if way is None or goal is None or imagined is None:
        return {}
    return {"episode_place": way, "episode_goal_place": goal, "episode_imagined_place": imagined}


def _episode_frames(task: Task, loop: Loop, count: int) -> NDArray[np.uint8]:
    """Draw the first `count` episodes, (n, budget + 1, height, width, 3); of a solved one, its end once."""
    episodes, step = [], np.arange(loop.states.shape[1])
    for way, solved_at in zip(loop.states[:count], loop.solved_at[:count], strict=True):
        end = solved_at if solved_at >= 0 else step[-1]
        episodes.append(task.render_states(way[: end + 1])[np.minimum(step, end)])
    return np.stack(episodes)


@torch.no_grad()
def _costs(
    model: WorldModel, frames: NDArray[np.uint8], ends: NDArray[np.int64], starts: Starts, cost: GoalCost
) -> NDArray[np.float32]:
    """Return the planning cost (n, T) of being at each frame (n, T, height, width, 3), up to each episode's end."""
    costs = []
    for way, end, goal_frame in zip(frames, ends.tolist(), starts.goal_frame, strict=True):
        tokens = encode_frames(model.encode, way[: end + 1], model.device)[None, None]  # (1, 1, T, N, D)
        goal = starts.region or encode_frames(model.encode, goal_frame[None], model.device)
        of_way = goal_cost(cost, tokens, goal)[0, 0].float().cpu().numpy()
        costs.append(of_way[np.minimum(np.arange(len(way)), end)])
    return np.stack(costs)
