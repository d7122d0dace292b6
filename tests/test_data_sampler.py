"""The sampler: clips equal those of plain loops, each comes once an epoch, and a batch depends on its step alone."""

import os
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from lewm.data import ClipSampler, Store, StoreMeta, StoreWriter
from lewm.data import order as order_module
from lewm.data import sampler as sampler_module

LENGTHS = (9, 3, 14, 1, 7, 2)


def make_store(path: Path, *, discrete: bool = False, states: bool = True) -> Store:
    """Write episodes whose every pixel, action and state says which frame it belongs to."""
    meta = StoreMeta(
        task="count",
        image_size=2,
        action_kind="discrete" if discrete else "continuous",
        action_size=100 if discrete else 3,
        state_names=("episode", "time") if states else (),
    )
    first = 0
    with StoreWriter(path, meta) as writer:
        for number, length in enumerate(LENGTHS):
            frame = np.arange(first, first + length)
            actions = frame if discrete else frame[:, None] + np.array([0.0, 0.25, 0.5])
            state = np.stack([np.full(length, number), np.arange(length)], axis=1).astype(np.float32)
            writer.append(
                np.broadcast_to(frame[:, None, None, None], (length, 2, 2, 3)).astype(np.uint8),
                actions,
                state if states else None,
            )
            first += length
    return Store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Images of their own: every pixel says which one it is, the state as well."""
    path, first = tmp_path_factory.mktemp("images"), 0
    meta = StoreMeta(task="look", image_size=2, action_kind="none", action_size=0, state_names=("number",))
    with StoreWriter(path, meta) as writer:
        for length in LENGTHS:
            number = np.arange(first, first + length)
            images = np.broadcast_to(number[:, None, None, None], (length, 2, 2, 3)).astype(np.uint8)
            writer.append(images, np.empty((length, 0)), number[:, None].astype(np.float32))
            first += length
    return Store(path)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a window hold 9 of the store's 36 frames, in blocks of 3."""
    monkeypatch.setattr(order_module, "WINDOW_BYTES", 9 * 12)
    monkeypatch.setattr(order_module, "BLOCK_BYTES", 3 * 12)


@pytest.fixture(scope="module")
def discrete_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("discrete"), discrete=True, states=False)


def reference_starts(episodes: list[int], clip_frames: int, frame_skip: int) -> list[int]:
    starts = []
    for number in sorted(episodes):
        first = sum(LENGTHS[:number])
        for time in range(LENGTHS[number]):
            if time + (clip_frames - 1) * frame_skip < LENGTHS[number]:
                starts.append(first + time)
    return starts


SHAPES = [(2, 1), (3, 1), (8, 1), (2, 5), (3, 4), (2, 13)]


@pytest.mark.parametrize(("clip_frames", "frame_skip"), SHAPES)
@pytest.mark.parametrize("episodes", [[0, 1, 2, 3, 4, 5], [4, 2, 0]])
def test_clips_equal_plain_loops(store: Store, episodes: list[int], clip_frames: int, frame_skip: int) -> None:
    sampler = ClipSampler(store, episodes, clip_frames=clip_frames, frame_skip=frame_skip, batch_size=4)
    starts, states = reference_starts(episodes, clip_frames, frame_skip), store.states
    assert states is not None
    assert sampler.starts.tolist() == starts
    assert sampler.num_clips == len(starts)
    clips = sampler.clips(starts[::-1])
    assert clips.index.tolist() == starts[::-1]
    assert clips.frames.shape == (len(starts), clip_frames, 2, 2, 3)
    assert clips.actions.shape == (len(starts), clip_frames - 1, frame_skip * 3)
    assert clips.states is not None
    assert clips.states.shape == (len(starts), clip_frames, 2)
    assert (clips.frames.dtype, clips.actions.dtype, clips.states.dtype) == (np.uint8, np.float32, np.float32)
    for number, start in enumerate(clips.index.tolist()):
        for t in range(clip_frames):
            frame = start + t * frame_skip
            assert (clips.frames[number, t] == frame).all()
            assert clips.states[number, t].tolist() == states[frame].tolist()
        for t in range(clip_frames - 1):
            first = start + t * frame_skip
            expected = [frame + part for frame in range(first, first + frame_skip) for part in (0, 0.25, 0.5)]
            assert clips.actions[number, t].tolist() == expected
    # No clip crosses an episode, and no clip takes the action that leads out of one.
    assert (clips.states[:, :, 0] == clips.states[:, :1, 0]).all()
    last_actions = np.cumsum(LENGTHS) - 1
    assert not np.isin(np.floor(clips.actions), last_actions).any()


@pytest.mark.parametrize(("clip_frames", "frame_skip"), SHAPES)
def test_discrete_actions_without_states(discrete_store: Store, clip_frames: int, frame_skip: int) -> None:
    sampler = ClipSampler(discrete_store, range(6), clip_frames=clip_frames, frame_skip=frame_skip, batch_size=4)
    clips = sampler.clips(sampler.starts)
    assert clips.states is None
    assert clips.actions.dtype == np.int64
    assert clips.actions.shape == (sampler.num_clips, clip_frames - 1, frame_skip)
    for number, start in enumerate(sampler.starts.tolist()):
        assert clips.actions[number].ravel().tolist() == list(range(start, start + (clip_frames - 1) * frame_skip))


@pytest.mark.parametrize("clip_frames", [2, 5])
def test_every_image_is_a_clip_that_stands_still(image_store: Store, clip_frames: int) -> None:
    sampler = ClipSampler(image_store, [4, 0, 3], clip_frames=clip_frames, batch_size=8)
    assert sampler.starts.tolist() == [*range(9), 26, *range(27, 34)]
    clips = sampler.clips(sampler.starts)
    for clips in (sampler.clips(sampler.starts), sampler.batch(0)):
        assert clips.frames.shape == (len(clips.index), clip_frames, 2, 2, 3)
        assert (clips.frames == clips.index[:, None, None, None, None]).all()
        assert clips.actions.shape == (len(clips.index), clip_frames - 1, 0)
        assert clips.actions.dtype == np.float32
        assert clips.states is not None
        assert (clips.states[..., 0] == clips.index[:, None]).all()
        assert clips.frames.flags.c_contiguous
    last = image_store.num_frames - 1
    assert (ClipSampler(image_store, [5], clip_frames=clip_frames, batch_size=1).clips([last]).frames == last).all()


def test_images_have_no_frame_skip(image_store: Store) -> None:
    with pytest.raises(ValueError, match=r"^frame_skip=2: .*; use 1$"):
        ClipSampler(image_store, range(6), frame_skip=2, batch_size=4)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 100])
def test_every_clip_comes_once_an_epoch(store: Store, batch_size: int) -> None:
    sampler = ClipSampler(store, range(6), batch_size=batch_size, seed=5)
    epochs = 3
    steps = -(-epochs * sampler.num_clips // batch_size)
    stream = np.concatenate([sampler.batch(step).index for step in range(steps)])
    orders = stream[: epochs * sampler.num_clips].reshape(epochs, -1)
    for order in orders:
        assert np.sort(order).tolist() == sampler.starts.tolist()
    assert len({tuple(order) for order in [*orders, sampler.starts]}) == epochs + 1  # each shuffled, each differently


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_what_fits_in_memory_is_shuffled_as_one(store: Store, batch_size: int) -> None:
    # Recorded figures and loss curves depend on this order.
    sampler = ClipSampler(store, [5, 4, 2, 1, 0], batch_size=batch_size, seed=3)
    steps = -(-3 * sampler.num_clips // batch_size)
    stream = np.concatenate([sampler.batch(step).index for step in range(steps)])[: 3 * sampler.num_clips]
    orders = [np.random.default_rng((3, epoch)).permutation(sampler.starts) for epoch in range(3)]
    assert stream.tolist() == np.concatenate(orders).tolist()
    assert stream[:8].tolist() == [30, 22, 27, 3, 31, 14, 19, 32]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("world_size", [1, 3])
def test_windows_keep_every_promise(store: Store, world_size: int) -> None:
    def make(rank: int, *, world_size: int = world_size) -> ClipSampler:
        return ClipSampler(store, [0, 1, 2, 4], batch_size=6, seed=5, rank=rank, world_size=world_size)

    ranks, whole = [make(rank) for rank in range(world_size)], make(0, world_size=1)
    steps = whole.num_clips  # six epochs
    batches = [np.concatenate([sampler.batch(step).index for sampler in ranks]) for step in range(steps)]
    for epoch in np.concatenate(batches).reshape(6, -1):
        assert np.sort(epoch).tolist() == whole.starts.tolist()
    assert batches[0].tolist() != np.random.default_rng((5, 0)).permutation(whole.starts)[:6].tolist()
    for step in (7, steps - 1, 0, 13):
        clips = make(0, world_size=1).batch(step)
        assert clips.index.tolist() == whole.batch(step).index.tolist() == batches[step].tolist()
        assert (clips.frames[:, 0] == clips.index[:, None, None, None]).all()


def asked_bytes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(sampler_module, "_CAN_READ_AHEAD", True)
    monkeypatch.setattr(sampler_module, "_will_need", lambda file, begin, end: asked.append((begin, end)))
    return asked


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("frame_skip", [1, 2])
@pytest.mark.parametrize("first_step", [0, 7])
def test_frames_are_asked_for_a_window_ahead(
    store: Store, monkeypatch: pytest.MonkeyPatch, frame_skip: int, first_step: int
) -> None:
    asked = asked_bytes(monkeypatch)
    sampler = ClipSampler(store, [0, 2, 4], frame_skip=frame_skip, batch_size=2, seed=5)
    window = 9  # clips, at most
    header, late = 128, 0
    for step in range(first_step, first_step + 3 * sampler.num_clips):
        in_time = {frame for begin, end in asked for frame in range((begin - header) // 12, (end - header) // 12)}
        for frame in (sampler.batch(step).index[:, None] + np.array([0, frame_skip])).ravel().tolist():
            late += frame not in in_time
        frames, drawn = sum(end - begin for begin, end in asked) // 12, 2 * (step + 1 - first_step)
        # No more than two windows ahead, of which every clip may ask for the frames that end it.
        assert frames <= (drawn + 2 * window) * (1 + frame_skip)
    assert late <= 2 * 2  # those of the first batch alone
    owners = [np.searchsorted(store.episodes.start, (begin - header) // 12, side="right") - 1 for begin, _ in asked]
    assert set(owners) == {0, 2, 4}
    for (begin, end), owner in zip(asked, owners, strict=True):
        assert begin < end <= header + 12 * store.episode(int(owner)).stop


def test_what_fits_in_memory_is_asked_for_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_bytes(monkeypatch)
    sampler = ClipSampler(store, [0, 2], batch_size=4)
    for step in range(20):
        sampler.batch(step)
    assert asked == [(128, 128 + 9 * 12), (128 + 12 * 12, 128 + 26 * 12)]


def test_reading_ahead_reads(tmp_path: Path) -> None:
    if not sampler_module._CAN_READ_AHEAD:
        pytest.skip("this system cannot read ahead")
    path, size = tmp_path / "file", 1 << 20
    path.write_bytes(bytes(size))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if sampler_module._in_memory(file.fileno(), size - 1):
            pytest.skip("this file system keeps its files in memory")
        sampler_module._will_need(file.fileno(), 200_000, size)
        end = monotonic() + 30
        for offset in range(200_000, size, 4096):
            while not (there := sampler_module._in_memory(file.fileno(), offset)) and monotonic() < end:
                sleep(0.01)
            assert there
        assert not sampler_module._in_memory(file.fileno(), 0)
        assert not sampler_module._in_memory(file.fileno(), size)  # behind the end


def test_a_batch_depends_on_seed_and_step_alone(store: Store) -> None:
    sampler = ClipSampler(store, range(6), batch_size=8, seed=5)
    forward = [sampler.batch(step) for step in range(12)]
    for step in (11, 0, 7, 3):
        again, fresh = sampler.batch(step), ClipSampler(store, range(6), batch_size=8, seed=5).batch(step)
        for clips in (again, fresh):
            np.testing.assert_array_equal(clips.index, forward[step].index)
            np.testing.assert_array_equal(clips.frames, forward[step].frames)
    other = ClipSampler(store, range(6), batch_size=8, seed=6)
    assert (other.batch(0).index != forward[0].index).any()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_batch_of_one_process(store: Store, world_size: int) -> None:
    whole = ClipSampler(store, range(6), batch_size=12, seed=1)
    ranks = [
        ClipSampler(store, range(6), batch_size=12, seed=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in range(6):  # several epochs, so that some batches span two
        one, parts = whole.batch(step), [sampler.batch(step) for sampler in ranks]
        assert [len(part.index) for part in parts] == [12 // world_size] * world_size
        for name in ("index", "frames", "actions", "states"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(one, name))


def test_clips_do_not_share_memory_with_the_store(store: Store) -> None:
    clips = ClipSampler(store, [0], batch_size=8).batch(0)
    for array, source in ((clips.frames, store.frames), (clips.actions, store.actions), (clips.states, store.states)):
        assert array is not None
        assert type(array) is np.ndarray
        assert source is not None
        assert array.flags.writeable
        assert array.flags.c_contiguous
        assert not np.shares_memory(array, source)


def test_episodes_may_repeat_without_weight(store: Store) -> None:
    sampler = ClipSampler(store, np.array([2, 0, 2, 0]), batch_size=2)
    assert max(Counter(sampler.starts.tolist()).values()) == 1
    assert sampler.num_clips == LENGTHS[0] + LENGTHS[2] - 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_frames": 1}, "^clip_frames=1"),
        ({"frame_skip": 0}, "^frame_skip=0"),
        ({"batch_size": 0}, "^batch_size=0"),
        ({"batch_size": 5, "world_size": 2}, "^batch_size=5: .*multiple of world_size=2; use 4"),
        ({"rank": 2, "world_size": 2, "batch_size": 4}, "^rank=2"),
        ({"rank": -1}, "^rank=-1"),
        ({"episodes": [0, 6]}, "^episodes=0 to 6: .* has 6"),
        ({"episodes": [-1]}, "^episodes=-1"),
        ({"episodes": []}, "^clip_frames=2: .*longest of 0 episodes has 0"),
        ({"clip_frames": 8, "frame_skip": 2}, "^clip_frames=8: with frame_skip=2 a clip spans 15 frames.* has 14"),
    ],
)
def test_bad_settings(store: Store, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ClipSampler(store, **{"episodes": range(6), "batch_size": 4, **settings})
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)


def test_longest_clip_that_fits(store: Store) -> None:
    assert ClipSampler(store, range(6), clip_frames=2, frame_skip=13, batch_size=1).num_clips == 1
    with pytest.raises(ValueError, match="a clip spans 15 frames"):
        ClipSampler(store, range(6), clip_frames=2, frame_skip=14, batch_size=1)


@pytest.mark.parametrize("index", [[8], [0, -1], [35], [1000], [[0, 1]]])
def test_bad_index(store: Store, index: list) -> None:
    sampler = ClipSampler(store, range(6), batch_size=4)
    with pytest.raises(ValueError, match=r"^index=") as error:
        sampler.clips(index)
    assert "\n" not in str(error.value)


def test_negative_step(store: Store) -> None:
    sampler = ClipSampler(store, range(6), batch_size=4)
    for ask in (sampler.batch, sampler.index):
        with pytest.raises(ValueError, match=r"^step=-1"):
            ask(-1)
