"""The data check: every planted defect is found where it is, and nothing else is; good data raises nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import disc_world
from disc_world import EPISODES, LENGTH, Episode, draw, make_episode, make_episodes, write
from lewm.data import Store, StoreWriter, split_episodes
from lewm.data.check import check_frames, check_twins
from lewm.data.check.findings import Finding, Span
from lewm.data.check.store_check import CheckResult, check_store
from lewm.envs import collect

HELD_OUT, SPLIT_SEED = 0.2, 0


def check(store: Store, **settings: Any) -> CheckResult:
    usual = {"frame_skip": 1, "clip_frames": 4, "held_out": HELD_OUT, "split_seed": SPLIT_SEED}
    return check_store(store, **(usual | settings))


def found(tmp_path: Path, episodes: list[Episode], **settings: Any) -> list[Finding]:
    return list(check(write(tmp_path / "store", episodes), **settings).findings)


def only(findings: list[Finding], severity: str, name: str, *where: tuple[int, int, int]) -> Finding:
    """Expect exactly one finding, there."""
    assert [(f.severity, f.name, f.where) for f in findings] == [
        (severity, name, tuple(Span(*span) for span in where)),
    ], findings
    (finding,) = findings
    for text in (finding.message, finding.remedy):
        assert text
        assert "\n" not in text
    return finding


@pytest.fixture
def walks() -> list[Episode]:
    return make_episodes()


@pytest.fixture
def discrete_walks() -> list[Episode]:
    return make_episodes(discrete=True)


def make_images(count: int = 12, each: int = 100) -> list[Episode]:
    rng = np.random.default_rng(0)
    images = [draw(rng.uniform(0.2, 0.8, (each, 2))) for _ in range(count)]
    return [Episode(frames, np.empty((each, 0)), np.zeros((each, 2))) for frames in images]


# Data without defects.


@pytest.mark.parametrize("discrete", [False, True])
def test_nothing_is_found_in_good_data(tmp_path: Path, discrete: bool) -> None:
    assert found(tmp_path, make_episodes(discrete=discrete)) == []


def test_nothing_is_found_in_good_images(tmp_path: Path) -> None:
    store = write(tmp_path, make_images())
    result = check(store, clip_frames=500)
    assert result.findings == ()
    assert result.actions is None
    assert result.lag is None
    assert result.clip_span == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["two-room", "two-room-discrete", "push-t"])
def test_nothing_is_found_in_collected_data(tmp_path: Path, task: str) -> None:
    if task == "push-t":
        pytest.importorskip("gym_pusht")
    store = collect(task, tmp_path, episodes=20, episode_length=60, workers=1, progress=False)
    result = check(store)
    assert [finding for finding in result.findings if finding.severity != "note"] == []
    # Against a wall, or by its action "stay", the disc stands still now and then.
    assert {finding.name for finding in result.findings} <= {"repeated-frames"}
    assert result.lag is not None
    assert result.lag.alone.argmax() == 5
    assert result.lag.alone[5] > 0.5


# Lengths.


def test_too_few_episodes(tmp_path: Path) -> None:
    finding = only(found(tmp_path / "few", make_episodes(19)), "warning", "few-episodes")
    assert "19 episodes" in finding.message
    assert found(tmp_path / "enough", make_episodes(20)) == []
    names = {finding.name: finding.severity for finding in found(tmp_path / "one", make_episodes(1))}
    assert names == {"few-episodes": "error"}


def test_too_few_images(tmp_path: Path) -> None:
    only(found(tmp_path, make_images(each=80)), "warning", "few-images")


def test_episodes_too_short_for_a_clip(tmp_path: Path, walks: list[Episode]) -> None:
    walks[7], walks[9] = make_episode(100, length=8), make_episode(101, length=7)
    store = write(tmp_path, walks)
    assert check(store, clip_frames=7).findings == ()
    finding = only(list(check(store, clip_frames=8).findings), "warning", "short-episodes", (9, 0, 7))
    assert "clip of 8 frames" in finding.message
    only(list(check(store, clip_frames=3, frame_skip=4).findings), "warning", "short-episodes", (7, 0, 8), (9, 0, 7))


def test_all_episodes_too_short(tmp_path: Path, walks: list[Episode]) -> None:
    where = [(e, 0, LENGTH) for e in range(EPISODES)]
    finding = only(found(tmp_path, walks, clip_frames=LENGTH + 1), "error", "short-episodes", *where)
    assert not finding.repairable


# Actions and states.


def test_actions_that_are_no_numbers(tmp_path: Path, walks: list[Episode]) -> None:
    walks[3].actions[7:9, 1] = np.nan
    walks[3].actions[LENGTH - 1, 0] = np.inf
    walks[4].actions[0, 0] = -np.inf
    finding = only(found(tmp_path, walks), "error", "bad-actions", (3, 7, 9), (3, 39, 40), (4, 0, 1))
    assert "4 frames, first at frame 7 of episode 3" in finding.message


def test_states_that_are_no_numbers(tmp_path: Path, walks: list[Episode]) -> None:
    walks[5].states[0] = np.inf
    only(found(tmp_path, walks), "error", "bad-states", (5, 0, 1))


def test_an_entry_of_the_action_that_never_varies(tmp_path: Path, walks: list[Episode]) -> None:
    for walk in walks:
        walk.actions = np.concatenate([walk.actions, np.full((LENGTH, 1), 0.3, np.float32)], axis=1)
    finding = only(
        list(check(write(tmp_path, walks, action_names=("dx", "dy", "grip"))).findings), "warning", "constant-actions"
    )
    assert "grip" in finding.message
    assert "dx" not in finding.message


@pytest.mark.parametrize("discrete", [False, True])
def test_actions_that_never_vary(tmp_path: Path, discrete: bool) -> None:
    walks = make_episodes(discrete=discrete)
    for walk in walks:
        walk.actions[:] = 1
    only(found(tmp_path, walks), "error", "constant-actions")


def test_discrete_actions_out_of_range(tmp_path: Path, discrete_walks: list[Episode]) -> None:
    discrete_walks[2].actions[11] = 4
    discrete_walks[20].actions[0] = -1
    only(found(tmp_path, discrete_walks), "error", "bad-actions", (2, 11, 12), (20, 0, 1))


def test_discrete_actions_never_taken(tmp_path: Path, discrete_walks: list[Episode]) -> None:
    findings = list(check(write(tmp_path, discrete_walks, action_size=6)).findings)
    assert "action 4, action 5" in only(findings, "warning", "unused-actions").message


def test_absurd_number_of_discrete_actions(tmp_path: Path, discrete_walks: list[Episode]) -> None:
    findings = list(check(write(tmp_path, discrete_walks, action_size=10**15)).findings)
    assert "and 65522 more" in only(findings, "warning", "unused-actions").message


def test_saturated_actions(tmp_path: Path, walks: list[Episode]) -> None:
    for walk in walks:
        walk.actions = np.clip(2 * walk.actions, -1, 1)
    finding = only(found(tmp_path, walks), "note", "saturated-actions")
    assert "action 0, action 1" in finding.message


def test_a_switch_is_not_saturated(tmp_path: Path, walks: list[Episode]) -> None:
    rng = np.random.default_rng(0)
    for walk in walks:
        walk.actions = np.concatenate([walk.actions, rng.integers(0, 2, (LENGTH, 1)).astype(np.float32)], axis=1)
    assert found(tmp_path, walks) == []


def test_actions_of_different_scales(tmp_path: Path, walks: list[Episode]) -> None:
    for walk in walks:
        walk.actions[:, 1] *= 2000
    assert "action 1 varies by" in only(found(tmp_path, walks), "note", "action-scales").message


# Actions against frames in time.


def shift(walks: list[Episode], lag: int) -> None:
    for walk in walks:
        walk.actions = np.roll(walk.actions, lag, axis=0)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("lag", [-3, 1, 3])
def test_actions_that_are_shifted(tmp_path: Path, discrete: bool, lag: int) -> None:
    walks = make_episodes(discrete=discrete)
    shift(walks, lag)
    store = write(tmp_path, walks)
    result = check(store)
    finding = only(list(result.findings), "warning", "action-lag")
    assert result.lag is not None
    assert result.lag.lag == lag
    right, wrong = result.lag.r2
    side, other = ("late", "earlier") if lag > 0 else ("early", "later")
    assert f"{abs(lag)} frame{'s' if abs(lag) > 1 else ''} {side}:" in finding.message
    assert f"{right:.2f}" in finding.message
    assert f"{wrong:.2f}" in finding.message
    assert other in finding.remedy
    assert right > wrong + 0.5


def test_actions_of_other_episodes(tmp_path: Path, walks: list[Episode]) -> None:
    actions = [walk.actions for walk in walks]
    for walk, other in zip(walks, actions[1:] + actions[:1], strict=True):
        walk.actions = other
    only(found(tmp_path, walks), "warning", "unrelated-actions")


# Frames.


def test_frozen_frames(tmp_path: Path, walks: list[Episode]) -> None:
    walks[4].frames[10:24] = walks[4].frames[9]
    finding = only(found(tmp_path, walks), "warning", "frozen-frames", (4, 10, 24))
    assert "14 of 960 frames" in finding.message


def test_nearly_frozen_frames(tmp_path: Path, walks: list[Episode]) -> None:
    walks[4].frames[10:24] = walks[4].frames[9]
    walks[4].frames[10:24:2, 5, 5] += 1  # what a codec may add
    only(found(tmp_path, walks), "warning", "frozen-frames", (4, 10, 24))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_robot_that_holds_still_is_not_frozen(tmp_path: Path, walks: list[Episode], value: float) -> None:
    walk = walks[4]
    walk.frames[20:] = walk.frames[19]
    walk.actions[18:] = value  # a velocity of zero, or a place to be at
    assert found(tmp_path, walks) == []


def test_a_repeated_frame(tmp_path: Path, walks: list[Episode]) -> None:
    walks[2].frames[6] = walks[2].frames[5]
    finding = only(found(tmp_path, walks), "note", "repeated-frames", (2, 6, 7))
    assert not finding.repairable


def test_a_camera_slower_than_the_actions(tmp_path: Path, walks: list[Episode]) -> None:
    for walk in walks:
        for k in (1, 2):
            walk.frames[k::3] = walk.frames[::3][: len(walk.frames[k::3])]
    findings = [finding for finding in found(tmp_path, walks) if finding.name == "repeated-frames"]
    assert [finding.severity for finding in findings] == ["warning"]
    assert "frame_skip=3" in findings[0].remedy


@pytest.mark.parametrize(("colour", "words"), [((0, 0, 0), "are black"), ((90, 120, 200), "of one colour")])
def test_uniform_frames(tmp_path: Path, walks: list[Episode], colour: tuple[int, int, int], words: str) -> None:
    walks[1].frames[0:2] = colour
    walks[8].frames[20] = colour
    finding = only(found(tmp_path, walks), "warning", "uniform-frames", (1, 0, 2), (8, 20, 21))
    assert words in finding.message


def test_a_long_black_stretch_is_nothing_else(tmp_path: Path, walks: list[Episode]) -> None:
    walks[1].frames[10:30] = 0
    only(found(tmp_path, walks), "warning", "uniform-frames", (1, 10, 30))


def teleport(walk: Episode, frame: int) -> None:
    """Let the disc be far away from a frame on, and go on from there; it bounces where it would leave."""
    away = walk.states[frame:] - walk.states[frame] + np.where(walk.states[frame - 1] > 0.5, 0.2, 0.8)
    walk.frames[frame:] = draw(0.12 + np.abs((away - 0.12 + 0.76) % 1.52 - 0.76))


@pytest.mark.parametrize("frame", [1, 17, 39])
def test_jumps(tmp_path: Path, walks: list[Episode], frame: int) -> None:
    teleport(walks[6], frame)
    only(found(tmp_path, walks), "warning", "jumps", (6, frame, frame))


def test_many_jumps(tmp_path: Path, walks: list[Episode]) -> None:
    for walk in walks:
        teleport(walk, 20)
    only(found(tmp_path, walks), "warning", "jumps", *((e, 20, 20) for e in range(EPISODES)))


def test_a_glitch_that_passes_is_no_jump(tmp_path: Path, walks: list[Episode]) -> None:
    walks[6].frames[17] = walks[6].frames[17, ::-1]
    assert found(tmp_path, walks) == []


def test_frames_that_hardly_vary(tmp_path: Path, walks: list[Episode]) -> None:
    rng = np.random.default_rng(0)
    for walk in walks:
        walk.frames = walks[0].frames[:1] + rng.integers(0, 2, walk.frames.shape, dtype=np.uint8)
    only(found(tmp_path, walks), "warning", "little-variation")


# What comes twice.


def sides() -> tuple[list[int], list[int]]:
    training, held_out = split_episodes(EPISODES, held_out=HELD_OUT, seed=SPLIT_SEED)
    return training.tolist(), held_out.tolist()


def blurred(walk: Episode) -> Episode:
    """Return an episode as another codec gives it."""
    noise = np.random.default_rng(0).integers(-2, 3, walk.frames.shape)
    return Episode(np.clip(walk.frames + noise, 0, 255).astype(np.uint8), walk.actions, walk.states)


@pytest.mark.parametrize("change", [lambda walk: walk, blurred])
def test_held_out_episode_that_equals_a_training_episode(tmp_path: Path, walks: list[Episode], change: Any) -> None:
    training, held_out = sides()
    walks[held_out[1]] = change(walks[training[3]])
    finding = only(found(tmp_path, walks), "warning", "leakage", (held_out[1], 0, LENGTH))
    assert f"held-out episode {held_out[1]} nearly equals training episode {training[3]} (" in finding.message


def test_equal_episodes_of_one_group_are_no_leakage(tmp_path: Path, walks: list[Episode]) -> None:
    training, held_out = sides()
    walks[held_out[1]] = walks[training[3]]
    with StoreWriter(tmp_path / "store", write(tmp_path / "other", walks).meta) as writer:
        for number, walk in enumerate(walks):
            group = training[3] if number == held_out[1] else number
            writer.append(walk.frames, walk.actions, walk.states, group=group)
    names = {finding.name for finding in check(Store(tmp_path / "store")).findings}
    assert names == {"equal-episodes"}


def test_training_episode_that_comes_twice(tmp_path: Path, walks: list[Episode]) -> None:
    training, _ = sides()
    walk = walks[training[3]]
    walks[training[8]] = Episode(walk.frames[:-2], walk.actions[:-2], walk.states[:-2])
    finding = only(found(tmp_path, walks), "warning", "equal-episodes", (training[8], 0, LENGTH - 2))
    assert f"episode {training[8]} nearly equals episode {training[3]}" in finding.message


def test_episodes_of_which_few_differ(tmp_path: Path) -> None:
    findings = found(tmp_path, [make_episode(k % 8) for k in range(EPISODES)])
    few = [finding for finding in findings if finding.name == "few-distinct-episodes"]
    assert [finding.severity for finding in few] == ["warning"]
    assert "only 8 of 24" in few[0].message
    twins = [span for finding in findings if finding.name != "few-distinct-episodes" for span in finding.where]
    assert len(twins) == EPISODES - 8


def test_images_that_come_twice(tmp_path: Path) -> None:
    images = make_images()
    training, held_out = (part.tolist() for part in split_episodes(12, held_out=HELD_OUT, seed=SPLIT_SEED))
    images[held_out[0]].frames[5:7] = images[training[2]].frames[50:52]
    images[training[1]].frames[8] = images[training[0]].frames[9]
    findings = {finding.name: finding.where for finding in found(tmp_path, images)}
    assert findings == {
        "leakage": (Span(held_out[0], 5, 7),),
        "equal-images": (Span(training[1], 8, 9),),
    }


# Large data.


def test_a_sample_is_looked_at_unless_all_is_wanted(
    tmp_path: Path, walks: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_frames, "WINDOW", 50)
    monkeypatch.setattr(check_frames, "MOST_FRAMES", 400)
    for walk in walks:
        walk.frames[5] = 0
    store = write(tmp_path, walks)
    sample, whole = check(store), check(store, whole=True)
    assert (sample.episodes_read, sample.frames_read) == (10, 400)
    assert (whole.episodes_read, whole.frames_read) == (EPISODES, EPISODES * LENGTH)
    assert [len(result.findings[0].where) for result in (sample, whole)] == [10, EPISODES]
    assert "of 400 frames looked at" in sample.findings[0].message
    # The numbers behind the pictures come from the sample, so that memory is bounded.
    np.testing.assert_array_equal(sample.coverage.points, whole.coverage.points)


def test_windows_of_long_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_frames, "WINDOW", 60)
    walks = make_episodes(20, length=150)
    # Windows begin at 0, 48, 96: within two of them, across the end of one, in the overlap.
    walks[0].frames[40:70] = walks[0].frames[39]
    walks[1].frames[50:60] = walks[1].frames[49]
    walks[2].frames[55] = 0
    teleport(walks[3], 54)
    findings = {finding.name: finding.where for finding in found(tmp_path, walks)}
    assert findings == {
        "frozen-frames": (Span(0, 40, 70), Span(1, 50, 60)),
        "uniform-frames": (Span(2, 55, 56),),
        "jumps": (Span(3, 54, 54),),
    }
    assert check(Store(tmp_path / "store")).frames_read == 20 * 150


def test_of_many_episodes_those_with_equal_actions_are_compared(
    tmp_path: Path, walks: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_twins, "MOST_COMPARED", 4)
    training, held_out = sides()
    walks[held_out[1]] = walks[training[3]]
    finding = only(found(tmp_path, walks), "warning", "leakage", (held_out[1], 0, LENGTH))
    assert "1 of 4 episodes compared" in finding.message


# The result.


def test_worst_comes_first_and_json_holds_it(tmp_path: Path, walks: list[Episode]) -> None:
    walks[2].frames[6] = walks[2].frames[5]
    walks[1].frames[3] = 0
    walks[7].actions[2] = np.nan
    result = check(write(tmp_path, walks))
    assert [finding.severity for finding in result.findings] == ["error", "warning", "note"]
    plain = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert (plain["errors"], plain["warnings"], plain["notes"]) == (1, 1, 1)
    assert plain["findings"][0]["where"] == [[7, 2, 3]]
    assert plain["findings"][0]["places"] == 1
    assert plain["findings"][0]["name"] == "bad-actions"
    assert plain["num_frames"] == EPISODES * LENGTH
    assert plain["lag"]["lag"] == 0
    assert len(plain["lag"]["r2_alone"]) == 11
    assert plain["coverage"]["distinct"] == EPISODES


def test_numbers_behind_the_pictures(tmp_path: Path, walks: list[Episode]) -> None:
    walks[7].actions[2] = np.nan
    result = check(write(tmp_path, walks))
    actions = np.concatenate([walk.actions for walk in walks]).astype(np.float64)
    actions = actions[np.isfinite(actions).all(axis=1)]
    numbers = result.actions
    assert numbers is not None
    np.testing.assert_allclose(numbers.mean, actions.mean(axis=0))
    np.testing.assert_allclose(numbers.std, actions.std(axis=0))
    np.testing.assert_allclose(numbers.low, actions.min(axis=0))
    np.testing.assert_allclose(numbers.at_high, (actions == actions.max(axis=0)).mean(axis=0))
    for k in range(2):
        np.testing.assert_array_equal(numbers.counts[k], np.histogram(actions[:, k], 40)[0])
    points = result.coverage.points
    assert points.shape == (EPISODES * LENGTH, 2)
    # Along the first two principal axes: centred, in no relation to each other, the wider one first.
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-6)
    assert np.mean(points[:, 0] * points[:, 1]) == pytest.approx(0, abs=1e-6)
    assert points[:, 0].std() > points[:, 1].std() > 100
    cells = np.histogram2d(*points.T, bins=16)[0]
    assert result.coverage.visited == pytest.approx((cells > 0).mean(), abs=1 / 256)
    assert len(result.examples) == 24
    assert len(set(result.examples // LENGTH)) == 24


def test_discrete_numbers(tmp_path: Path, discrete_walks: list[Episode]) -> None:
    actions = np.concatenate([walk.actions for walk in discrete_walks])
    numbers = check(write(tmp_path, discrete_walks)).actions
    assert numbers is not None
    np.testing.assert_array_equal(numbers.counts, [np.bincount(actions)])
    np.testing.assert_allclose([numbers.mean[0], numbers.std[0]], [actions.mean(), actions.std()])


def test_single_frames_and_tiny_pictures(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, disc_world.SIZE, disc_world.SIZE, 3), dtype=np.uint8)
    single = Episode(frames, np.zeros((1, 2)), np.zeros((1, 2)))
    names = {finding.name for finding in found(tmp_path, [single, single], clip_frames=2)}
    assert names == {"few-episodes", "short-episodes", "constant-actions", "little-variation"}


def test_share_to_hold_out(tmp_path: Path, walks: list[Episode]) -> None:
    with pytest.raises(ValueError, match=r"^held_out=1\.5"):
        found(tmp_path, walks, held_out=1.5)
