"""The order of clips: each epoch is a permutation, whole or window by window, and a function of seed and position."""

import numpy as np
import pytest

from lewm.data import order
from lewm.data.order import ClipOrder


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WINDOW_BYTES", 1000)
    monkeypatch.setattr(order, "BLOCK_BYTES", 100)


# Clips and bytes: one window, windows that divide evenly or not, a short last block, blocks of one clip, and clips that
# are larger than a block or a window.
SIZES = [(1, 1), (40, 1000), (40, 1001), (1000, 8000), (999, 7777), (13, 1300), (13, 1299), (500, 40_000), (3, 9000)]


def stream(clips: ClipOrder, count: int, step: int) -> np.ndarray:
    return np.concatenate([clips.take(i, min(step, count - i)) for i in range(0, count, step)])


@pytest.mark.parametrize(("num_clips", "num_bytes"), SIZES)
@pytest.mark.parametrize("step", [1, 7, 64, 5000])
def test_each_epoch_is_a_permutation(num_clips: int, num_bytes: int, step: int) -> None:
    epochs = stream(ClipOrder(num_clips, num_bytes, 5), 3 * num_clips, step).reshape(3, -1)
    assert (np.sort(epochs, axis=1) == np.arange(num_clips)).all()
    if num_clips > 3:
        assert len({tuple(epoch) for epoch in epochs.tolist()} | {tuple(range(num_clips))}) == 4


def test_one_window_is_one_permutation() -> None:
    clips = ClipOrder(40, 1000, 7)
    assert clips.num_windows == 1
    for epoch in range(3):
        expected = np.random.default_rng((7, epoch)).permutation(40)
        np.testing.assert_array_equal(clips.take(40 * epoch, 40), expected)


@pytest.mark.parametrize(("num_clips", "num_bytes"), SIZES)
def test_any_part_of_the_stream_can_be_taken_afresh(num_clips: int, num_bytes: int) -> None:
    whole = stream(ClipOrder(num_clips, num_bytes, 5), 4 * num_clips, 11)
    used = ClipOrder(num_clips, num_bytes, 5)
    for begin in np.random.default_rng(0).integers(0, 3 * num_clips, 20).tolist():
        count = min(num_clips, 37)
        for clips in (used, ClipOrder(num_clips, num_bytes, 5)):
            np.testing.assert_array_equal(clips.take(begin, count), whole[begin : begin + count])
    if num_clips > 3:
        assert (stream(ClipOrder(num_clips, num_bytes, 6), num_clips, 11) != whole[:num_clips]).any()


@pytest.mark.parametrize(("num_clips", "num_bytes"), SIZES)
def test_runs_are_the_clips_of_their_window(num_clips: int, num_bytes: int) -> None:
    clips = ClipOrder(num_clips, num_bytes, 5)
    by_window: dict[int, list[int]] = {}
    for position in range(3 * num_clips):
        by_window.setdefault(clips.find(position)[0], []).extend(clips.take(position, 1).tolist())
    assert list(by_window) == list(range(3 * clips.num_windows))
    for window, members in by_window.items():
        runs = list(clips.runs(window))
        assert sorted(members) == sorted(clip for first, end in runs for clip in range(first, end))
        assert all(0 < end - first <= clips.block for first, end in runs)


def test_windows_are_bounded_and_mix_many_places() -> None:
    num_clips, clip_bytes = 10_000, 10
    clips = ClipOrder(num_clips, num_clips * clip_bytes, 0)
    assert (clips.block, clips.num_windows) == (10, 100)
    for window in range(110):
        runs = list(clips.runs(window))
        assert sum(end - first for first, end in runs) * clip_bytes == order.WINDOW_BYTES
        assert 10 <= len(runs) <= 11  # the last block and the first may be halves
        assert np.ptp([first for first, _ in runs]) > num_clips / 3  # no neighbours
    # Within a window the clips of a block are mixed with the others': hardly any clip is followed by its neighbour.
    assert np.mean(np.diff(clips.take(0, num_clips)) == 1) < 0.02


def test_blocks_begin_elsewhere_in_every_epoch() -> None:
    clips = ClipOrder(1000, 10_000, 0)
    begins = [{first % clips.block for first, _ in clips.runs(10 * epoch)} for epoch in range(20)]
    assert len(set.union(*begins)) >= 8


def test_half_empty_windows_do_not_exist() -> None:
    # One byte more than three windows: four of nearly equal size, and not a last one of a few clips.
    clips = ClipOrder(301, 3010, 0)
    sizes = [sum(end - first for first, end in clips.runs(window)) for window in range(clips.num_windows)]
    assert sum(sizes) == 301
    assert clips.num_windows == 4
    assert min(sizes) >= 70
    assert max(sizes) <= 80  # a block is 10
