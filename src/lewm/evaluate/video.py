"""Planned episodes as a video: start, now and goal side by side."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

PANEL = 192  # smallest side of a panel in pixels
GAP = 4
HOLD = 8  # frames that an episode's end stays
SOLVED, UNSOLVED, PLAIN = (40, 160, 80), (200, 60, 50), (255, 255, 255)


def episode_panels(frames: NDArray[np.uint8], goal: NDArray[np.uint8], solved_at: int) -> NDArray[np.uint8]:
    """Lay an episode out as start | now | goal.

    Args:
        frames: (T, height, width, 3), from the start on.
        goal: (height, width, 3).
        solved_at: Frame at which the goal was reached, and the episode ends here; -1 for never.

    Returns:
        (T', height', width', 3) with even sides. At the end its border is green if the goal was reached, else red.
    """
    length = solved_at + 1 if solved_at >= 0 else len(frames)
    shown = frames[np.minimum(np.arange(length + HOLD), length - 1)]
    scale = -(-PANEL // frames.shape[1])
    panels = [np.broadcast_to(frames[0], shown.shape), shown, np.broadcast_to(goal, shown.shape)]
    panels = [panel.repeat(scale, axis=1).repeat(scale, axis=2) for panel in panels]
    height, width = panels[0].shape[1:3]
    canvas = np.empty((len(shown), height + 2 * GAP, 3 * width + 4 * GAP, 3), dtype=np.uint8)
    canvas[:length] = PLAIN
    canvas[length:] = SOLVED if solved_at >= 0 else UNSOLVED
    for k, panel in enumerate(panels):
        left = GAP + k * (width + GAP)
        canvas[:, GAP : GAP + height, left : left + width] = panel
    return canvas[:, : canvas.shape[1] // 2 * 2, : canvas.shape[2] // 2 * 2]


def check_suffix(path: Path) -> None:
    """Check the name of a video.

    Raises:
        ValueError: If the file is not an .mp4.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"video={path}: must end in .mp4; rename it")


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    goals: NDArray[np.uint8],
    solved_at: NDArray[np.int64],
    *,
    fps: int = 10,
) -> None:
    """Write episodes one after the other as an H.264 video.

    Args:
        path: File to write, .mp4.
        frames: (n, T, height, width, 3) uint8.
        goals: (n, height, width, 3) uint8.
        solved_at: (n,) frame at which each goal was reached, -1 for never.
        fps: Frames a second.

    Raises:
        ValueError: If the file is not an .mp4.
    """
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    panels = [episode_panels(*episode) for episode in zip(frames, goals, solved_at.tolist(), strict=True)]
    iio.imwrite(path, np.concatenate(panels), plugin="pyav", codec="libx264", fps=fps)
