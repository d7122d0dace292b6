"""What a place in a task's picture means: a goal there, an action towards there; no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.config import EvalProtocol
from lewm.envs import make_task

_DRAWN = 200  # states that a search begins with
_ROUNDS, _TRIED = 40, 32
# Share of the picture that a goal may be off, for each unit of the state that it is nearer: of the start of a search,
# by which an arm stays bent to the same side, and of its result.
_NEAR_AT_FIRST, _NEAR = 0.05, 0.003
_BEHIND = (80.0, 95.0, 115.0)  # of the block's middle, in units of Push-T
_MIDDLE = 45.0


class Pointing:
    """Find states by places (2,), from 0 at the left and upper edge of the picture to 1.

    Args:
        name: Of the task.
        seed: Of what is drawn.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self._task, self._rng = make_task(name, 64), np.random.default_rng(seed)
        self._names = self._task.state_names
        entries = [entry for part in self._task.pose for entry in part.entries]
        self._free = [self._names.index(entry) for entry in entries]
        self._block = [self._names.index(f"block_{part}") for part in ("x", "y", "angle")] if self.drags else []
        self._drawn = np.array([self.random_start() for _ in range(0 if self.drags else _DRAWN)])

    @property
    def drags(self) -> bool:
        """Whether a goal is made by dragging a block, and not by pointing at where the moved part shall be."""
        return "block_angle" in self._task.state_names

    @property
    def protocol(self) -> EvalProtocol:
        """By what a goal counts as reached: of a block that was dragged, by the block alone."""
        return "strict" if self.drags else "standard"

    def random_start(self) -> NDArray[np.float32]:
        """Draw a state (S,) to start from."""
        self._task.reset(seed=int(self._rng.integers(2**31)))
        return self._task.state

    def random_goal(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Draw a goal (S,) for a state: where a block must be pushed, one that somebody pushed it to from here."""
        if not self.drags:
            return self.random_start()
        self._task.set_state(state)
        for _ in range(20):
            policy = self._task.behaviour(int(self._rng.integers(2**31)))
            self._task.set_state(state)
            for _ in range(40):
                self._task.advance(policy.act(self._task))
            goal = self._task.state
            if np.abs(goal[self._block] - state[self._block])[:2].max() > 20:
                break
        return goal

    def goal_at(self, place: Sequence[float], state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a state (S,) in which the moved part is at a place, near a state; the nearest possible one."""
        wanted, size = np.array(place, float), self._task.image_size
        at = np.concatenate((self._drawn, state[None])) if len(self._drawn) else state[None].copy()

        def off(states: NDArray[np.float32], near: float = _NEAR) -> NDArray[np.float64]:
            places = self._task.place(states)
            assert places is not None
            apart = np.linalg.norm(places / size - wanted, axis=-1)
            return apart + near * np.abs(states - state)[:, self._free].sum(-1)

        best = at[off(at, _NEAR_AT_FIRST).argmin()].copy()
        for spread in np.geomspace(0.3, 0.001, _ROUNDS):
            tried = np.repeat(best[None], _TRIED, axis=0)
            tried[:, self._free] += spread * self._rng.standard_normal((_TRIED, len(self._free))).astype(np.float32)
            tried = np.array([one for one in tried if self._task.possible(one)] + [best])
            best = tried[off(tried).argmin()].copy()
        return best

    def dragged(
        self, goal: NDArray[np.float32], by: Sequence[float], turn: float, state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return a goal whose block is moved and turned, with the disc behind it as if it had pushed it from a state.

        The goal stays as it is where the block would not fit.
        """
        moved = goal.copy()
        unit = self._unit
        moved[self._block[:2]] += np.array(by, np.float32) * unit
        moved[self._block[2]] = (moved[self._block[2]] + turn) % (2 * np.pi)
        way = moved[self._block[:2]] - state[self._block[:2]]
        angle = moved[self._block[2]]
        middle = moved[self._block[:2]] + _MIDDLE * np.array([-np.sin(angle), np.cos(angle)])
        away = np.arctan2(-way[1], -way[0])
        for aside in (0.0, 0.5, -0.5, 1.0, -1.0, 1.6, -1.6, 2.4, -2.4, np.pi):
            for behind in _BEHIND:
                disc = middle + behind * np.array([np.cos(away + aside), np.sin(away + aside)])
                moved[:2], moved[5:] = disc, 0.0
                if self._task.possible(moved):
                    return moved
        return goal

    @property
    def _unit(self) -> float:
        """Units of a block's place in a picture's side."""
        places = self._task.place(np.ones((1, len(self._names))))
        assert places is not None
        return self._task.image_size / float(places[0, 0])

    def towards(self, place: Sequence[float], state: NDArray[np.float32]) -> NDArray:
        """Return the action that moves the moved part straight towards a place."""
        if self.drags:
            goal = state.copy()
            goal[:2] = np.array(place) * self._unit
        else:
            goal = self.goal_at(place, state)
        return self._task.straight_action(state[None], goal[None])[0]

    def ways(self, read: Mapping[str, NDArray[np.float32]], state: NDArray[np.float32]) -> dict[str, list[list[float]]]:
        """Return lines to draw: where the moved part, and a block, are read to be in what is imagined.

        Args:
            read: (1, H) by label, as `Controller.read` gives it.
            state: The present one, which the lines start from.
        """
        if not read:
            return {}
        steps = np.repeat(state[None], len(next(iter(read.values()))[0]), axis=0)
        known = set()
        for k, name in enumerate(self._names):
            if name in read:
                steps[:, k] = read[name][0]
                known.add(k)
            elif {f"{name} (sine)", f"{name} (cosine)"} <= read.keys():
                steps[:, k] = np.arctan2(read[f"{name} (sine)"][0], read[f"{name} (cosine)"][0])
                known.add(k)
        if not set(self._free[:2]) <= known:
            return {}
        steps = np.concatenate((state[None], steps))
        places = self._task.place(steps)
        if places is None:
            return {}
        lines = {"way": (places / self._task.image_size).tolist()}
        if self.drags and set(self._block[:2]) <= known:
            lines["way2"] = (steps[:, self._block[:2]].astype(float) / self._unit).tolist()
        return lines


def unit_place(value: Any, name: str = "at") -> list[float]:
    """Return a place that a page sent.

    Raises:
        ValueError: If it is none.
    """
    numbers = isinstance(value, list) and len(value) == 2 and all(isinstance(part, int | float) for part in value)
    if numbers and all(-1.0 <= part <= 1.0 for part in value):
        return [float(part) for part in value]
    raise ValueError(f"{name}: must be two numbers from -1 to 1; give the place in the picture")
