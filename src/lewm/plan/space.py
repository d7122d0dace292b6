"""What a planner searches over: the actions of one model step, and how they become the environment's actions."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lewm.config import Config


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ActionSpace:
    """Describe the `size` numbers that are searched for every model step.

    A model step is `frame_skip` environment steps. Without `hold`, all its sub-actions are searched: a = f*A numbers,
    or f integers. With `hold`, one sub-action is searched (a = A, or 1) and repeated f times by `expand`.
    """

    kind: Literal["continuous", "discrete"]
    """Real vectors within bounds, or integers in [0, num_actions)."""
    size: int
    """a: entries searched per model step."""
    low: Tensor
    """Smallest values, (a,) float32; zeros for discrete actions."""
    high: Tensor
    """Largest values, (a,) float32; num_actions - 1 for discrete actions."""
    num_actions: int = 0
    """V: number of discrete actions; 0 for continuous ones."""
    frame_skip: int = 1
    """f: environment steps in a model step."""
    hold: bool = False
    """Whether one sub-action is held for the whole model step."""

    @property
    def device(self) -> torch.device:
        """Where plans are made."""
        return self.low.device

    def expand(self, actions: Tensor) -> Tensor:
        """Turn searched actions into model actions, repeating a held sub-action.

        Args:
            actions: (..., a).

        Returns:
            (..., f*A) float, or (..., f) int64: the sub-actions of a model step, concatenated.
        """
        return torch.tile(actions, (self.frame_skip,)) if self.hold else actions

    def to_env(self, model_actions: Tensor) -> Tensor:
        """Split model actions into the environment's sub-actions, in the order in which they are carried out.

        Args:
            model_actions: (..., f*A), or (..., f) if discrete.

        Returns:
            (..., f, A), or (..., f) if discrete.
        """
        if self.kind == "discrete":
            return model_actions
        return model_actions.unflatten(-1, (self.frame_skip, -1))


def action_space(
    config: Config,
    low: npt.ArrayLike | None = None,
    high: npt.ArrayLike | None = None,
    *,
    device: torch.device | str,
) -> ActionSpace:
    """Make the space that a run's planner searches.

    Args:
        config: settings of the run: kind and size of actions, frame-skip, and whether sub-actions are held.
        low: smallest value of each of the A entries of an environment action, or one for all; -1 if not given.
        high: largest values, likewise; 1 if not given. An entry whose smallest value is its largest is held there.
        device: where plans are made; the generator and the costs must be there too.

    Raises:
        ValueError: if bounds are given for discrete actions, do not fit the action size, or are empty or infinite.
    """
    action, frame_skip = config.action, config.data.frame_skip
    hold = action.kind == "continuous" if config.plan.hold is None else config.plan.hold
    searched = 1 if hold else frame_skip
    if action.kind == "discrete":
        if low is not None or high is not None:
            raise ValueError(f"low={low}, high={high}: discrete actions have no bounds; leave both out")
        return ActionSpace(
            kind="discrete",
            size=searched,
            low=torch.zeros(searched, device=device),
            high=torch.full((searched,), float(action.size - 1), device=device),
            num_actions=action.size,
            frame_skip=frame_skip,
            hold=hold,
        )
    lowest = _bound("low", -1.0 if low is None else low, action.size)
    highest = _bound("high", 1.0 if high is None else high, action.size)
    # The worst entry: crossed, or the widest of bounds that leave nothing to search.
    k = int(np.argmin(highest - lowest if (lowest > highest).any() else lowest - highest))
    if not lowest[k] < highest[k]:
        raise ValueError(
            f"low={lowest[k]}: must be below high={highest[k]} (entry {k}); give the range of each entry, and only of "
            "constant ones the same value twice"
        )
    return ActionSpace(
        kind="continuous",
        size=searched * action.size,
        low=torch.tensor(lowest, device=device).tile(searched),
        high=torch.tensor(highest, device=device).tile(searched),
        frame_skip=frame_skip,
        hold=hold,
    )


def _bound(name: str, value: npt.ArrayLike, size: int) -> np.ndarray:
    """Check one bound and give it for each of the `size` entries of an environment action."""
    bound = np.asarray(value, dtype=np.float32)
    if bound.shape not in ((), (1,), (size,)):
        raise ValueError(f"{name}={bound.tolist()}: must have action.size={size} entries; give one number or {size}")
    if not np.isfinite(bound).all():
        raise ValueError(f"{name}={bound.tolist()}: must be finite; give the range that the data's actions come from")
    return np.broadcast_to(bound, (size,))
