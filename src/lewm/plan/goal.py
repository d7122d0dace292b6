"""Goals without a picture: a frame of the data, values of state variables, or ranges of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.importers.listing import listed
from lewm.names import did_you_mean

FORMS = "state:x=0.3,y=0.5, region:x=0.2..0.4 or frame:EPISODE:INDEX"
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class FrameGoal:
    """Look like a frame of the data."""

    episode: int
    """Number of the episode, from 0."""
    index: int
    """Number of the frame in the episode, from 0."""


@dataclass(frozen=True, slots=True)
class StateGoal:
    """Bring state variables to values."""

    values: dict[str, float]
    """Some or all of the state's variables, in its order."""


@dataclass(frozen=True, slots=True)
class RegionGoal:
    """Bring state variables into ranges."""

    ranges: dict[str, tuple[float, float]]
    """Lowest and highest value of some or all of the state's variables, in its order; infinite at an open end."""

    def contains(self, states: NDArray[np.float32], state_names: Sequence[str]) -> NDArray[np.bool_]:
        """Tell whether states (..., S) with these names lie in all ranges, (...)."""
        columns = [list(state_names).index(name) for name in self.ranges]
        low, high = np.array(list(self.ranges.values())).T
        return ((states[..., columns] >= low) & (states[..., columns] <= high)).all(axis=-1)


Goal = FrameGoal | StateGoal | RegionGoal


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A box in what can be read from representations; a single state is a box without extent.

    Args:
        decode: Reads S' numbers (..., S') from representations (..., N, D).
        low: (S',) smallest values; -inf for none. Of environments with a box each, (B, 1, 1, S').
        high: (S',) largest values, likewise; inf for none.
        scale: (S',) unit of each distance: the standard deviation of the number over the training frames.
    """

    decode: Callable[[Tensor], Tensor]
    low: Tensor
    high: Tensor
    scale: Tensor

    def rows(self, index: Tensor) -> "Region":
        """Return the boxes of environments with the numbers `index`; one box is that of all."""
        if self.low.ndim == 1 or len(self.low) == 1:
            return self
        return replace(self, low=self.low[index], high=self.high[index])

    def cost(self, pred: Tensor) -> Tensor:
        """Return how far outside the box representations (..., N, D) are read to be, |outside / scale|, (...)."""
        read = self.decode(pred)
        outside = (self.low - read).clamp(min=0) + (read - self.high).clamp(min=0)
        return torch.linalg.vector_norm(outside / self.scale, dim=-1)


def parse_goal(text: str, state_names: Sequence[str]) -> Goal:
    """Read a goal from a text.

    Args:
        text: One of these.

            - `state:0.3,0.5`: all state variables, in the order of `state_names`;
            - `state:x=0.3,y=0.5`: some or all of them, by name;
            - `region:x=0.2..0.4,y=0.1..`: ranges of some or all, either end of which may be left open;
            - `frame:EPISODE:INDEX`: a frame of the data, both numbers from 0.
        state_names: Names of the S state variables; empty when the data has no states.

    Raises:
        ValueError: If the text is none of these.
    """
    kind, colon, rest = text.partition(":")
    if kind == "frame" and colon:
        return parse_frame(text, "goal")
    if kind not in ("state", "region") or not colon:
        kinds = ("state", "region", "frame") if colon else ()
        remedy = did_you_mean(kind, kinds, f"give {FORMS}", after=f":{rest}")
        raise ValueError(f"goal={text}: is no state, region or frame; {remedy}")
    if not state_names:
        raise ValueError(f"goal={text}: the data has no states; give frame:EPISODE:INDEX, or data with states")
    if kind == "state" and "=" not in rest:
        values = rest.split(",")
        if len(values) != len(state_names):
            raise ValueError(
                f"goal={text}: gives {len(values)} of {len(state_names)} state variables; give "
                f"{', '.join(state_names)} in this order, or some by name, as in state:{state_names[0]}=0.5"
            )
        return StateGoal({name: _number(text, value) for name, value in zip(state_names, values, strict=True)})
    given: dict[str, str] = {}
    for part in rest.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"goal={text}: {part.strip()!r} has no name; write every part as {_example(kind)}")
        if name not in state_names:
            remedy = did_you_mean(name, state_names, f"give some of {listed(state_names)}")
            raise ValueError(f"goal={text}: {name!r} is no state variable of the data; {remedy}")
        if name in given:
            raise ValueError(f"goal={text}: {name} comes twice; leave one out")
        given[name] = value
    given = {name: given[name] for name in state_names if name in given}
    if kind == "state":
        return StateGoal({name: _number(text, value) for name, value in given.items()})
    return RegionGoal({name: _range(text, name, value) for name, value in given.items()})


def parse_frame(text: str, field: str) -> FrameGoal:
    """Read `frame:EPISODE:INDEX`; `field` is what an error calls it.

    Raises:
        ValueError: If the text is not of this form.
    """
    kind, *numbers = text.split(":")
    if kind != "frame" or len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 16 for n in numbers):
        raise ValueError(
            f"{field}={text}: must be frame:EPISODE:INDEX with two numbers from 0; use frame:0:0 for the first frame"
        )
    return FrameGoal(int(numbers[0]), int(numbers[1]))


def _example(kind: str) -> str:
    return "name=value" if kind == "state" else "name=low..high"


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) <= LARGEST:
        raise ValueError(f"goal={text}: {value.strip()!r} is not a finite number; write it as in 0.3")
    return number


def _range(text: str, name: str, value: str) -> tuple[float, float]:
    first, dots, last = value.partition("..")
    if not dots:
        raise ValueError(
            f"goal={text}: {name}={value} is no range; write {name}=low..high, or state:{name}={value} for one value"
        )
    if not first.strip() and not last.strip():
        raise ValueError(f"goal={text}: {name}={value} is open at both ends; give one of them or leave {name} out")
    low = _number(text, first) if first.strip() else -np.inf
    high = _number(text, last) if last.strip() else np.inf
    if not low < high:
        raise ValueError(f"goal={text}: {name}={value} is empty; give the smaller number first")
    return low, high
