"""Which parts of the pose the distance of representations tells apart, beside the distance of pixels.

A planner goes where the distance to the goal becomes smaller. So the distance must grow with each part of the pose that
the goal asks for; a part that a probe can read may still weigh next to nothing in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.envs import PosePart, Task

FRAMES = 128
TIMES = (1, 2, 4)
BLIND = 0.1
"""Share of what the part that is seen best gives, below which the distance is blind to a part."""
_TRIES = 20


@dataclass(frozen=True, slots=True)
class PartSensitivity:
    """How far frames are apart whose states differ in one part of the pose alone.

    Each number is the mean squared distance of such pairs over that of random pairs of frames, and belongs to one of
    `TIMES`. None where it has no value.

    Args:
        name: The part.
        entries: Its variables in the state.
        step: What it is changed by at once, the success threshold; an angle in radians.
        angle: Whether it is an angle.
        frames: Frames that it could be changed in.
        latent: Of representations.
        pixels: Of frames.
        weight: What it gives in representations over what the part gives that is seen best, at most over `TIMES`.
    """

    name: str
    entries: tuple[str, ...]
    step: float
    angle: bool
    frames: int
    latent: tuple[float | None, ...]
    pixels: tuple[float | None, ...]
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class PoseSensitivity:
    """The sensitivity to each part of a task's pose.

    Args:
        frames: Frames whose states were changed.
        times: By how many steps.
        parts: One for each part, in the task's order.
        blind: Names of those that the distance is blind to: whose `weight` is below `BLIND`.
    """

    frames: int
    times: tuple[int, ...]
    parts: tuple[PartSensitivity, ...]
    blind: tuple[str, ...]


def measure_pose_sensitivity(
    task: Task, states: NDArray[np.float32], encode: Callable[[NDArray[np.uint8]], Tensor], *, seed: int
) -> PoseSensitivity | None:
    """Change each part of the pose in held-out states, draw both frames, and compare.

    Args:
        task: Says the parts, and draws the frames.
        states: (M, S) states of held-out frames, at least two.
        encode: Represents frames (M, height, width, 3) as (M, N, D), unweighted.
        seed: Seed of the directions in which a part is changed.

    Returns:
        None for a task that names no parts of a pose.
    """
    if not task.pose or len(states) < 2:
        return None
    views = (lambda frames: encode(frames).flatten(1).cpu().double(), _pixels)
    frames = task.render_states(states)
    seen = [view(frames) for view in views]
    apart = [_random_pairs(view) for view in seen]
    rng = np.random.default_rng(seed)
    parts = []
    for part in task.pose:
        columns = [task.state_names.index(name) for name in part.entries]
        rows, changed = _changed(task, states, part, columns, rng)  # (M',), (times, M', S)
        ratios: list[list[float | None]] = [[], []]
        for there in changed:
            drawn = task.render_states(there) if len(rows) else None
            for ratio, view, here, random in zip(ratios, views, seen, apart, strict=True):
                ratio.append(None if drawn is None else _over((view(drawn) - here[rows]).square().mean(), random))
        latent, pixels = (tuple(ratio) for ratio in ratios)
        kept = (part.name, part.entries, part.step, part.angle, len(rows))
        parts.append(PartSensitivity(*kept, latent=latent, pixels=pixels))
    parts = _weighed(parts)
    blind = tuple(part.name for part in parts if part.weight is not None and part.weight < BLIND)
    return PoseSensitivity(len(states), TIMES, parts, blind)


def _weighed(parts: Sequence[PartSensitivity]) -> tuple[PartSensitivity, ...]:
    """Give each part its weight; there is none where it was not changed, or no change moves the representation."""
    columns = zip(*(part.latent for part in parts), strict=True)
    best = [max(value or 0.0 for value in values) for values in columns]
    weighed = []
    for part in parts:
        shares = [value / most for value, most in zip(part.latent, best, strict=True) if value is not None and most]
        weighed.append(replace(part, weight=max(shares, default=None)))
    return tuple(weighed)


def _changed(
    task: Task, states: NDArray[np.float32], part: PosePart, columns: Sequence[int], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Change a part of states (M, S) by each of `TIMES`, in one random direction a state that is possible for all.

    Returns:
        The rows (M',) of states that have such a direction, and the changed states (times, M', S).
    """
    rows, found = [], []
    for row, state in enumerate(states):
        for _ in range(_TRIES):
            direction = rng.standard_normal(len(columns))
            direction *= part.step / np.linalg.norm(direction)
            moved = np.repeat(state[None], len(TIMES), axis=0)
            moved[:, columns] += np.outer(TIMES, direction).astype(np.float32)
            if all(task.possible(there) for there in moved):
                rows.append(row)
                found.append(moved)
                break
    shape = (len(rows), len(TIMES), states.shape[1])
    return np.array(rows, dtype=np.int64), np.array(found, dtype=np.float32).reshape(shape).swapaxes(0, 1)


def _random_pairs(seen: Tensor) -> Tensor:
    """Return the mean squared distance of all pairs of rows of (M, F), over features."""
    return 2.0 * seen.var(dim=0).mean()


def _pixels(frames: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames.reshape(len(frames), -1)).double()


def _over(change: Tensor, random: Tensor) -> float | None:
    """Return the ratio, None where random pairs are all alike."""
    return float(change) / float(random) if float(random) > 1e-12 else None
