"""Draw the README's picture from an evaluated Two-Room run: planned episodes with start, goal, way and imagined way.

python benchmarks/picture.py runs/demo --out docs/demo.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Draw up to six episodes of `eval.npz` side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    arguments = parser.parse_args()
    with np.load(arguments.run / "eval.npz") as arrays:
        frames, states = arrays["episode_frames"], arrays["episode_states"]
        goals, goal_states = arrays["episode_goal_frame"], arrays["episode_goal_state"]
        imagined, solved = arrays["episode_imagined_states"], arrays["episode_solved_at"]
    count, size = len(frames), frames.shape[2]
    figure, axes = plt.subplots(1, count, figsize=(2.2 * count, 2.7), layout="constrained")
    for axis, i in zip(np.atleast_1d(axes), range(count), strict=True):
        # start and goal in one frame: what the goal frame changes is shown at half strength
        axis.imshow((frames[i, 0].astype(np.float32) + goals[i]) / 510, extent=(0, 1, 1, 0), interpolation="nearest")
        end = int(solved[i]) if solved[i] >= 0 else len(states[i]) - 1
        axis.plot(*states[i, : end + 1, :2].T, color="black", linewidth=1.5, label="way taken")
        axis.plot(*imagined[i, 0, :, :2].T, "o-", color="tab:blue", markersize=3, label="first plan, imagined")
        axis.plot(*goal_states[i, :2], "*", color="gold", markeredgecolor="black", markersize=12, label="goal")
        axis.set_title(f"reached in {end} steps" if solved[i] >= 0 else "not reached in 50 steps", fontsize=9)
        axis.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(arguments.out, dpi=max(110, 2 * size))
    plt.close(figure)


if __name__ == "__main__":
    main()
