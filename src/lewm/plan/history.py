"""What a controller has seen and done: a window of fixed shapes, and how much of it is filled."""

from typing import NamedTuple

import torch
from torch import Tensor


class History(NamedTuple):
    """The newest frames and the actions between them, in windows of the model's history of T frames.

    Shapes never change, so that an exported graph can hold them; at the start of an episode only the newest `count`
    frames, and the `count` - 1 actions between those, have been seen, and the rest is zero.
    """

    states: Tensor
    """(B, T, N, D) representations, oldest first."""
    actions: Tensor
    """(B, T-1, f*A) or (B, T-1, f) model actions, the action taken at each frame but the newest."""
    count: int
    """Frames seen, 1 to T."""

    @classmethod
    def begin(cls, states: Tensor, *, length: int, action: Tensor) -> "History":
        """Start an episode.

        Args:
            states: (B, N, D) the first frame.
            length: T.
            action: (B, f*A) or (B, f), for its shape and type.
        """
        older = states.new_zeros(len(states), length - 1, *states.shape[1:])
        none_yet = action.new_zeros(len(action), length - 1, *action.shape[1:])
        return cls(torch.cat((older, states[:, None]), dim=1), none_yet, 1)

    def after(self, actions: Tensor, states: Tensor) -> "History":
        """Move the window on by m model steps.

        Args:
            actions: (B, m, f*A) or (B, m, f) carried out.
            states: (B, n, N, D) the newest frames since then, all m or as many as the window holds.
        """
        length = self.states.shape[1]
        both = torch.cat((self.states, states), dim=1)[:, -length:]
        done = torch.cat((self.actions, actions), dim=1)
        return History(both, done[:, done.shape[1] - (length - 1) :], min(length, self.count + states.shape[1]))

    def seen(self) -> tuple[Tensor, Tensor]:
        """Return the frames (B, count, N, D) that were seen and the actions (B, count-1, ...) between them."""
        length = self.states.shape[1]
        return self.states[:, length - self.count :], self.actions[:, length - self.count :]

    def rows(self, index: Tensor) -> "History":
        """Return the window of some of the environments (B',)."""
        return History(self.states[index], self.actions[index], self.count)
