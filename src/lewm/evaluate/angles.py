"""Angles among the variables of a state: which they are, by their names, and in which unit, by names and values.

An angle jumps where it comes round, so it is read as its sine and its cosine. For that its unit must be known. Where no
name tells it, angles of more than a full turn in radians are degrees, because degrees are what is recorded; but not if
the episodes begin anywhere within one turn in radians and leave it, as those of a joint that is counted on over turns.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RADIANS, DEGREES, TURNS = 2.0 * np.pi, 360.0, 1.0
"""A full turn."""

_UNITS = {
    **dict.fromkeys(("rad", "radian", "radians"), RADIANS),
    **dict.fromkeys(("deg", "degs", "degree", "degrees"), DEGREES),
    **dict.fromkeys(("turn", "turns", "rev", "revs", "revolution", "revolutions"), TURNS),
}
_NO_ANGLES = ("triangle", "rectangle", "quadrangle")
_OFTEN_ANGLES = ("theta", "phi", "psi", "yaw", "pitch", "roll", "heading", "azimuth", "bearing", "orientation")
_NOT_OF = {
    *("sin", "sine", "cos", "cosine", "axis"),  # already taken apart, or a rotation's vector
    *("velocity", "vel", "speed", "rate", "dot", "acceleration", "accel", "acc", "torque", "effort"),
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ROUNDING = 1.02  # of a turn: what is measured passes its end
_FEWEST_EPISODES = 5


def full_turns(
    names: Sequence[str],
    states: NDArray[np.float32],
    *,
    starts: NDArray[np.int64] | None = None,
    known: float | None = None,
) -> dict[str, float]:
    """Return what a full turn is of each variable that is an angle.

    Args:
        names: of the S variables. Those that end in `angle` are angles. Those that end in `theta`, `yaw` or the like,
            or in a unit such as `_deg`, are where they span more than half a turn: until then they have no jump.
        states: (M, S), best all there are.
        starts: (E,) the first frame of each episode in `states`, if these are whole episodes.
        known: a full turn in the unit of all angles whose names have none.

    Returns:
        2 pi, 360 or 1 by name.
    """
    turns = {}
    for name, values in zip(names, states.T, strict=True):
        words = [word.lower() for word in _WORD.findall(name)]
        unit = _UNITS.get(words[-1]) if words else None
        words = words[:-1] if unit is not None else words
        last = words[-1] if words else ""
        surely = last.endswith(("angle", "angles")) and not last.startswith(_NO_ANGLES)
        maybe = last in _OFTEN_ANGLES or unit in (RADIANS, DEGREES)
        if not (surely or maybe) or not _NOT_OF.isdisjoint(words) or not len(values):
            continue
        turn = unit or known or _turn(values, starts)
        if surely or np.ptp(values) > turn / 2:
            turns[name] = turn
    return turns


def _turn(values: NDArray[np.float32], starts: NDArray[np.int64] | None) -> float:
    """Guess a full turn from values: what more than a turn in radians would be is degrees, or counted on."""
    turn = _ROUNDING * RADIANS
    if np.abs(values).max() <= turn and np.ptp(values) <= turn:
        return RADIANS
    if starts is not None and len(starts) >= _FEWEST_EPISODES:
        first = values[starts]
        if np.abs(first).max() <= turn and RADIANS / 2 < np.ptp(first) <= turn:
            return RADIANS
    return DEGREES


def near_the_data(angle: float, turn: float, values: NDArray[np.float32]) -> float:
    """Return an angle as the data writes it: of all that differ by full turns, the one nearest to the data's middle."""
    middle = (float(values.min()) + float(values.max())) / 2
    return angle - turn * round((angle - middle) / turn)
