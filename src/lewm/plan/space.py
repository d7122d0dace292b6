"""What a planner searches over: the actions of one model step, and how they become the environment's actions."""

from dataclasses import dataclass, replace
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

    Of actions that are positions, what is searched is the change from one environment step to the next, counted from
    the present `command`: a robot cannot jump, and a model knows little of commands that do. With `hold`, the changes
    within a model step are equal, so that the command moves evenly. Changes of zero keep the present command.
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
    least: Tensor | None = None
    """Of positions, the smallest command, (A,); None for actions that are searched as they are."""
    most: Tensor | None = None
    """Of positions, the largest command, (A,)."""
    command: Tensor | None = None
    """Of positions, the present command of each environment, (B, A); None as long as it is not known."""

    @property
    def device(self) -> torch.device:
        """Where plans are made."""
        return self.low.device

    @property
    def model_action_size(self) -> int:
        """Length of one model action: f*A, or f if discrete."""
        return self.frame_skip * (1 if self.kind == "discrete" else len(self.env_bounds[0]))

    @property
    def relative(self) -> bool:
        """Whether changes of the present command are searched."""
        return self.least is not None

    @property
    def env_bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each entry of an environment action, (A,) each; of continuous actions."""
        if self.least is not None and self.most is not None:
            return self.least, self.most
        size = self.size if self.hold else self.size // self.frame_skip
        return self.low[:size], self.high[:size]

    def expand(self, actions: Tensor) -> Tensor:
        """Turn searched actions into model actions: repeat a held sub-action, and add changes to the present command.

        Args:
            actions: (..., a); where they are changes of a command, (B, ..., H, a) from the present on.

        Returns:
            (..., f*A) float, or (..., f) int64: the sub-actions of a model step, concatenated.
        """
        actions = torch.tile(actions, (self.frame_skip,)) if self.hold else actions
        if not self.relative:
            return actions
        assert self.command is not None
        changes = actions.unflatten(-1, (self.frame_skip, -1)).flatten(-3, -2)  # (B, ..., H*f, A)
        command = self.command.view(len(self.command), *[1] * (changes.ndim - 2), -1)
        commands = (command + changes.cumsum(-2)).clamp(self.least, self.most)
        return commands.unflatten(-2, (-1, self.frame_skip)).flatten(-2)  # (B, ..., H, f*A)

    def at(self, command: Tensor | None) -> "ActionSpace":
        """Return the space around present commands (B, A); the same space where actions are no positions."""
        return replace(self, command=command) if self.relative else self

    def within(self, low: npt.ArrayLike | None, high: npt.ArrayLike | None) -> "ActionSpace":
        """Return the space with other bounds of the environment's actions.

        Args:
            low: smallest value of each of the A entries, or one for all; None keeps the present ones.
            high: largest values, likewise.

        Raises:
            ValueError: if the actions are discrete, or the bounds do not fit the action size, or are empty or infinite.
        """
        if low is None and high is None:
            return self
        if self.kind == "discrete":
            raise ValueError(f"low={low}, high={high}: discrete actions have no bounds; leave both out")
        least, most = self.env_bounds
        size = len(least)
        lowest, highest = _bounds(least.cpu() if low is None else low, most.cpu() if high is None else high, size)
        least, most = torch.tensor(lowest, device=self.device), torch.tensor(highest, device=self.device)
        repeats = 1 if self.relative else self.size // size
        return self.bounded(least.tile(repeats), most.tile(repeats))

    def bounded(self, least: Tensor, most: Tensor, max_change: Tensor | None = None) -> "ActionSpace":
        """Return the space with other bounds, unchecked.

        Args:
            least: Of positions, (A,) smallest value of each entry of an environment action; of other actions, smallest
                values of what is searched, (a,) or, each step's own, (H, a).
            most: Largest values, likewise.
            max_change: Of positions, (A,) how far each may change from one environment step to the next.
        """
        if not self.relative:
            return replace(self, low=least, high=most)
        change = self.high if max_change is None else max_change.tile(self.size // len(max_change))
        return replace(self, least=least, most=most, low=-change, high=change)

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
    max_change: npt.ArrayLike | None = None,
    device: torch.device | str,
) -> ActionSpace:
    """Make the space that a run's planner searches.

    Args:
        config: settings of the run: kind and size of actions, frame-skip, and whether sub-actions are held.
        low: smallest value of each of the A entries of an environment action, or one for all; if not given, that of the
            training episodes, or -1 where the settings have none.
        high: largest values, likewise; else 1. An entry whose smallest value is its largest is held there.
        max_change: of positions, how far each entry may change from one environment step to the next, or one number for
            all; if not given, `plan.max_change`, or what the training episodes did.
        device: where plans are made; the generator and the costs must be there too.

    Raises:
        ValueError: if bounds are given for discrete actions, do not fit the action size, or are empty or infinite.
    """
    if not isinstance(config, Config):
        raise ValueError(f"config={type(config).__name__}: is no settings; of a run that was loaded, give run.config")
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
    lowest, highest = _bounds(
        (action.low or -1.0) if low is None else low, (action.high or 1.0) if high is None else high, action.size
    )
    least, most = torch.tensor(lowest, device=device), torch.tensor(highest, device=device)
    size, form = searched * action.size, {"frame_skip": frame_skip, "hold": hold}
    if action.control_mode == "position" and not config.plan.absolute:
        given = config.plan.max_change if max_change is None else max_change
        change = _largest_change((action.max_change or highest - lowest) if given is None else given, action.size)
        largest = torch.tensor(change, device=device).tile(searched)
        return ActionSpace(kind="continuous", size=size, low=-largest, high=largest, least=least, most=most, **form)
    return ActionSpace(kind="continuous", size=size, low=least.tile(searched), high=most.tile(searched), **form)


def _largest_change(given: npt.ArrayLike, size: int) -> np.ndarray:
    """Check how far each of the `size` entries of a command may move in an environment step."""
    change = _bound("max_change", given, size)
    if (change < 0).any():
        raise ValueError(f"max_change={change.min()}: must not be negative; give how far a command may move")
    return change


def _bounds(low: npt.ArrayLike, high: npt.ArrayLike, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Check two bounds and give them for each of the `size` entries of an environment action."""
    lowest, highest = _bound("low", low, size), _bound("high", high, size)
    # The worst entry: crossed, or the widest of bounds that leave nothing to search.
    k = int(np.argmin(highest - lowest if (lowest > highest).any() else lowest - highest))
    if not lowest[k] < highest[k]:
        raise ValueError(
            f"low={lowest[k]}: must be below high={highest[k]} (entry {k}); give the range of each entry, and only of "
            "constant ones the same value twice"
        )
    return lowest, highest


def _bound(name: str, value: npt.ArrayLike, size: int) -> np.ndarray:
    """Check one bound and give it for each of the `size` entries of an environment action."""
    bound = np.asarray(value, dtype=np.float32)
    if bound.shape not in ((), (1,), (size,)):
        raise ValueError(f"{name}={bound.tolist()}: must have action.size={size} entries; give one number or {size}")
    if not np.isfinite(bound).all():
        raise ValueError(f"{name}={bound.tolist()}: must be finite; give the range that the data's actions come from")
    return np.broadcast_to(bound, (size,))
