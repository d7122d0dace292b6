"""Goals and forbidden boxes given by the state, as ranges of what is read from representations; no torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.config.checks import shown
from lewm.deploy.manifest import StateGoals
from lewm.names import did_you_mean


def read_box(
    name: str, box: Mapping[str, Any], goals: StateGoals, variables: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return smallest and largest values (S',) of what is read, infinite where any is meant.

    Args:
        name: What the box is called in errors.
        box: A value, or a pair of ends, by variable; None is an open end.
        goals: What can be read.
        variables: Names of the state's variables.

    Raises:
        ValueError: If a variable cannot be read, or has no such range.
    """
    if not goals.labels:
        raise ValueError(f"{name}={shown(dict(box))}: the run's data has no states; give a picture")
    if not box:
        raise ValueError(f"{name}={{}}: names no variable; give some of {', '.join(variables)}")
    low = np.full(len(goals.labels), -np.inf, np.float32)
    high = -low
    for variable, value in box.items():
        least, most = _ends(name, variable, value)
        if variable in goals.turns:
            if least != most:
                raise ValueError(f"{name}={variable}: is an angle, which has no range; give one value, or leave it out")
            radians = least * 2 * math.pi / goals.turns[variable]
            parts = {f"{variable} (sine)": math.sin(radians), f"{variable} (cosine)": math.cos(radians)}
            ends = {label: (value, value) for label, value in parts.items() if label in goals.labels}
        else:
            ends = {variable: (least, most)}
        for label, (least, most) in ends.items():
            if label not in goals.labels:
                remedy = did_you_mean(str(variable), variables, "give one that varied in training")
                raise ValueError(f"{name}={shown(variable)}: is no variable that can be read; {remedy}")
            k = goals.labels.index(label)
            low[k], high[k] = least, most
    return low, high


def _ends(name: str, variable: str, value: Any) -> tuple[float, float]:
    """Return smallest and largest value of a number, or of a pair whose open end is None."""
    try:
        low, high = value if isinstance(value, Sequence) else (value, value)
        low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={variable}: must be a number or a pair of them; give {variable}: 0.3") from None
    if not low <= high or math.inf in (low, -high):
        raise ValueError(f"{name}={variable}: has no value between {low} and {high}; give the smaller number first")
    return low, high
