"""Arm: two links whose servos are told where to be, as the arms of most recordings are."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm.config import ControlMode
from lewm.envs.rule import PosePart
from lewm.envs.task import Behaviour, Task, check_state

LINKS = (0.24, 0.20)  # lengths; the frame is the unit square, x to the right and y down
REACH = sum(LINKS)
BASE = (0.5, 0.5)
LIMITS = (2.6, 2.4)  # of shoulder and elbow, in radians to either side
HELD_WITHIN = 0.03  # of the reach
HOLD = 10

_PERIOD, _SUBSTEPS = 0.1, 10  # seconds of a step, and what it is computed in
_STIFFNESS = 10.0  # radians a second: a servo is critically damped, and half of a move is done after 0.17 s
_FASTEST = 4.0  # radians a second
_NOISE = 0.003  # radians that a joint is off what the servo alone would do, a step, one standard deviation
_WIDTHS = (0.034, 0.026)
_COLOURS = ((52, 94, 160), (226, 140, 40))
_TIP, _TIP_COLOUR = 0.032, (200, 30, 50)
_HUB, _HUB_COLOUR = 0.045, (60, 62, 70)
_FLOOR = (236, 232, 222)


class Arm(Task):
    """Bring the tip of a two-link arm, seen from above, to its place in the goal, and keep it there.

    An action (2,) says where shoulder and elbow shall be, in radians: absolute targets, as most robots record them.
    A servo follows its target with a lag of some steps, no faster than 4 radians a second, and with a little noise. The
    goal is held if, in each of the last ten steps, the tip is within 3% of the arm's reach of its place in the goal.

    Note:
        The noise depends on state and action alone, so that the same action leads from a state to the same one again.
    """

    name: ClassVar[str] = "arm"
    state_names: ClassVar[tuple[str, ...]] = ("shoulder", "elbow", "shoulder_velocity", "elbow_velocity")
    action_kind: ClassVar[Literal["continuous", "discrete"]] = "continuous"
    action_size: ClassVar[int] = 2
    action_names: ClassVar[tuple[str, ...]] = ("shoulder_target", "elbow_target")
    action_limits: ClassVar[tuple[float, ...]] = LIMITS
    control_mode: ClassVar[ControlMode] = "position"
    default_image_size: ClassVar[int] = 96
    hold: ClassVar[int] = HOLD
    pose: ClassVar[tuple[PosePart, ...]] = (  # stretched out, a radian of the shoulder moves the tip by the reach
        PosePart(name="the shoulder's angle", entries=("shoulder",), step=HELD_WITHIN, angle=True),
        PosePart(name="the elbow's angle", entries=("elbow",), step=HELD_WITHIN, angle=True),
    )

    def __init__(self, image_size: int = 96) -> None:
        super().__init__(image_size)
        self._state = np.zeros(4, dtype=np.float32)

    @property
    def state(self) -> NDArray[np.float32]:
        """The angles (2,) of shoulder and elbow in radians, and how fast they grow, a second (2,)."""
        return self._state.copy()

    def set_state(self, state: ArrayLike) -> None:
        """Put the arm into a state (4,).

        Raises:
            ValueError: If the state is not four finite numbers, or a joint is beyond its limit.
        """
        array = check_state(state, self.state_names)
        if (np.abs(array[:2]) > np.array(LIMITS) + 0.1).any():  # noise and momentum carry it a little further
            raise ValueError(f"state={array.tolist()}: a joint is beyond its limit; keep within {LIMITS} radians")
        self._state = array

    def command(self, states: ArrayLike) -> NDArray[np.float32]:
        """Return the commands (M, 2) under which the arm rests in states (M, 4): where its joints are."""
        return np.asarray(states, dtype=np.float32)[..., :2]

    def success(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        """Tell whether the tips of states (..., 4) are within 3% of the reach of those of goals (..., 4)."""
        apart = joint_places(state)[..., 2, :] - joint_places(goal)[..., 2, :]
        return np.linalg.norm(apart, axis=-1) < HELD_WITHIN * REACH

    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        """Return the larger of both angles between states (..., 4) and goals (..., 4), in radians.

        Not the distance of the tips: that leads a planner into poses from which every way is longer at first.
        """
        offset = np.asarray(state, dtype=np.float64)[..., :2] - np.asarray(goal, dtype=np.float64)[..., :2]
        return np.abs(offset).max(axis=-1)

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float32]:
        """Follow the true dynamics of many arms at once: states (M, 4), actions (M, L, 2) to states (M, L, 4)."""
        state = np.asarray(states, dtype=np.float32)
        limits = np.array(LIMITS, dtype=np.float32)
        targets = np.clip(np.asarray(actions, dtype=np.float32), -limits, limits)
        path = np.empty((*targets.shape[:2], 4), dtype=np.float32)
        for t in range(targets.shape[1]):
            state = path[:, t] = _follow(state, targets[:, t])
        return path

    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray[np.float32]:
        """Return the targets (M, 2) that are the goals' own angles."""
        return np.asarray(goals, dtype=np.float32)[..., :2]

    def render_states(self, states: ArrayLike) -> NDArray[np.uint8]:
        """Draw frames (M, height, width, 3) of states (M, 4), with smooth edges."""
        places = joint_places(states).astype(np.float32)
        centre = ((np.arange(self.image_size) + 0.5) / self.image_size).astype(np.float32)
        frames = np.empty((len(places), self.image_size, self.image_size, 3), dtype=np.uint8)
        hub = _capsule(centre, places[0, :1], places[0, :1], _HUB, self.image_size)
        floor = _over(np.array(_FLOOR, dtype=np.float32), hub[0], _HUB_COLOUR)
        for m in range(0, len(places), 64):  # drawn together, as many as stay in the caches
            base, elbow, tip = np.moveaxis(places[m : m + 64], 1, 0)
            image: NDArray[np.float32] = floor
            for start, end, width, colour in (
                (base, elbow, _WIDTHS[0], _COLOURS[0]),
                (elbow, tip, _WIDTHS[1], _COLOURS[1]),
                (tip, tip, _TIP, _TIP_COLOUR),
            ):
                image = _over(image, _capsule(centre, start, end, width, self.image_size), colour)
            frames[m : m + 64] = np.rint(image)
        return frames

    def place(self, states: ArrayLike) -> NDArray[np.float64]:
        """Return where in the frame the tips of states (..., 4) are, (..., 2) in pixels."""
        return joint_places(states)[..., 2, :] * self.image_size

    def behaviour(self, seed: int) -> Behaviour:
        """Return a policy that moves the targets from one random pose to the next, each at its own speed, and rests."""
        return _Point(seed)

    def _draw_initial_state(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return np.array([*rng.uniform(np.negative(LIMITS), LIMITS), 0.0, 0.0], dtype=np.float32)


class _Point:
    """Move the command to a random pose at a random speed, rest there for a while, and go on to the next."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = self._rng.uniform(0.0, 0.05)
        self._command: NDArray[np.float64] | None = None

    def act(self, task: Task) -> NDArray:
        """Return the action (2,): the command, a little further on its way."""
        if self._command is None:
            self._command = task.state[:2].astype(np.float64)
            self._draw_pose()
        offset = self._pose - self._command
        if np.abs(offset).max() < 1e-6:
            self._rest -= 1
            if self._rest < 0:
                self._draw_pose()
                offset = self._pose - self._command
        # The joint that has further to go sets the pace.
        self._command = self._command + offset * min(1.0, self._speed / max(np.abs(offset).max(), 1e-9))
        noise = self._noise * self._rng.standard_normal(2)
        return np.clip(self._command + noise, np.negative(LIMITS), LIMITS).astype(np.float32)

    def _draw_pose(self) -> None:
        assert self._command is not None
        pose = self._rng.uniform(np.negative(LIMITS), LIMITS)
        if self._rng.random() < 0.5:  # near by: else small corrections are seldom seen
            pose = self._command + self._rng.normal(0.0, 0.3, 2)
        self._pose = np.clip(pose, np.negative(LIMITS), LIMITS)
        self._speed, self._rest = self._rng.uniform(0.03, 0.35), self._rng.integers(0, 8)


def joint_places(states: ArrayLike) -> NDArray[np.float64]:
    """Return where base, elbow and tip of states (..., 4) are in the unit square, (..., 3, 2)."""
    angles = np.cumsum(np.asarray(states, dtype=np.float64)[..., :2], axis=-1)
    links = np.array(LINKS)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # (..., 2, 2)
    base = np.broadcast_to(np.array(BASE), (*links.shape[:-2], 1, 2))
    return np.concatenate([base, np.array(BASE) + np.cumsum(links, axis=-2)], axis=-2)


def _follow(state: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move the joints of states (M, 4) for one step towards targets (M, 2)."""
    angle, velocity = np.split(state.astype(np.float64), 2, axis=1)
    dt = _PERIOD / _SUBSTEPS
    for _ in range(_SUBSTEPS):
        pull = _STIFFNESS**2 * (target - angle) - 2.0 * _STIFFNESS * velocity
        velocity = np.clip(velocity + dt * pull, -_FASTEST, _FASTEST)
        angle = angle + dt * velocity
    angle = angle + _NOISE * _noise(np.concatenate([state, target], axis=1))
    return np.concatenate([angle, velocity], axis=1).astype(np.float32)


def _noise(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return two standard normal numbers (M, 2) that are drawn by the bits of values (M, V) alone."""
    mixed = np.zeros(len(values), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in (values + np.float32(0.0)).T:  # the sum makes one zero of both
            mixed = (mixed ^ column.view(np.uint32)) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
    first, second = ((mixed >> np.uint64(k)) % np.uint64(2**31) + 0.5 for k in (33, 0))
    radius, turn = np.sqrt(-2.0 * np.log(first / 2**31)), 2.0 * np.pi * second / 2**31  # Box and Muller (1958)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _capsule(
    centre: NDArray[np.float32], start: NDArray[np.float32], end: NDArray[np.float32], radius: float, pixels: int
) -> NDArray[np.float32]:
    """Return how much of each pixel thick lines cover, (M, pixels, pixels, 1), from starts to ends (M, 2)."""
    along = end - start
    x, y = centre[None, None, :] - start[:, 0, None, None], centre[None, :, None] - start[:, 1, None, None]
    dx, dy = along[:, 0, None, None], along[:, 1, None, None]
    share = np.clip((x * dx + y * dy) / np.maximum(dx**2 + dy**2, 1e-12), 0.0, 1.0)
    away = np.hypot(x - share * dx, y - share * dy)
    return np.clip((radius - away) * pixels + 0.5, 0.0, 1.0)[..., None].astype(np.float32)


def _over(image: NDArray[np.float32], cover: NDArray[np.float32], colour: tuple[int, int, int]) -> NDArray[np.float32]:
    """Paint a colour over images (..., pixels, pixels, 3) where `cover` says so."""
    return (image + cover * (np.array(colour, dtype=np.float32) - image)).astype(np.float32)
