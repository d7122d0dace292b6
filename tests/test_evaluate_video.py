"""The video of planned episodes: labelled panels, the end, and a file that plays."""

from dataclasses import replace
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

from lewm.evaluate.panels import BAR, FOOT, GAP, SIDE, TONES, compose, enlarge
from lewm.evaluate.recording import Recording
from lewm.evaluate.video import HOLD, check_video, episode_pictures, write_video

FRAMES = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((5, 32, 32, 3), 40, np.uint8)
GOAL = np.full((32, 32, 3), 250, np.uint8)
LIBRARY = np.stack([np.full((32, 32, 3), 200, np.uint8), np.full((32, 32, 3), 100, np.uint8)])
RECORDING = Recording(
    frames=np.stack([FRAMES, FRAMES]),
    cost=np.linspace(2.0, 0.0, 10, dtype=np.float32).reshape(2, 5),
    goal_frame=np.stack([GOAL, GOAL]),
    solved_at=np.array([3, -1]),
    plan_step=np.array([0, 2]),
    plan_row=np.array([[[1, 0], [0, 1]]] * 2),  # the last imagined step of the first plan is row 0, of the second row 1
)
MIDDLE = BAR + SIDE // 2
COLUMNS = [GAP + k * (SIDE + GAP) + SIDE // 2 for k in range(4)]


def pictures(i: int) -> NDArray[np.uint8]:
    return np.stack(list(episode_pictures(RECORDING, i, LIBRARY)))


def foot_of(picture: NDArray[np.uint8]) -> tuple[int, ...]:
    return tuple(picture[-2, 2].tolist())


def test_panels_show_start_now_the_imagined_end_and_the_goal() -> None:
    shown = pictures(0)
    assert len(shown) == 4 + HOLD  # the episode ends where the goal was reached
    for t, (now, imagined) in enumerate([(0, 200), (40, 200), (80, 100), (120, 100), (120, 100)]):
        assert shown[t, MIDDLE, COLUMNS, 0].tolist() == [0, now, imagined, 250]
    assert foot_of(shown[2]) == TONES["plain"]
    assert foot_of(shown[3]) == TONES["good"]
    assert shown.shape[1] % 2 == shown.shape[2] % 2 == 0


def test_unsolved_episode_runs_to_its_end() -> None:
    shown = pictures(1)
    assert len(shown) == 5 + HOLD
    assert foot_of(shown[-1]) == TONES["bad"]


def test_words_stand_in_bars_of_their_own_and_change_with_the_step() -> None:
    shown = pictures(0)
    assert np.ptp(shown[0, :BAR].astype(int)) > 100  # names above
    assert np.ptp(shown[0, -FOOT:].astype(int)) > 100
    assert not np.array_equal(shown[0, -FOOT:], shown[1, -FOOT:])  # step and cost
    np.testing.assert_array_equal(shown[0, :BAR], shown[1, :BAR])
    # Every frame is whole: a panel has one colour here.
    panel = shown[1, BAR : BAR + SIDE, GAP : GAP + SIDE]
    assert (panel == 0).all()


def test_a_goal_without_a_frame_leaves_its_panel_empty() -> None:
    shown = next(episode_pictures(replace(RECORDING, goal_frame=None), 0, LIBRARY, goal="goal region:x=0.2..0.4"))
    assert tuple(shown[MIDDLE, COLUMNS[3]]) == TONES["plain"]


@pytest.mark.parametrize(("side", "shown"), [(16, 256), (64, 256), (96, 288), (100, 300), (224, 224), (512, 384)])
def test_frames_are_brought_to_a_legible_size(side: int, shown: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    large = enlarge(frame)
    assert large.shape == (shown, shown, 3)
    if side <= shown:
        np.testing.assert_array_equal(large[:: shown // side, :: shown // side], frame)


def test_a_long_name_is_cut_to_its_panel() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    long = compose((("x" * 400, frame), ("", frame)), ("",))
    assert np.ptp(long[:BAR, GAP : GAP + SIDE].astype(int)) > 100
    assert np.ptp(long[:BAR, GAP + SIDE + GAP :].astype(int)) < 40


@pytest.mark.slow
def test_video_plays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.mp4"
    write_video(path, RECORDING, LIBRARY)
    video = iio.imread(path, plugin="pyav")
    assert len(video) == 4 + 5 + 2 * HOLD
    assert abs(int(video[1, MIDDLE, COLUMNS[1], 0]) - 40) < 12
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.mp4"]


@pytest.mark.slow
def test_a_video_that_fails_keeps_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "plan.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(IndexError):
        write_video(path, replace(RECORDING, plan_row=RECORDING.plan_row + 5), LIBRARY)
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.mp4"]


def test_other_file_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"video=.*plan\.gif: must end in \.mp4"):
        write_video(tmp_path / "plan.gif", RECORDING, LIBRARY)


def test_a_video_that_cannot_be_written_is_seen_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    check_video(tmp_path / "new" / "plan.mp4")
    assert not (tmp_path / "new").exists()
    for name, told in (("file/plan.mp4", "file is no folder"), ("folder.mp4", "is a folder")):
        with pytest.raises(ValueError, match=f"^video=.*{told}; give "):
            check_video(tmp_path / name)
    monkeypatch.setattr(av, "codecs_available", {"h264"})
    with pytest.raises(ValueError, match=r"^video=.*plan\.mp4: this PyAV has no encoder libx264; pip install"):
        check_video(tmp_path / "plan.mp4")
