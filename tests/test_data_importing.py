"""What is common to all importers: fitting, frame-skip, skipped episodes, order, resuming and bounded memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest

from lewm.data import Store, importing
from lewm.data.fit import FrameFit, FrameFitter
from lewm.data.importers.source import ImportOptions, Recording, Source, SourceInfo
from lewm.data.importing import detect_format, import_recording

LENGTHS = (7, 5, 9)


def picture(episode: int, step: int, height: int = 8, width: int = 8) -> np.ndarray:
    """A frame of one colour, which tells where it comes from."""
    return np.full((height, width, 3), (10 * episode, step, 77), dtype=np.uint8)


class FakeSource(Source):
    """Three episodes whose frames, actions and states say where they come from. Episode k of `bad` cannot be read."""

    format: ClassVar[Any] = "fake"
    bad: ClassVar[tuple[int, ...]] = ()
    size: ClassVar[tuple[int, int]] = (8, 8)
    extra_frames: ClassVar[int] = 0

    @classmethod
    def matches(cls, path: Path) -> bool:
        return (path / "fake").is_file()

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.cameras = options.cameras

    @property
    def info(self) -> SourceInfo:
        return SourceInfo(
            task="fake", action_kind="continuous", action_size=2, action_names=("a", "b"), state_names=("s",), fps=30.0,
            origin={"version": 7},
        )  # fmt: skip

    @property
    def num_episodes(self) -> int:
        return len(LENGTHS)

    def length(self, index: int) -> int:
        return LENGTHS[index]

    def episode(self, index: int) -> Recording:
        if index in self.bad:
            raise ValueError(f"fake/{index}: is broken; record it again")
        length = LENGTHS[index]
        steps = np.arange(length)
        return Recording(
            frames=self._frames(index, length + self.extra_frames),
            actions=np.stack([np.full(length, index), steps], axis=1).astype(np.float64),
            states=steps[:, None] / 100,
            source=f"fake/{index}",
            text=f"task {index}",
        )

    def _frames(self, index: int, length: int) -> Iterator[np.ndarray | tuple[np.ndarray, ...]]:
        for step in range(length):
            frame = picture(index, step, *self.size)
            yield tuple(frame + k for k in range(len(self.cameras))) if self.cameras else frame


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(importing.FORMATS, "fake", f"{__name__}:FakeSource")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    (tmp_path / "recording").mkdir()
    (tmp_path / "recording" / "fake").touch()
    return tmp_path / "recording"


def run(recording: Path, name: str = "store", **options: object) -> importing.Imported:
    settings = ImportOptions(**({"image_size": 8} | options))  # type: ignore[arg-type]
    return import_recording(recording, recording.parent / name, options=settings, workers=1, progress=False)


def test_everything_is_in_its_place(fake: Path) -> None:
    done = run(fake)
    store = done.store
    assert done.skipped == ()
    assert store.episodes.length.tolist() == list(LENGTHS)
    assert store.episodes.source == ["fake/0", "fake/1", "fake/2"]
    assert store.episodes.text == ["task 0", "task 1", "task 2"]
    assert store.meta.action_names == ("a", "b")
    assert store.meta.fps == 30.0
    assert store.meta.origin == {
        "version": 7, "format": "fake", "name": fake.name, "path": str(fake), "fit": "crop",
        "crop_box": None, "cameras": [],
        "action": [], "state": [], "frame_skip": 1,
    }  # fmt: skip
    assert store.states is not None
    for index, length in enumerate(LENGTHS):
        here = store.episode(index)
        np.testing.assert_array_equal(store.frames[here], [picture(index, step) for step in range(length)])
        np.testing.assert_array_equal(store.actions[here], [[index, step] for step in range(length)])
        np.testing.assert_allclose(store.states[here, 0], np.arange(length) / 100, rtol=1e-6)
    assert sorted(path.name for path in store.path.iterdir() if not path.name.startswith(".")) == [
        "actions.npy", "episodes.parquet", "frames.npy", "meta.json", "states.npy",
    ]  # fmt: skip


def test_frame_skip_concatenates_actions(fake: Path) -> None:
    store = run(fake, frame_skip=2).store
    assert store.episodes.length.tolist() == [3, 2, 4]  # what is left over is dropped
    assert store.meta.action_size == 4
    assert store.meta.action_names == ("a+0", "b+0", "a+1", "b+1")
    assert store.meta.fps == 15.0
    np.testing.assert_array_equal(store.actions[store.episode(2)][1], [2, 2, 2, 3])
    np.testing.assert_array_equal(store.frames[store.episode(2)][1], picture(2, 2))
    assert store.states is not None
    assert store.states[store.episode(2)][1, 0] == pytest.approx(0.02)


def test_cameras_are_tiled(fake: Path) -> None:
    frames = run(fake, cameras=("left", "right", "top")).store.frames
    view = picture(0, 0, 4, 4)
    assert frames.shape[1:] == (8, 8, 3)
    np.testing.assert_array_equal(frames[0, :4], np.concatenate([view, view], axis=1))  # the upper half
    np.testing.assert_array_equal(frames[0, 4:], np.concatenate([view + 1, view + 2], axis=1))


def test_a_bad_episode_is_skipped_and_reported(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSource, "bad", (1,))
    done = run(fake)
    assert done.skipped == ((1, "fake/1: is broken; record it again"),)
    assert done.store.episodes.source == ["fake/0", "fake/2"]
    assert done.store.episodes.seed.tolist() == [0, 2]
    np.testing.assert_array_equal(done.store.frames[done.store.episode(1)][3], picture(2, 3))
    assert run(fake).skipped == done.skipped  # it is tried again
    monkeypatch.setattr(FakeSource, "bad", ())
    mended = run(fake)
    assert mended.skipped == ()
    assert mended.store.episodes.seed.tolist() == [0, 2, 1]  # behind the others
    np.testing.assert_array_equal(mended.store.frames[mended.store.episode(2)][3], picture(1, 3))


def test_nothing_but_bad_episodes_is_an_error(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSource, "bad", (0, 1, 2))
    with pytest.raises(ValueError, match=r"none of its 3 episodes can be imported; episode 0: fake/0: is broken"):
        run(fake)
    assert not (fake.parent / "store").exists()


@pytest.mark.parametrize(("extra", "has"), [(-2, "5"), (1, "more")])
def test_frames_and_actions_that_do_not_match_are_skipped(
    fake: Path, monkeypatch: pytest.MonkeyPatch, extra: int, has: str
) -> None:
    monkeypatch.setattr(FakeSource, "extra_frames", extra)
    with pytest.raises(ValueError, match=f"fake/0: has {has} frames for 7 actions; leave it out or repair it"):
        run(fake)


def test_goes_on_where_it_stopped(fake: Path) -> None:
    first = import_recording(
        fake, fake.parent / "parts", options=ImportOptions(image_size=8), max_episodes=1, workers=1, progress=False
    )
    assert first.store.num_episodes == 1
    run(fake, "parts")
    run(fake, "whole")
    assert contents(fake.parent / "parts") == contents(fake.parent / "whole")


def test_other_options_do_not_go_into_the_same_store(fake: Path) -> None:
    run(fake)
    with pytest.raises(ValueError, match=r"^fit='pad': the store has 'crop'; append the same .* give another folder$"):
        run(fake, fit="pad")


def test_the_recording_is_not_written_into(fake: Path) -> None:
    for out in (fake, fake / "store"):
        with pytest.raises(ValueError, match="lies in the recording; give a folder outside of"):
            import_recording(fake, out, workers=1, progress=False)


def test_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; give a recording's file or folder"):
        detect_format(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("?")
    with pytest.raises(
        ValueError, match="looks like none of lerobot, hdf5, zarr, video, frames, images, webdataset; name one"
    ):
        detect_format(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 2}, "image_size=2: must be 4 to 4096 pixels"),
        ({"fit": "squash"}, "fit='squash': must be crop, pad or stretch"),
        ({"frame_skip": 0}, "frame_skip=0: must be at least 1"),
        ({"crop_box": (0, -1, 4, 4)}, "crop_box=.*left and top must not be negative"),
        ({"cameras": ("a", "a")}, "cameras=a, a: a camera is named twice"),
        ({"action": ("a", "b", "a")}, "action=a, b, a: a name is given twice"),
        ({"state": ("a", "a")}, "state=a, a: a name is given twice"),
        ({"cameras": ("a", "b"), "image_size": 6}, "image_size=6: is too small for 2 cameras; use 8 or more"),
        ({"cameras": ("a", "b"), "crop_box": (0, 0, 4, 4)}, "crop_box=.*is of one camera"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImportOptions(**options)


def gradient(height: int, width: int) -> np.ndarray:
    """A frame whose red channel is the column and whose green channel is the row."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(width), np.arange(height)[:, None]
    return frame


def test_fit_keeps_a_frame_of_the_right_size() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for fit in ("crop", "pad", "stretch"):
        np.testing.assert_array_equal(FrameFitter(FrameFit(image_size=16, fit=fit))(frame), frame)


def test_fit_averages_over_areas() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = frame.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(FrameFitter(FrameFit(image_size=16))(frame) - expected).max() <= 1.0


def test_fit_modes_keep_proportions_or_say_so() -> None:
    frame = gradient(64, 96)
    cut = FrameFitter(FrameFit(image_size=32))(frame)
    np.testing.assert_allclose(cut[0, [0, -1], 0], [16.5, 78.5], atol=1.0)  # the middle 64 of 96 columns
    np.testing.assert_allclose(cut[[0, -1], 0, 1], [0.5, 62.5], atol=1.0)
    padded = FrameFitter(FrameFit(image_size=48, fit="pad"))(frame)
    assert (padded[:8] == 0).all()
    assert (padded[40:] == 0).all()
    np.testing.assert_allclose(padded[8, [0, -1], 0], [0.5, 94.5], atol=1.0)
    stretched = FrameFitter(FrameFit(image_size=32, fit="stretch"))(frame)
    np.testing.assert_allclose(stretched[0, [0, -1], 0], [1.0, 94.0], atol=1.0)
    boxed = FrameFitter(FrameFit(image_size=16, crop_box=(40, 8, 16, 16)))(frame)
    np.testing.assert_array_equal(boxed, frame[8:24, 40:56])
    describe = {fit: FrameFit(image_size=32, fit=fit).describe(64, 96) for fit in ("crop", "pad", "stretch")}
    assert describe == {
        "crop": "96x64, cut to 64x64, scaled to 32x32",
        "pad": "96x64, with black borders, scaled to 32x32",
        "stretch": "96x64, scaled to 32x32, proportions changed",
    }


def test_fit_refuses_other_arrays() -> None:
    fitter = FrameFitter(FrameFit(image_size=8))
    bad_arrays: list[Any] = [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)]
    for bad in bad_arrays:
        with pytest.raises(ValueError, match=r"must be \(height, width, 3\) uint8; convert it"):
            fitter(bad)
    with pytest.raises(ValueError, match="must lie inside frames of 8x8"):
        FrameFitter(FrameFit(image_size=8, crop_box=(4, 4, 8, 8)))(np.zeros((8, 8, 3), np.uint8))


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store, its lock aside."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != ".lock"}


def write_demos(path: Path, episodes: int, length: int, size: int) -> None:
    """Write an HDF5 recording in robomimic's layout, of noise."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for k in range(episodes):
            demo = file.create_group(f"data/demo_{k}")
            demo["actions"] = rng.normal(size=(length, 2))
            frames = rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
            demo.create_dataset("obs/front_image", data=frames, compression="gzip")


@pytest.mark.slow
def test_a_killed_import_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    recording = tmp_path / "demos.hdf5"
    write_demos(recording, episodes=10, length=30, size=96)
    options = ImportOptions(image_size=64)
    import_recording(recording, tmp_path / "whole", options=options, workers=1, progress=False)
    expected = contents(tmp_path / "whole")
    code = (
        "from lewm.data.importing import *\n"
        "if __name__ == '__main__':\n"
        f"    import_recording({str(recording)!r}, {str(tmp_path / 'killed')!r},\n"
        "        options=ImportOptions(image_size=64), workers=2, progress=False)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    frames, kills = tmp_path / "killed" / "frames.npy", 0
    while True:
        before = frames.stat().st_size if frames.is_file() else 0
        process = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"OMP_NUM_THREADS": "1"})
        while process.poll() is None:
            grown = frames.is_file() and frames.stat().st_size > before + 300_000  # in the midst of an episode
            if kills < 3 and grown:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills >= 1  # a busy machine may miss a moment to kill
    assert contents(tmp_path / "killed") == expected
    assert Store(tmp_path / "killed").num_episodes == 10


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to measure memory")
def test_memory_is_bounded_by_a_frame_not_by_an_episode(tmp_path: Path) -> None:
    recording = tmp_path / "demos.hdf5"
    with h5py.File(recording, "w") as file:
        demo = file.create_group("data/demo_0")
        length = 60_000
        demo["actions"] = np.zeros((length, 2))
        shape = (length, 64, 64, 3)  # 740 MB in the store
        frames = demo.create_dataset(
            "obs/front_image", shape, np.uint8, chunks=(64, 64, 64, 3), compression="gzip", compression_opts=1
        )
        block = np.zeros((1000, 64, 64, 3), dtype=np.uint8)
        for first in range(0, length, len(block)):
            frames[first : first + len(block)] = block
    code = (
        "from lewm.data.importing import *\n"
        "def high(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])\n"
        "import lewm.data.importers.hdf5\n"
        "before = high()\n"
        f"import_recording({str(recording)!r}, {str(tmp_path / 'store')!r}, workers=1, progress=False)\n"
        "print(high() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 400_000  # kB, for 740 MB of frames
    assert Store(tmp_path / "store").num_frames == length


def test_a_disk_that_is_too_small_is_refused_first(
    fake: Path, monkeypatch: pytest.MonkeyPatch, free_space: Callable[[float], None]
) -> None:
    frame = 8 * 8 * 3 + 2 * 4 + 4  # with its action and state
    monkeypatch.setattr(FakeSource, "bad", (2,))
    run(fake, "grown")
    monkeypatch.setattr(FakeSource, "bad", ())
    with monkeypatch.context() as patch:
        patch.setattr(importing, "read_episode", lambda *_: pytest.fail("importing was begun"))
        # An episode lies in a file of its own until it is stored: the longest is there twice.
        for name, frames in (("new/store", 7 + 5 + 9 + 9), ("grown", 9 + 9)):
            free_space(frames * frame - 1)
            with pytest.raises(ValueError, match=r"^out=[^\n]*: needs about [^\n]*, or fewer --episodes$"):
                run(fake, name)
    assert sorted(path.name for path in fake.parent.iterdir()) == ["grown", "recording"]
    free_space(2 * 9 * frame)
    assert run(fake, "grown").store.num_episodes == 3


def test_a_length_that_cannot_be_needs_no_disk(
    fake: Path, monkeypatch: pytest.MonkeyPatch, free_space: Callable[[float], None]
) -> None:
    monkeypatch.setattr(FakeSource, "length", lambda _, index: 2**24 if index == 1 else LENGTHS[index])
    free_space(1e6)
    assert run(fake).store.num_episodes == 3


def test_a_folder_that_cannot_be_written_is_refused_before_the_recording_is_opened(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "open_source", lambda *_: pytest.fail("the recording was opened"))
    (fake.parent / "file").touch()
    with pytest.raises(ValueError, match=r"^out=[^\n]*: [^\n]*file is no folder; give another path$"):
        run(fake, "file/store")
