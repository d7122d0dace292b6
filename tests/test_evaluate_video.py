"""The video of planned episodes: panels, the end, and a file that plays."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from lewm.evaluate.video import GAP, HOLD, PANEL, SOLVED, UNSOLVED, episode_panels, write_video

FRAMES = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((5, 32, 32, 3), 40, np.uint8)
GOAL = np.full((32, 32, 3), 250, np.uint8)


def test_panels_show_start_now_and_goal() -> None:
    panels = episode_panels(FRAMES, GOAL, 3)
    assert len(panels) == 4 + HOLD  # the episode ends where the goal was reached
    middle = GAP + PANEL // 2
    columns = [GAP + k * (PANEL + GAP) + PANEL // 2 for k in range(3)]
    for t, now in enumerate([0, 40, 80, 120, 120, 120]):
        assert panels[t, middle, columns, 0].tolist() == [0, now, 250]
    assert tuple(panels[3, 0, 0]) == (255, 255, 255)
    assert tuple(panels[4, 0, 0]) == SOLVED
    assert panels.shape[1] % 2 == panels.shape[2] % 2 == 0


def test_unsolved_episode_runs_to_its_end() -> None:
    panels = episode_panels(FRAMES, GOAL, -1)
    assert len(panels) == 5 + HOLD
    assert tuple(panels[-1, 0, 0]) == UNSOLVED


def test_video_plays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.mp4"
    write_video(path, np.stack([FRAMES, FRAMES]), np.stack([GOAL, GOAL]), np.array([3, -1]))
    video = iio.imread(path, plugin="pyav")
    assert len(video) == 4 + 5 + 2 * HOLD
    assert abs(int(video[1, GAP + 9, GAP + PANEL + GAP + 9, 0]) - 40) < 12


def test_other_file_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"video=.*plan\.gif: must end in \.mp4"):
        write_video(tmp_path / "plan.gif", FRAMES[None], GOAL[None], np.array([3]))
