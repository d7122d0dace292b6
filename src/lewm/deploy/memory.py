"""What a controller knows of the episode so far; no torch. Letters as in `lewm.deploy.graphs`."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.deploy.manifest import Manifest


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """The episode so far. A look makes a new one; the old one stays as it is, should the look be given up."""

    states: NDArray[np.float32]
    """(B, T, N, D) representations of the newest frames, oldest first; only the last `count` were seen."""
    actions: NDArray[Any]
    """(B, T-1, f*A) model actions between them."""
    count: int
    """Frames seen, 0 to T."""
    last: NDArray[np.float32] | None
    """(B, A) the environment action that was given last; None if not known."""
    issued: NDArray[Any]
    """(B, m, f*A) model actions that were given and that no frame shows yet."""
    searched: NDArray[Any] | None = None
    """(B, H, a) what the plan before was found as; None for no plan to go on from."""
    expected: NDArray[np.float32] | None = None
    """(B, N, D) what the next frame is predicted to look like."""
    correction: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1, 1), np.float32))
    """(B, N, D) what predictions are corrected by."""
    picture: NDArray[np.uint8] | None = None
    """(B, height, width, 3) the newest frame."""

    @classmethod
    def begin(cls, manifest: Manifest, last: NDArray[np.float32] | None) -> "Memory":
        """Begin an episode, or begin anew within one; `last` is the action that was given last, if known."""
        sizes = manifest.sizes
        kind = np.int64 if manifest.space.kind == "discrete" else np.float32
        return cls(
            states=np.zeros((sizes.batch, sizes.history, sizes.tokens, sizes.width), np.float32),
            actions=np.zeros((sizes.batch, sizes.history - 1, sizes.model_action), kind),
            count=0,
            last=last,
            issued=np.zeros((sizes.batch, 0, sizes.model_action), kind),
            correction=np.zeros((sizes.batch, sizes.tokens, sizes.width), np.float32),
        )

    def after(self, tokens: NDArray[np.float32], shown: int) -> "Memory":
        """Return the memory with the newest frames (B, m, N, D), which show the first `shown` issued actions."""
        history = self.states.shape[1]
        if self.count == 0:
            states = self.states.copy()
            states[:, -1] = tokens[:, -1]
            return replace(self, states=states, count=1, issued=self.issued[:, shown:])
        states = np.concatenate((self.states, tokens), axis=1)[:, -history:]
        done = np.concatenate((self.actions, self.issued[:, :shown]), axis=1)
        return replace(
            self,
            states=states,
            actions=done[:, done.shape[1] - (history - 1) :],
            count=min(history, self.count + tokens.shape[1]),
            issued=self.issued[:, shown:],
        )

    def seen(self) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the frames (B, count, N, D) that were seen and the actions (B, count-1, ...) between them."""
        history = self.states.shape[1]
        return self.states[:, history - self.count :], self.actions[:, history - self.count :]
