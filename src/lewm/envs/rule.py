"""What success is under a protocol, and what the parts of a pose are: a task says both, an evaluation asks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Compare = Callable[[ArrayLike, ArrayLike], NDArray[np.bool_]]
"""Tells something of two states (..., S) each; the leading axes broadcast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What success is.

    Args:
        inside: Tells whether states are at goals.
        steps: Environment steps in a row in which they must be, each after an action.
        at_end: Whether these are the last steps of the budget; if not, they may be any, and the episode ends there.
        legal: Tells whether moves from states to the next ones are allowed; after one that is not, nothing is a
            success. None allows all.
        counts: Tells whether a start, with its goal, asks for what the rule judges; None takes every start.
    """

    inside: Compare
    steps: int = 1
    at_end: bool = False
    legal: Compare | None = None
    counts: Compare | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PosePart:
    """A part of the pose that a goal asks for.

    Args:
        name: What it is called in a sentence: "the block's angle".
        entries: Its variables, of the task's `state_names`.
        step: How far it may be from the goal's, in the unit of the state; an angle in radians.
        angle: Whether it is an angle, which comes round.
    """

    name: str
    entries: tuple[str, ...]
    step: float
    angle: bool = False
