"""Planned episodes as a video: start, now, where the present plan is imagined to end, and the goal, with labels."""

from collections.abc import Iterator
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from lewm.evaluate.panels import compose
from lewm.evaluate.recording import Recording
from lewm.evaluate.words import number, outcome
from lewm.files import atomic_path, check_file

ENCODER = "libx264"
HOLD = 12  # frames that an episode's end stays


def episode_pictures(
    recording: Recording, i: int, library: NDArray[np.uint8], *, goal: str = "goal"
) -> Iterator[NDArray[np.uint8]]:
    """Draw an episode as start | now | imagined end of the plan | goal, one picture an environment step.

    Below stand the episode, the step, the planning cost of the present frame and, at the end, the outcome.

    Args:
        recording: The episodes.
        i: Which one.
        library: (L, height, width, 3) frames that imagined steps are shown by.
        goal: Name of the goal's panel.

    Returns:
        Pictures (height', width', 3) with even sides. The lower bar turns green at the end if the goal was reached,
        else red.
    """
    frames, solved_at = recording.frames[i], int(recording.solved_at[i])
    budget = len(frames) - 1
    end = solved_at if solved_at >= 0 else budget
    goal_frame = None if recording.goal_frame is None else recording.goal_frame[i]
    current = np.searchsorted(recording.plan_step, np.arange(end + 1), side="right") - 1
    for step in range(end + 1):
        panels = (
            ("start", frames[0]),
            ("now", frames[step]),
            ("imagined end of the plan", library[recording.plan_row[i, current[step], -1]]),
            (goal, goal_frame),
        )
        notes = (
            f"episode {i + 1} of {len(recording.frames)}",
            f"step {step} of {budget}",
            f"cost {number(float(recording.cost[i, step]))}",
        )
        if step < end:
            yield compose(panels, (*notes, ""))
    tone = "good" if solved_at >= 0 else "bad"
    last = compose(panels, (*notes, outcome(solved_at, budget)), tone=tone)
    for _ in range(1 + HOLD):
        yield last


def check_video(path: Path) -> None:
    """Check that a video can be written, before the episodes that it will show are planned.

    Raises:
        ValueError: If the file is not an .mp4 or cannot be written, or there is no encoder.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"video={path}: must end in .mp4; rename it")
    if ENCODER not in av.codecs_available:
        raise ValueError(f"video={path}: this PyAV has no encoder {ENCODER}; pip install --force-reinstall av")
    check_file(path, "video")


def write_video(
    path: Path, recording: Recording, library: NDArray[np.uint8], *, goal: str = "goal", fps: int = 10
) -> None:
    """Write episodes one after the other as an H.264 video.

    Args:
        path: File to write, .mp4.
        recording: The episodes.
        library: (L, height, width, 3) frames that imagined steps are shown by.
        goal: Name of the goal's panel.
        fps: Frames a second.

    Raises:
        ValueError: If the file is not an .mp4 or cannot be written, or there is no encoder; an earlier one is kept.
        OSError: If the disk is full; an earlier one is kept.
    """
    check_video(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, iio.imopen(temporary, "w", plugin="pyav") as video:
        video.init_video_stream(ENCODER, fps=fps)  # pyright: ignore[reportAttributeAccessIssue]
        for i in range(len(recording.frames)):
            for picture in episode_pictures(recording, i, library, goal=goal):
                video.write_frame(picture)  # pyright: ignore[reportAttributeAccessIssue]
