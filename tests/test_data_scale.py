"""A store of 200 GB: opened, sampled from and gone through at once and in little memory.

Its frames are a sparse file: only the index and the frames that are looked at take space.
"""

import gc
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from lewm.data import Clips, ClipSampler, Store
from lewm.data.order import WINDOW_BYTES

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "scale.py"
SIZE = 200 * 10**9
LENGTH = 100
BATCH = 64


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 16 million frames of 64 px."""
    path = tmp_path_factory.mktemp("big") / "store"
    try:
        runpy.run_path(str(BENCHMARK))["build"](path, SIZE)
    except OSError as error:
        pytest.skip(f"no sparse file of {SIZE // 10**9} GB can be made here ({error})")
    return path


def open_all(path: Path, *, step: int = 0) -> tuple[ClipSampler, Clips]:
    """Return a sampler, and the batch of one step."""
    store = Store(path)
    sampler = ClipSampler(store, range(store.num_episodes), batch_size=BATCH, seed=1)
    return sampler, sampler.batch(step)


def private_bytes() -> int:
    """Return the memory of this process that is its own: a file's mapped pages are the system's to take back."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not tell how much memory is a process's own")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_first_batch(path: Path) -> None:
    assert (path / "frames.npy").stat().st_size > 0.99 * SIZE
    first, resumed = (open_all(path, step=step)[1] for step in (0, 10**9))  # the latter after a year of training
    assert first.frames.shape == resumed.frames.shape == (BATCH, 2, 64, 64, 3)
    assert not np.array_equal(first.index, resumed.index)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clips(path: Path) -> None:
    gc.collect()
    before = private_bytes()
    sampler, _ = open_all(path)
    for step in (1, 2, 10**6, 10**7):  # other windows and epochs
        sampler.batch(step)
    # The episode table and little more; one integer a clip would be more.
    assert private_bytes() - before < 4 * sampler.num_clips + 2 * BATCH * 2 * sampler.store.frames[0].nbytes
    assert sampler.num_clips == sampler.store.num_episodes * (LENGTH - 1) > 16_000_000


def test_an_epoch_is_a_permutation_in_bounded_windows(path: Path) -> None:
    sampler, _ = open_all(path)
    order, part = sampler._order, 1 << 18
    assert order.num_windows == -(-sampler.store.frames.nbytes // WINDOW_BYTES)
    seen = np.zeros(sampler.num_clips, dtype=np.int8)
    for position in range(0, sampler.num_clips, part):
        seen[order.take(position, min(part, sampler.num_clips - position))] += 1
    assert (seen == 1).all()
    # A batch comes from places all over the store, and a window from hundreds.
    assert np.unique(order.take(0, BATCH) // order.block).size > BATCH // 2
    assert len(list(order.runs(0))) > 200


def test_ranks_share_a_batch(path: Path) -> None:
    whole, clips = open_all(path, step=123_456)
    parts = [
        ClipSampler(whole.store, range(whole.store.num_episodes), batch_size=BATCH, seed=1, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert np.concatenate([part.batch(123_456).index for part in parts]).tolist() == clips.index.tolist()
    assert np.unique(clips.index).size == BATCH


def test_clips_far_behind_are_the_right_ones(path: Path) -> None:
    sampler, clips = open_all(path, step=777)
    row, last = sampler.store.frames[0].nbytes, sampler.store.num_frames - 1
    index = np.append(clips.index, last - 1)
    header = os.path.getsize(path / "frames.npy") - sampler.store.num_frames * row
    with open(path / "frames.npy", "r+b") as file:
        for frame in np.unique([index, index + 1]).tolist():
            file.seek(header + frame * row)
            file.write(frame.to_bytes(4, "little"))
    for found in (sampler.batch(777), sampler.clips(index)):
        marks = found.frames.reshape(len(found.index), 2, -1)[:, :, :4].copy().view("<u4")[:, :, 0]
        assert marks.tolist() == np.stack([found.index, found.index + 1], axis=1).tolist()
    with pytest.raises(ValueError, match="no clip begins there"):
        sampler.clips([last])
