"""Angles of a state: found by name, and in the right unit by name and values."""

import numpy as np
import pytest

from lewm.evaluate.angles import DEGREES, RADIANS, TURNS, full_turns, near_the_data
from lewm.evaluate.probe import probe_targets

RNG = np.random.default_rng(0)
STARTS = np.arange(20) * 50


def walk(*, low: float = 0.0, turn: float | None = DEGREES, step: float = 0.02, home: bool = False) -> np.ndarray:
    """20 episodes of 50 frames of a joint that turns, in turns or in `turn`s; counted on over turns if None."""
    first = np.zeros((20, 1)) if home else RNG.uniform(0, 1, (20, 1))
    angle = first + np.cumsum(RNG.choice([-1, 1], (20, 1)) * RNG.uniform(0, 2 * step, (20, 50)), axis=1)
    angle[:, 0] = first[:, 0]
    values = angle * RADIANS if turn is None else (angle - low / turn) % 1.0 * turn + low
    return values.reshape(-1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "turn"),
    [
        (walk(), DEGREES),
        (walk(low=-180.0), DEGREES),
        (walk(home=True), DEGREES),
        (walk(turn=RADIANS), RADIANS),
        (walk(low=-np.pi, turn=RADIANS), RADIANS),
        (walk(turn=None, step=0.05), RADIANS),  # beyond 2 pi, from anywhere in a turn
        (np.arange(0.0, 90.0)[:, None].astype(np.float32), DEGREES),
        (np.full((1000, 1), 90.0, np.float32), DEGREES),
        (np.full((1000, 1), 1.5, np.float32), RADIANS),
    ],
)
def test_the_unit_is_told_by_the_values(values: np.ndarray, turn: float) -> None:
    starts = STARTS if len(values) == 1000 else None
    assert full_turns(("state_angle",), values, starts=starts) == {"state_angle": turn}


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        *[(f"state_angle_{unit}", DEGREES) for unit in ("deg", "degrees")],
        *[("jointAngleDeg", DEGREES), ("angle [deg]", DEGREES), ("angle_0_rad", RADIANS), ("wheel_angle_turns", TURNS)],
        *[("block_angle", RADIANS), ("joint_angles_3", RADIANS), ("jointangle", RADIANS), ("radians", None)],
        *[("rectangle", None), ("angle_velocity", None), ("angular_velocity_deg", None), ("angle_deg_s", None)],
        *[("sin_angle", None), ("rot_axis_angle_0", None), ("joint_deg", None), ("yaw", None), ("turns", None)],
        *[("x", None), ("", None), ("0", None), ("degree_of_freedom", None)],
    ],
)
def test_the_unit_is_told_by_the_name(name: str, turn: float | None) -> None:
    """Here of values between -1 and 1, whose unit nothing else tells."""
    values = RNG.uniform(-1, 1, (100, 1)).astype(np.float32)
    assert full_turns((name,), values) == ({} if turn is None else {name: turn})


@pytest.mark.parametrize("name", ["theta", "wrist_yaw", "kLeftWaistYaw", "shoulder_rad", "heading_rad"])
def test_what_may_be_an_angle_is_one_where_it_comes_round(name: str) -> None:
    assert full_turns((name,), walk(turn=RADIANS)) == {name: RADIANS}
    assert full_turns((name,), walk(turn=RADIANS) * np.float32(0.25)) == {}


def test_the_unit_of_a_task_is_known() -> None:
    assert full_turns(("wrist_angle",), walk(), known=RADIANS) == {"wrist_angle": RADIANS}
    assert full_turns(("wrist_angle_deg",), walk(), known=RADIANS) == {"wrist_angle_deg": DEGREES}


def test_targets_of_another_unit_are_those_of_radians() -> None:
    angle = RNG.uniform(0, 2 * np.pi, (100, 1)).astype(np.float32)
    wanted, _ = probe_targets(angle, ("angle",))
    for values in (angle * 180 / np.pi, (angle * 180 / np.pi + 180) % 360 - 180):
        found, names = probe_targets(values, ("angle",))
        assert names == ["angle (sine)", "angle (cosine)"]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    turns, _ = probe_targets(angle / (2 * np.pi), ("angle_turns",))
    np.testing.assert_allclose(turns, wanted, atol=1e-5)


def test_an_angle_is_written_as_the_data_does() -> None:
    degrees = np.array([0.0, 359.0], dtype=np.float32)
    assert near_the_data(-10.0, DEGREES, degrees) == 350.0
    assert near_the_data(-10.0, DEGREES, degrees - 180) == -10.0
    assert near_the_data(5.0, DEGREES, np.array([10.0, 90.0], dtype=np.float32)) == 5.0
    assert near_the_data(np.pi, RADIANS, np.array([30.0, 40.0], dtype=np.float32)) == pytest.approx(11 * np.pi)
