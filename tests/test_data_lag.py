"""The lag of actions: right for robots that answer at once, late, or to places, and none on noise."""

from collections.abc import Callable

import numpy as np
import pytest

from disc_world import draw
from lewm.data.lag import CHANCE, LagCurve, measure_lag
from lewm.data.thumbnails import thumbnails

Stretch = tuple[np.ndarray, np.ndarray]


def smooth(rng: np.random.Generator, length: int, memory: float = 0.9) -> np.ndarray:
    values = rng.normal(size=(length, 2))
    for t in range(1, length):
        values[t] = memory * values[t - 1] + (1 - memory**2) ** 0.5 * values[t]
    return values


def quick(rng: np.random.Generator, length: int) -> Stretch:
    """A robot that moves by what it is told."""
    actions = rng.normal(size=(length, 2))
    return actions, 0.03 * actions


def sluggish(rng: np.random.Generator, length: int) -> Stretch:
    """A robot whose speed follows what it is told."""
    actions, moves = smooth(rng, length), np.zeros((length, 2))
    for t in range(length):
        moves[t] = 0.75 * moves[max(t - 1, 0)] + 0.25 * 0.02 * actions[t]
    return actions, moves


def heavy(rng: np.random.Generator, length: int) -> Stretch:
    """A robot that is told a force; it is held to the middle by a spring."""
    noise, actions = smooth(rng, length), np.zeros((length, 2))
    place, speed, moves = np.zeros(2), np.zeros(2), np.zeros((length, 2))
    for t in range(length):
        actions[t] = noise[t] - 20 * place - 15 * speed
        speed = 0.9 * speed + 0.004 * actions[t]
        moves[t], place = speed, place + speed
    return actions, moves


def to_places(rng: np.random.Generator, length: int) -> Stretch:
    """A robot that is told where to be, and goes a third of the way each time."""
    actions = 0.15 * smooth(rng, length, 0.95)
    place, moves = np.zeros(2), np.zeros((length, 2))
    for t in range(length):
        moves[t] = 0.3 * (actions[t] - place)
        place = place + moves[t]
    return actions, moves


def poses(rng: np.random.Generator, length: int) -> Stretch:
    """A robot that is where it was told to be, on smooth ways from one place to the next."""
    knots = 0.3 * rng.uniform(-1, 1, (2 + length // 20, 2))
    way = np.arange(length + 1) / 20
    k = way.astype(int)
    eased = ((1 - np.cos(np.pi * (way - k))) / 2)[:, None]
    places = knots[k] * (1 - eased) + knots[k + 1] * eased
    return places[1:], np.diff(places, axis=0)


def strokes(rng: np.random.Generator, length: int) -> Stretch:
    """The same to and fro, as hands do it."""
    phase = rng.uniform(0, 6) + np.cumsum(rng.uniform(0.1, 0.5, length + 1))
    angle = np.repeat(rng.uniform(0, 6, 1 + length // 25), 25)[: length + 1]
    places = 0.25 * np.sin(phase)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return places[1:], np.diff(places, axis=0)


def feedback(rng: np.random.Generator, length: int) -> Stretch:
    """A policy that sees only where the robot is, and a robot that is pushed about."""
    place, actions, moves = np.zeros(2), np.zeros((length, 2)), np.zeros((length, 2))
    for t in range(length):
        actions[t] = -8 * place
        moves[t] = 0.02 * actions[t] + 0.01 * rng.normal(size=2)
        place = place + moves[t]
    return actions, moves


def unrelated(rng: np.random.Generator, length: int) -> Stretch:
    return rng.normal(size=(length, 2)), 0.03 * rng.normal(size=(length, 2))


def measure(
    robot: Callable[[np.random.Generator, int], Stretch], lag: int, count: int = 20, mode: str = "unknown"
) -> LagCurve | None:
    thumbs, actions = [], []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        told, moves = robot(rng, 50)
        places = 0.5 + np.cumsum(np.vstack([np.zeros((1, 2)), moves[:-1]]), axis=0)
        # Bounces at the walls, so that the disc stays in the picture.
        frames = draw(0.12 + np.abs((places - 0.12 + 0.76) % 1.52 - 0.76))
        noise = rng.integers(-2, 3, frames.shape)
        thumbs.append(thumbnails(np.clip(frames + noise, 0, 255).astype(np.uint8)))
        actions.append(np.roll(told, lag, axis=0))
    return measure_lag(thumbs, actions, control_mode=mode)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robot", "mode", "lag"),
    [
        *((quick, mode, lag) for mode in ("displacement", "velocity") for lag in (0, -3, 1, 4)),
        *((quick, "unknown", lag) for lag in (0, -3, 2)),
        *((to_places, mode, lag) for mode in ("position", "unknown") for lag in (0, 3)),
    ],
)
def test_lag_is_found(robot: Callable, mode: str, lag: int) -> None:
    curve = measure(robot, lag, mode=mode)
    assert curve is not None
    assert curve.related
    assert curve.lag == lag
    assert curve.r2[0] == pytest.approx(0.86, abs=0.03)  # the rest is the noise that was added
    assert (curve.r2[0] == curve.r2[1]) == (lag == 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["unknown", "position"])
@pytest.mark.parametrize("robot", [poses, strokes])
@pytest.mark.parametrize("lag", [0, 3])
def test_targets_on_smooth_ways(robot: Callable, mode: str, lag: int) -> None:
    curve = measure(robot, lag, count=30, mode=mode)
    assert curve is not None
    assert curve.related
    assert curve.lag == lag


@pytest.mark.parametrize("robot", [sluggish, heavy, feedback])
def test_robots_that_answer_late_are_not_blamed(robot: Callable) -> None:
    curve = measure(robot, 0)
    assert curve is not None
    assert curve.related
    assert curve.lag == 0


@pytest.mark.parametrize("lag", [-1, -2])
@pytest.mark.parametrize(("robot", "mode"), [(quick, "displacement"), (to_places, "position"), (to_places, "unknown")])
def test_what_a_robots_own_delay_may_be_is_not_said(robot: Callable, mode: str, lag: int) -> None:
    curve = measure(robot, lag, mode=mode)
    assert curve is not None
    assert curve.lag == 0


def test_each_regression_alone_would_mislead() -> None:
    late, foretold = measure(heavy, 0), measure(feedback, 0)
    assert late is not None
    assert foretold is not None
    assert late.alone.argmax() < 5
    assert foretold.beside.argmax() == 6


def test_actions_that_tell_nothing() -> None:
    curve = measure(unrelated, 0)
    assert curve is not None
    assert not curve.related
    assert curve.lag == 0
    assert CHANCE[0] <= curve.chance <= CHANCE[1]


def test_too_little_to_tell() -> None:
    assert measure(quick, 0, count=10) is None  # 39 rows each
    assert measure(quick, 0, count=11) is not None
    thumbs, actions = [np.zeros((500, 16, 16), np.float32)] * 2, [np.zeros((500, 2))] * 2
    moving = [np.random.default_rng(0).random((500, 16, 16), dtype=np.float32)] * 2
    assert measure_lag(thumbs[:1], actions[:1]) is None
    assert measure_lag(thumbs, [np.random.default_rng(0).random((500, 2))] * 2) is None  # nothing changes
    assert measure_lag(moving, actions) is None  # actions do not
    assert measure_lag(moving, [np.zeros(500, np.int64)] * 2) is None
    assert measure_lag([], []) is None


def test_actions_that_are_no_numbers_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    moving = [rng.random((500, 16, 16), dtype=np.float32) for _ in range(2)]
    actions = [rng.normal(size=(500, 2)) for _ in range(2)]
    actions[0][7], actions[1][8] = np.nan, np.inf
    curve = measure_lag(moving, actions)
    assert curve is not None
    assert np.isfinite([curve.alone, curve.beside]).all()
    assert not curve.related


def states_of(seed: int, *, late: int, follows: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and states of a robot that goes half of the way in each row, led by a smooth path or by itself."""
    rng = np.random.default_rng(seed)
    path, place = 0.1 * smooth(rng, 76, 0.95), np.zeros(2)
    targets, places = np.zeros((76, 2)), np.zeros((76, 2))
    for t in range(76):
        places[t] = place
        targets[t] = 0.9 * place + 0.3 * path[t] if follows else path[t]
        place = place + 0.5 * (targets[t] - place) + 0.002 * rng.normal(size=2)
    return targets[8 - late : 68 - late], places[8:68]


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("late", [0, 2, 3, -2, -4])
def test_states_are_heard_first(late: int, follows: bool) -> None:
    thumbs = [np.random.default_rng(seed).random((60, 16, 16), dtype=np.float32) for seed in range(20)]
    pairs = [states_of(seed, late=late, follows=follows) for seed in range(20)]
    curve = measure_lag(thumbs, [a for a, _ in pairs], states=[s for _, s in pairs], control_mode="position", fps=10.0)
    assert curve is not None
    assert curve.by == "states"
    assert not curve.related  # the frames are noise
    assert curve.lag == (0 if late == -2 else late)


@pytest.mark.parametrize("sees", [0, 1, 2])
def test_targets_set_from_where_a_disturbed_robot_was_seen(sees: int) -> None:
    thumbs = [np.random.default_rng(seed).random((60, 16, 16), dtype=np.float32) for seed in range(20)]
    targets, places = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        place, step, seen = [np.zeros(2)], np.zeros(2), []
        for t in range(60):
            where = place[max(t - sees, 0)]
            step = 0.7 * step + 0.06 * (rng.uniform(-0.6, 0.6, 2) - where) + 0.015 * rng.normal(size=2)
            seen.append(where + step)
            place.append(place[-1] + 0.6 * (seen[-1] - place[-1]) + 0.025 * rng.normal(size=2))
        targets.append(np.array(seen))
        places.append(np.array(place[:60]))
    curve = measure_lag(thumbs, targets, states=places, control_mode="position")
    assert curve is not None
    assert (curve.by, curve.lag) == ("states", 0)


def test_a_second_is_many_rows_of_a_fast_robot() -> None:
    thumbs = [np.random.default_rng(seed).random((60, 16, 16), dtype=np.float32) for seed in range(20)]
    pairs = [states_of(seed, late=-4) for seed in range(20)]
    actions, states = [a for a, _ in pairs], [s for _, s in pairs]
    for fps, lag in ((10.0, -4), (None, -4), (30.0, 0)):
        curve = measure_lag(thumbs, actions, states=states, fps=fps)
        assert curve is not None
        assert curve.lag == lag
