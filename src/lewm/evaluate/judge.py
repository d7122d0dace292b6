"""Who has succeeded: the rule of a protocol, applied to many episodes at once while they go on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lewm.config import EvalProtocol
from lewm.envs import Rule, Task
from lewm.evaluate.starts import Starts


@dataclass(frozen=True, slots=True)
class Judge:
    """Tell which states are at the goals of E episodes.

    Args:
        rule: What success is.
        goals: (E, S) the goals' states; NaN where the rule knows the goal itself.
    """

    rule: Rule
    goals: NDArray[np.float32]

    def __call__(self, states: NDArray[np.float32], episodes: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Tell whether states (E', L, S) are at the goals of some episodes (E',), of all by default, (E', L)."""
        goals = self.goals if episodes is None else self.goals[episodes]
        return self.rule.inside(states, goals[:, None])


def reaches(task: Task, starts: Starts, protocol: EvalProtocol = "standard") -> Judge:
    """Return the task's own judge of the goals' states under a protocol."""
    return Judge(task.rule(protocol), starts.goal_state)


class Watch:
    """Follow E episodes step by step: how long each has been at its goal, and whether its way was allowed."""

    def __init__(self, judge: Judge, count: int) -> None:
        self._judge = judge
        self._lasting = np.zeros(count, dtype=np.int64)
        self._legal = np.ones(count, dtype=bool)

    def succeeds(
        self, before: NDArray[np.float32], way: NDArray[np.float32], episodes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Tell with which steps some episodes succeed, (E', L); with none where the goal must hold to the end.

        Args:
            before: (E', S) the states before the steps.
            way: (E', L, S) the state after each step.
            episodes: (E',) which ones they are.
        """
        rule = self._judge.rule
        inside = self._judge(way, episodes)
        if rule.legal is not None:
            moves = rule.legal(np.concatenate([before[:, None], way[:, :-1]], axis=1), way)
            legal = np.logical_and.accumulate(moves, axis=1) & self._legal[episodes, None]
            self._legal[episodes] = legal[:, -1]
            inside = inside & legal
        lasting = lasting_for(inside, self._lasting[episodes])
        self._lasting[episodes] = lasting[:, -1]
        return (lasting >= rule.steps) & (not rule.at_end)

    def held_since(self, budget: int) -> NDArray[np.int64]:
        """Return the step, from 1, since which each episode has been at its goal, (E,); -1 where not for long enough.

        Args:
            budget: Steps of an episode, all of which were watched.
        """
        return np.where(self._lasting >= self._judge.rule.steps, budget - self._lasting + 1, -1)


def lasting_for(inside: NDArray[np.bool_], before: NDArray[np.int64] | int = 0) -> NDArray[np.int64]:
    """Count, up to each of L steps, for how many in a row states have been at the goal.

    Args:
        inside: (E, L) whether they are there.
        before: (E,) for how many steps they had been there before the first of them.
    """
    step = np.arange(1, inside.shape[1] + 1)
    left = np.maximum.accumulate(np.where(inside, 0, step), axis=1)  # the last step so far that was not there
    return step - left + np.where(left == 0, np.reshape(before, (-1, 1)), 0)


def held_from(inside: NDArray[np.bool_], hold: int) -> NDArray[np.int64]:
    """Return the step, from 1, since which states are at the goal to the end, (E,), of whether they are, (E, budget).

    It is -1 where that is for fewer than `hold` steps.
    """
    lasting = lasting_for(inside)[:, -1]
    return np.where(lasting >= hold, inside.shape[1] - lasting + 1, -1)
