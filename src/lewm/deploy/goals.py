"""Goals and forbidden boxes given by the state, as ranges of what is read from representations; no torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.config.checks import shown
from lewm.deploy.consistent import FORBIDDEN
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
    if not isinstance(box, Mapping):
        raise ValueError(f"{name}={shown(box)}: must be ranges by name; give {name}={{'x': (0.2, 0.4)}}")
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
    if not (np.isfinite(low) | np.isfinite(high)).any():
        raise ValueError(f"{name}={shown(dict(box))}: is open at every end; give one of them")
    return low, high


def read_boxes(
    keep_out: Sequence[Mapping[str, Any]], goals: StateGoals, variables: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the boxes that plans keep out of, smallest and largest values (R, S'); see `read_box`."""
    if not isinstance(keep_out, Sequence) or isinstance(keep_out, str):
        raise ValueError(f"keep_out={shown(keep_out)}: must be a list of boxes; give [{{'x': (0.2, 0.4)}}]")
    if len(keep_out) > FORBIDDEN:
        raise ValueError(f"keep_out: got {len(keep_out)} boxes, must be {FORBIDDEN} at most; join some")
    low = np.full((FORBIDDEN, len(goals.labels)), np.inf, np.float32)
    high = -low
    for k, box in enumerate(keep_out):
        low[k], high[k] = read_box("keep_out", box, goals, variables)
    return low, high


def _ends(name: str, variable: str, value: Any) -> tuple[float, float]:
    """Return smallest and largest value of a number, or of a pair whose open end is None."""
    most = float(np.finfo(np.float32).max)
    try:
        if isinstance(value, str):
            raise TypeError
        low, high = value if isinstance(value, Sequence | np.ndarray) else (value, value)
        low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={variable}: must be a number or a pair of them; give {variable}: 0.3") from None
    if not low <= high or math.inf in (low, -high):
        raise ValueError(f"{name}={variable}: has no value between {low} and {high}; give the smaller number first")
    if any(most < abs(end) < math.inf for end in (low, high)):
        raise ValueError(f"{name}={variable}: is too large for a float32; give it in the recording's own unit")
    return low, high
