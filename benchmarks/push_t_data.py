"""Say how good Push-T's data is: what the scripted behaviour does to the block, and which poses it visits.

    python benchmarks/push_t_data.py --demos pusht_cchi_v7_replay.zarr \
        --out benchmarks/results/push_t_data.json --figure docs/push_t_data.png

With `--demos`, as many replays of these demonstrations are measured beside it; the figure is of the scripted behaviour.
The last line is one JSON object with every share and quantile, and the thresholds and grids behind them.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # read when pygame is imported

import matplotlib as mpl
import numpy as np
from gym_pusht.envs.pusht import PushTEnv
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lewm.data import Store
from lewm.envs import PushT, collect
from lewm.envs.push_t import ARENA, SUCCESS_ANGLE, SUCCESS_POSITION
from lewm.files import atomic_path, write_text

GOAL_OFFSET = 25  # of the published protocol, in steps
MOVED = 0.1  # units or degrees: less is not a push
POSE_GRID = (8, 8, 12)  # x, y, angle: 64 units, 30 degrees
AGENT_GRID = (16, 16)
INSIDE = (7.0, 504.0)  # the walls' inner faces
POSES_A_CELL = 4  # tried along each side of a cell, to know whether the block fits there
EXAMPLES = 3
BLOCK, DISC, INK = "#1f5a92", "#d9622b", "#222222"


def block_outline() -> NDArray[np.float64]:
    """Return the corners (2, 4, 2) of the block's bar and stem, about its origin and at angle 0."""
    env = PushTEnv()
    env.reset()
    return np.array([shape.get_vertices() for shape in env.block.shapes], dtype=np.float64)


def outline_at(outline: NDArray[np.float64], pose: NDArray) -> NDArray[np.float64]:
    """Return the corners (..., 2, 4, 2) of the block at poses (..., 3): x, y, angle."""
    cos, sin = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)  # rows are turned axes
    return outline @ turn[..., None, :, :] + pose[..., None, None, :2]


def turned(angle: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the angles in [0, 180] degrees between two."""
    return np.degrees(np.abs((angle - other + np.pi) % (2.0 * np.pi) - np.pi))


def quartiles(values: NDArray) -> dict[str, float]:
    """Return the quartiles of values."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"q25": float(low), "median": float(median), "q75": float(high)}


def cells(values: NDArray, grid: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the cell number of each position (..., 2) in the arena, or pose (..., 3), in a grid."""
    span = np.array([ARENA, ARENA, 2.0 * np.pi])[: len(grid)]
    index = np.clip((values / span * grid).astype(np.int64), 0, np.array(grid) - 1)
    return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(index, -1, 0)), grid))


def marked(numbers: NDArray[np.int64], grid: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which cells of a grid are among the numbered ones."""
    mask = np.zeros(grid, dtype=bool)
    mask.ravel()[numbers.ravel()] = True
    return mask


def possible_poses(outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which cells of the pose grid hold a pose of the block that is clear of the walls."""
    steps = [(np.arange(n * POSES_A_CELL) + 0.5) / (n * POSES_A_CELL) for n in POSE_GRID]
    poses = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3) * (ARENA, ARENA, 2.0 * np.pi)
    corners = outline_at(outline, poses)
    fits = ((corners > INSIDE[0]) & (corners < INSIDE[1])).all((1, 2, 3))
    return marked(cells(poses[fits], POSE_GRID), POSE_GRID)


def measure(states: NDArray[np.float64], outline: NDArray[np.float64]) -> dict[str, Any]:
    """Return what is measured on the states (E, L, 7) of episodes of one length."""
    agent, block, angle = states[..., :2], states[..., 2:4], states[..., 4]
    step = np.linalg.norm(np.diff(block, axis=1), axis=-1)
    turn = turned(angle[:, 1:], angle[:, :-1])
    moves = (step > MOVED) | (turn > MOVED)
    now, then = states[:, :-GOAL_OFFSET], states[:, GOAL_OFFSET:]
    pushed = np.linalg.norm(then[..., 2:4] - now[..., 2:4], axis=-1) > SUCCESS_POSITION
    rotated = turned(then[..., 4], now[..., 4]) > np.degrees(SUCCESS_ANGLE)
    corners = outline_at(outline, states[..., 2:5])
    visits = np.sum([marked(episode, POSE_GRID) for episode in cells(states[..., 2:5], POSE_GRID)], axis=0)
    seen, possible = visits > 0, possible_poses(outline)
    return {
        "episodes_with_contact": float(moves.any(1).mean()),
        "steps_moved": float(moves.mean()),
        "frames_partly_outside": float(((corners < 0.0) | (corners > ARENA)).any((2, 3, 4)).mean()),
        "path_length": quartiles(step.sum(1)),
        "rotation_degrees": quartiles(turn.sum(1)),
        "pairs": {
            "count": pushed.size,
            "moved": float(pushed.mean()),
            "turned": float(rotated.mean()),
            "either": float((pushed | rotated).mean()),
            "solved_at_start": float(PushT().success(now, then).mean()),
        },
        "coverage": {
            "poses": float(seen.mean()),
            "possible_poses": float(possible.mean()),
            "of_possible_poses": float(seen[possible].mean()),
            "episodes_a_possible_pose": quartiles(visits[possible]),
            "agent": float(marked(cells(agent, AGENT_GRID), AGENT_GRID).mean()),
        },
    }


def episode_states(store: Store) -> NDArray[np.float64]:
    """Return the states (E, L, 7) of a store of Push-T with episodes of one length."""
    lengths = np.unique(store.episodes.length)
    if store.meta.task != PushT.name or store.states is None or len(lengths) != 1 or lengths[0] <= GOAL_OFFSET:
        raise ValueError(
            f"store={store.path}: must be Push-T with states, its episodes of one length above {GOAL_OFFSET}; "
            "use one that `lewm collect push-t` made"
        )
    return store.states.astype(np.float64).reshape(store.num_episodes, int(lengths[0]), -1)


def draw_poses(axis: Axes, pose: NDArray[np.float64], outline: NDArray[np.float64]) -> None:
    """Draw how often the block stood where, and how many of the possible angles were seen in each cell."""
    across, down, _ = POSE_GRID
    bins, whole = (2 * down, 2 * across), ((0, ARENA), (0, ARENA))
    image = np.histogram2d(pose[:, 1], pose[:, 0], bins=bins, range=whole)[0] * (100.0 / len(pose))
    axis.imshow(image, extent=(0, ARENA, ARENA, 0), cmap="Blues", vmin=0.0, vmax=1.5 * image.max())
    seen, possible = marked(cells(pose, POSE_GRID), POSE_GRID), possible_poses(outline)
    for i, j in np.ndindex(across, down):
        if of := possible[i, j].sum():
            text = f"{(seen & possible)[i, j].sum()}/{of}"
            place = ((i + 0.5) * ARENA / across, (j + 0.5) * ARENA / down)
            axis.text(*place, text, ha="center", va="center", fontsize=7, color=INK)
    axis.set(xticks=np.linspace(0, ARENA, across + 1), yticks=np.linspace(0, ARENA, down + 1))
    axis.set(xticklabels=[], yticklabels=[])
    axis.grid(color="white", linewidth=0.8)
    axis.tick_params(length=0)
    axis.set_title("Where the block stood (darker: more);\nangles of 30° seen there, of those possible")


def draw_angles(axis: Axes, angle: NDArray[np.float64]) -> None:
    """Draw the distribution of the block's angle."""
    axis.hist(np.degrees(angle), bins=36, range=(0, 360), weights=np.full(len(angle), 100.0 / len(angle)), color=BLOCK)
    axis.axhline(100.0 / 36, color=INK, linewidth=0.8, linestyle="--", label="uniform")
    axis.set(xlim=(0, 360), xticks=range(0, 361, 90), xlabel="block's angle, degrees", ylabel="% of frames")
    axis.set(ylim=(0, 1.25 * axis.get_ylim()[1]))  # room for the legend
    axis.legend(frameon=False, loc="upper right", fontsize=8)
    axis.set_title("How the block was turned")


def draw_offsets(axis: Axes, offset: NDArray[np.float64]) -> None:
    """Draw how far the block moves between a start and the goal of the published protocol."""
    edges = np.arange(0.0, 401.0, 10.0)
    axis.hist(
        np.clip(offset, 0.0, 399.0), bins=list(edges), weights=np.full(offset.size, 100.0 / offset.size), color=BLOCK
    )
    axis.axvline(SUCCESS_POSITION, color=DISC, linewidth=1.2, label=f"{SUCCESS_POSITION:.0f} units: success")
    axis.set(xlim=(0, 400), xlabel=f"block's displacement over {GOAL_OFFSET} steps, units", ylabel="% of pairs")
    axis.legend(frameon=False, fontsize=8)
    axis.set_title(f"From a start to its goal {GOAL_OFFSET} steps on")


def draw_episode(axis: Axes, states: NDArray[np.float64], outline: NDArray[np.float64], number: int) -> None:
    """Draw the ways of disc and block in one episode, with the block's first and last pose."""
    for pose, alpha in ((states[0, 2:5], 0.3), (states[-1, 2:5], 0.85)):
        for part in outline_at(outline, pose):
            axis.fill(*part.T, color=BLOCK, alpha=alpha, linewidth=0)
    axis.plot(*states[:, :2].T, color=DISC, linewidth=0.9, label="disc")
    axis.plot(*states[:, 2:4].T, color=INK, linewidth=1.2, label="block's origin")
    axis.plot(*states[0, :2], "o", color=DISC, markersize=5)
    axis.set(xlim=(0, ARENA), ylim=(ARENA, 0), xticks=[], yticks=[], aspect="equal")
    axis.set_title(f"Episode {number}: first pose pale, last dark")


def draw(states: NDArray[np.float64], outline: NDArray[np.float64], path: Path) -> None:
    """Draw the figure."""
    style: Any = {"font.size": 9.0, "axes.titlesize": 9.0, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.6, 6.6), layout="constrained")
        axes = figure.subplots(2, 3)
        poses = states[..., 2:5].reshape(-1, 3)
        draw_poses(axes[0, 0], poses, outline)
        draw_angles(axes[0, 1], poses[:, 2])
        offset = np.linalg.norm(states[:, GOAL_OFFSET:, 2:4] - states[:, :-GOAL_OFFSET, 2:4], axis=-1)
        draw_offsets(axes[0, 2], offset.ravel())
        for number in range(EXAMPLES):
            draw_episode(axes[1, number], states[number], outline, number)
        axes[1, 0].legend(frameon=False, fontsize=8, loc="best")
        for axis in (axes[0, 0], *axes[1]):  # the arena has four walls
            axis.spines[:].set_visible(True)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=100, metadata={"Software": None})


def main() -> None:
    """Collect the episodes if need be, measure, draw and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="measure this store of Push-T, all of it, and collect none")
    parser.add_argument("--demos", type=Path, help="measure replays of these demonstrations as well")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            settings = {"episodes": arguments.episodes, "seed": arguments.seed}
            if arguments.store:
                store = Store(arguments.store)
            else:
                store = collect("push-t", Path(temporary) / "store", **settings)
            states, replays = episode_states(store), None
            if arguments.demos:
                replays = collect(
                    "push-t", Path(temporary) / "demos", behaviour="demos", demos=arguments.demos, **settings
                )
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error
        outline, beside = block_outline(), {}
        if replays is not None:
            beside["demos"] = {
                "source": replays.meta.source,
                "episodes": replays.num_episodes,
                "frames": replays.num_frames,
                **measure(episode_states(replays), outline),
            }
    summary = {
        "benchmark": "push_t_data",
        "source": store.meta.source,
        "episodes": store.num_episodes,
        "frames": store.num_frames,
        "goal_offset": GOAL_OFFSET,
        "moved_units_or_degrees": MOVED,
        "success_units": SUCCESS_POSITION,
        "success_degrees": float(np.degrees(SUCCESS_ANGLE)),
        "pose_grid": POSE_GRID,
        "agent_grid": AGENT_GRID,
        **measure(states, outline),
        **beside,
    }
    if arguments.figure:
        draw(states, outline, arguments.figure)
    line = json.dumps(summary)
    if arguments.out:
        write_text(arguments.out, line + "\n")
    print(line)


if __name__ == "__main__":
    main()
