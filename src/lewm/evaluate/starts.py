"""Where closed-loop episodes start and what they are to reach: the draw from held-out trajectories, and its file.

Such a file also comes with a model of the package whose starts are of no store that is at hand.
"""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lewm.config import EvalProtocol
from lewm.config.checks import shown
from lewm.data.store import Store
from lewm.envs import Rule, Task
from lewm.evaluate.frames import episode_of
from lewm.plan import Region

NAME = "starts.json"


@dataclass(frozen=True, slots=True)
class Starts:
    """Where episodes start, at a moment of a held-out trajectory, and where they shall end.

    Args:
        index: (E,) the start's frame in the store; where `episode` is given, in that episode.
        state: (E, S) the start's state.
        goal_state: (E, S) the goal's state; NaN where the goal is more than one state.
        goal_frame: (E, height, width, 3) uint8, the goal's frame; black where the goal has none.
        region: What the model's plans are to reach instead of the goal's frame, for a goal given by the state.
        goal_index: (E,) the goal's frame, counted as the start's; None where it is none of the data's frames.
        episode: (E,) what the start was taken from, of starts that are not of the store; None of those that are.
        candidates: Starts that there were to draw from.
        presolved: Those of them that were left out because they are at the goal already.
        left_out: Those that were left out because the protocol does not count them.
    """

    index: NDArray[np.int64]
    state: NDArray[np.float32]
    goal_state: NDArray[np.float32]
    goal_frame: NDArray[np.uint8]
    region: Region | None = None
    goal_index: NDArray[np.int64] | None = None
    episode: NDArray[np.int64] | None = None
    candidates: int = 0
    presolved: int = 0
    left_out: int = 0

    def first(self, count: int) -> "Starts":
        """Return the first `count` episodes."""
        return replace(
            self,
            index=self.index[:count],
            state=self.state[:count],
            goal_state=self.goal_state[:count],
            goal_frame=self.goal_frame[:count],
            goal_index=None if self.goal_index is None else self.goal_index[:count],
            episode=None if self.episode is None else self.episode[:count],
        )

    def episodes(self, store: Store) -> NDArray[np.int64]:
        """Return the number of the episode (E,) that each start was taken from."""
        return episode_of(store, self.index) if self.episode is None else self.episode


def make_starts(
    store: Store,
    episodes: NDArray[np.int64],
    *,
    count: int,
    goal_offset: int,
    seed: int,
    protocol: EvalProtocol = "standard",
    rule: Rule | None = None,
) -> Starts:
    """Draw starts and goals from held-out trajectories: the goal is the frame `goal_offset` environment steps ahead.

    Starts are spread evenly over the episodes. Under `standard` every start counts, as in the published protocol, and
    how many are as good as at the goal is reported. Under the others, starts that are at the goal already are left
    out, as are those that the task does not count; and no episode gives more than its share of what is asked for,
    `count` over the episodes that have any start, so there may be fewer.

    Args:
        store: A store with states.
        episodes: Held-out episodes.
        count: E, starts wanted; there are fewer when the episodes have fewer.
        goal_offset: Environment steps from start to goal.
        seed: Seed of the draw.
        protocol: Which starts count.
        rule: What success is; not needed under `standard`.

    Raises:
        ValueError: If no held-out episode is long enough, or no start counts.
    """
    assert store.states is not None
    rng = np.random.default_rng(seed)
    begin, end = store.episodes.start[episodes], (store.episodes.start + store.episodes.length)[episodes] - goal_offset
    per_episode = [rng.permutation(np.arange(*bounds)) for bounds in zip(begin.tolist(), end.tolist(), strict=True)]
    index = np.concatenate(per_episode)
    candidates, presolved = len(index), 0
    if candidates == 0:
        longest = int(store.episodes.length[episodes].max())
        raise ValueError(
            f"eval.goal_offset={goal_offset}: held-out episodes of {store.path} have at most {longest} frames; "
            f"use at most {longest - 1} or longer episodes"
        )
    share = count
    if protocol != "standard":
        assert rule is not None
        state, goal_state = store.states[index], store.states[index + goal_offset]
        solved = rule.inside(state, goal_state)
        counts = ~solved if rule.counts is None else ~solved & rule.counts(state, goal_state)
        ends = np.cumsum([len(part) for part in per_episode])[:-1]
        per_episode = [part[kept] for part, kept in zip(per_episode, np.split(counts, ends), strict=True)]
        presolved, index = int(solved.sum()), np.concatenate(per_episode)
        if len(index) == 0:
            raise ValueError(
                f"eval.protocol={protocol}: counts none of {candidates} held-out starts, {presolved} of which are at "
                "the goal already; use --eval.protocol standard, another goal or more episodes"
            )
        share = math.ceil(count / sum(len(part) > 0 for part in per_episode))
    eligible = len(index)
    turn = np.concatenate([np.arange(len(part)) for part in per_episode])  # the first start of each episode comes first
    order = np.lexsort((rng.random(len(index)), turn))
    index = index[order[turn[order] < share][:count]]
    goal = index + goal_offset
    return Starts(
        index,
        store.states[index],
        store.states[goal],
        store.frames[goal],
        goal_index=goal,
        candidates=candidates,
        presolved=presolved,
        left_out=candidates - presolved - eligible,
    )


def starts_text(starts: Starts, store: Store, *, protocol: EvalProtocol, seed: int) -> str:
    """Return the list of starts as the JSON of `starts.json`, which the same draw makes again byte by byte.

    Each has its `episode`, its `row` and its goal's `goal_row` in the store, and both true states.
    """
    rows = zip(
        starts.episodes(store).tolist(),
        starts.index.tolist(),
        [None] * len(starts.index) if starts.goal_index is None else starts.goal_index.tolist(),
        starts.state,
        starts.goal_state,
        strict=True,
    )
    listed = [
        json.dumps(
            {"episode": episode, "row": row, "goal_row": goal, "state": _plain(state), "goal_state": _plain(there)}
        )
        for episode, row, goal, state, there in rows
    ]
    head = json.dumps({"protocol": protocol, "seed": seed, "state_names": list(store.meta.state_names)})
    return head[:-1] + ', "starts": [\n' + ",\n".join(listed) + "\n]}\n"


def read_starts(path: Path, task: Task) -> Starts:
    """Read a list of starts that is of no store at hand, in the form of `starts_text`.

    Args:
        path: The file.
        task: What draws the goals' frames.

    Raises:
        ValueError: If the file is damaged, or of another task.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        rows, names = listed["starts"], listed["state_names"]
        episode, index, goal_index = (np.array([row[key] for row in rows]) for key in ("episode", "row", "goal_row"))
        state, goal_state = (np.array([row[key] for row in rows], np.float32) for key in ("state", "goal_state"))
        numbers = all(array.dtype == np.int64 and array.ndim == 1 for array in (episode, index, goal_index))
        shape = (len(rows), len(task.state_names))
        states = all(array.shape == shape and np.isfinite(array).all() for array in (state, goal_state))
        if not (rows and numbers and states and tuple(names) == task.state_names):
            raise ValueError(f"must hold numbers of {', '.join(task.state_names)}")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: is no list of starts ({shown(error)}); install the package again") from error
    return Starts(
        index,
        state,
        goal_state,
        task.render_states(goal_state),
        goal_index=goal_index,
        episode=episode,
        candidates=len(rows),
    )


def digest(text: str) -> str:
    """Return the SHA-256 of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(state: NDArray[np.float32]) -> list[float | None]:
    """Return a state's numbers as short as they are exact."""
    return [float(str(value)) if np.isfinite(value) else None for value in state]
