"""Which arrays of a recording are its action and state, by their names, and their values as they are stored."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm.data.importers.listing import listed

USUAL = ("action", "actions")
_MAX_RATE = 1e4  # frames a second; a damaged or hostile file may claim any
_ACTION = re.compile(r"(?!(prev|previous|last)_)(.*_)?actions?(_.*)?")


def is_action(path: str) -> bool:
    """Tell whether a part of an array's path calls it an action.

    Args:
        path: names of groups and the array, with slashes.
    """
    return any(_ACTION.fullmatch(part.lower()) for part in path.split("/"))


def detect_action(where: str, names: Sequence[str], is_candidate: Callable[[str], bool]) -> str:
    """Return the array that is the action: the one of the usual name, or the only candidate.

    Args:
        where: names the recording in errors.
        names: its arrays.
        is_candidate: tells which of them may be the action.

    Raises:
        ValueError: there is none, or a choice, which is the user's.
    """
    found = [name for name in USUAL if name in names] or [name for name in names if is_candidate(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{where}: has several actions, {listed(found)}; name one or more with --action")
    raise ValueError(f"{where}: has no action in {listed(names)}; name the action's with --action")


def find_named(kind: str, where: str, wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the arrays that an import names: by path, by the end of a path, or all of a group by the group's path.

    Args:
        kind: action or state.
        where: names the recording in errors.
        wanted: the names given.
        names: the recording's arrays of numbers.

    Raises:
        ValueError: a name leads to nothing, or to several arrays.
    """
    found: dict[str, None] = {}
    for name in wanted:
        ends = [path for path in names if path == name] or [path for path in names if path.endswith(f"/{name}")]
        inside = [path for path in names if path.startswith(f"{name}/")]
        if len(ends) > 1:
            raise ValueError(f"{kind}={name}: {where} has {listed(ends)}; give the whole path")
        if not ends and not inside:
            raise ValueError(f"{kind}={name}: {where} has {listed(names)}; name some of them")
        found |= dict.fromkeys(ends or inside)
    return list(found)


def as_actions(
    values: npt.NDArray[Any], discrete: bool, name: str, where: str
) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
    """Return an episode's actions as they are stored.

    A last one that is not a number was not done and leads out of the episode; it becomes zeros.

    Args:
        values: (L, A) numbers.
        discrete: whether they are one whole number a frame.
        name: of the action, for errors.
        where: names the episode in errors.

    Raises:
        ValueError: a discrete action is negative, or another is not finite.
    """
    if discrete:
        numbers = values.reshape(-1).astype(np.int64)
        if (bad := np.flatnonzero(numbers < 0)).size:
            raise ValueError(
                f"{where}: action {numbers[bad[0]]} at step {bad[0]} is negative; repair or leave out the episode"
            )
        return numbers
    actions = _float32(values)
    if np.isnan(actions[-1]).any():
        actions[-1] = 0.0
    _check_finite(actions, name, where)
    return actions


def as_states(values: npt.NDArray[Any], where: str) -> npt.NDArray[np.float32]:
    """Return an episode's (L, S) states as they are stored.

    Args:
        values: (L, S) numbers.
        where: names the episode in errors.

    Raises:
        ValueError: one is not finite.
    """
    states = _float32(values)
    _check_finite(states, "states", where)
    return states


def as_rate(value: object) -> float | None:
    """Return frames a second as a recording says them, or None if they are no sensible number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MAX_RATE:
        return float(value)
    return None


def _float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite or no number, which is looked for
        return values.astype(np.float32)


def _check_finite(values: npt.NDArray[np.float32], name: str, where: str) -> None:
    if (bad := np.flatnonzero(~np.isfinite(values).all(axis=1))).size:
        raise ValueError(f"{where}: {name} at step {bad[0]} not finite; repair or leave out the episode")
