"""Noisy replays of human demonstrations of Push-T: Diffusion Policy's public replay buffer, in this task's physics.

A demonstration is a sequence of states and of the controller's absolute targets, ten a second, as the task steps. A
replay starts at one of its moments and gives the task the recorded targets, as displacements from where the disc then
is, with Gaussian noise. So the disc stays near its recorded way while the block goes its own.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lewm.data.importers.source import ImportOptions
from lewm.data.importers.zarr_replay import ZarrSource
from lewm.envs.push_t import ARENA, REACH
from lewm.envs.task import Task
from lewm.files import shorten

EXACT = 0.1
"""Share of the replays that have no noise."""
NOISE = 0.25
"""Largest standard deviation of the noise on an action; each replay draws its own."""
_FIRST_FRAMES = 10  # even a short demonstration has replays from this many moments, so that few are equal
_STATE, _TARGET = 5, 2
_LONGEST_REASON = 120
_REMEDY = "give pusht_cchi_v7_replay.zarr"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One recorded demonstration.

    Args:
        states: (L, 7) states of the task; the disc's velocity is that of its recorded way.
        targets: (L, 2) where the controller was told to go, in units of the arena.
    """

    states: NDArray[np.float32]
    targets: NDArray[np.float32]


def read_demonstrations(path: str | Path) -> list[Demonstration]:
    """Read the demonstrations from a replay buffer in zarr, whose pictures are left alone.

    Args:
        path: the public `pusht_cchi_v7_replay.zarr`, or one like it.

    Raises:
        ValueError: it is missing, damaged, or not of Push-T.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"demos={path}: is not there; {_REMEDY}")
    try:
        source = ZarrSource(path, ImportOptions(action=("action",), state=("state",)))
        recordings = [source.episode(index) for index in range(source.num_episodes)]
    except ValueError as error:
        reason = shorten(str(error).removeprefix(f"{path}: "), _LONGEST_REASON)
        raise ValueError(f"demos={path}: is no recording of Push-T ({reason}); {_REMEDY}") from error
    found = (len(source.info.state_names), source.info.action_size)
    if found != (_STATE, _TARGET) or source.info.action_kind != "continuous":
        raise ValueError(
            f"demos={path}: has {found[0]} state variables and {found[1]} of action, and Push-T's has {_STATE} and "
            f"{_TARGET}; {_REMEDY}"
        )
    demonstrations = []
    for index, recording in enumerate(recordings):
        assert recording.states is not None
        states, targets = np.asarray(recording.states), np.asarray(recording.actions, dtype=np.float32)
        places = np.concatenate([states[:, :4], targets], axis=1)
        if len(states) < 2 or not np.isfinite(states).all() or not ((places >= 0) & (places <= ARENA)).all():
            raise ValueError(
                f"demos={path}: demonstration {index} has positions outside 0 to {ARENA}, or one frame only; {_REMEDY}"
            )
        demonstrations.append(Demonstration(_complete(states), targets))
    return demonstrations


class Replay:
    """Follow the targets of a demonstration from one of its moments; after the last one, stay there.

    Args:
        demonstration: what is replayed.
        frame: the moment that it starts from.
        noise: standard deviation of the Gaussian noise on an action.
        rng: what draws the noise.
    """

    def __init__(self, demonstration: Demonstration, frame: int, noise: float, rng: np.random.Generator) -> None:
        self.start: NDArray[np.float32] = demonstration.states[frame]
        """(7,) the state that the task must be put into first."""
        self._targets, self._frame, self._noise, self._rng = demonstration.targets, frame, noise, rng

    def act(self, task: Task) -> NDArray[np.float32]:
        """Return the action (2,) for the task's present state."""
        target = self._targets[min(self._frame, len(self._targets) - 1)]
        self._frame += 1
        action = (target - task.state[:2]) / REACH + self._noise * self._rng.standard_normal(2)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def draw_replay(
    demonstrations: list[Demonstration], index: int, length: int, seed: int, *, order_seed: int
) -> tuple[Replay, int]:
    """Draw the replay of an episode; returns it, and the number of its demonstration.

    Each demonstration has its turn before any has another, so that a store of as many episodes has all of them.

    Args:
        demonstrations: what there is to replay.
        index: number of the episode.
        length: its frames. A replay starts so early that the demonstration lasts as long, or at one of its first
            frames.
        seed: seed of the moment, the noise and its level.
        order_seed: seed of the demonstrations' turns, the same for all episodes.
    """
    count = len(demonstrations)
    turn = np.random.default_rng([1, order_seed, index // count]).permutation(count)
    number = int(turn[index % count])
    rng = np.random.default_rng(seed)
    frames = len(demonstrations[number].targets)
    frame = int(rng.integers(min(max(frames - length + 1, _FIRST_FRAMES), frames)))
    noise = 0.0 if rng.random() < EXACT else float(rng.uniform(0.0, NOISE))
    return Replay(demonstrations[number], frame, noise, rng), number


def _complete(states: NDArray) -> NDArray[np.float32]:
    """Return recorded states (L, 5) as the task's (L, 7)."""
    velocity = np.gradient(states[:, :2].astype(np.float64), 1.0 / Task.metadata["render_fps"], axis=0)
    velocity[0] = 0.0  # a demonstration begins at rest
    angle = states[:, 4:5].astype(np.float64) % (2.0 * np.pi)
    return np.concatenate([states[:, :4], angle, velocity], axis=1).astype(np.float32)
