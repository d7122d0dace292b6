"""What every task offers beside Gymnasium's API: its true state, its true dynamics, success, distance, a behaviour."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, Protocol

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm.config import ControlMode, EvalProtocol
from lewm.envs.rule import PosePart, Rule

SMALLEST_IMAGE, LARGEST_IMAGE = 16, 512


class Behaviour(Protocol):
    """A policy that collects episodes."""

    def act(self, task: Any) -> NDArray:
        """Return the action for the task's present state."""
        ...


class Task(gymnasium.Env[NDArray[np.uint8], Any]):
    """Be a task whose observation is a frame and whose goal is another frame of the same task.

    An episode has no end and no reward of its own: a goal is a state, and `success` and `distance` compare with it.
    Observations are frames uint8 (height, width, 3); `info["state"]` is the true state (S,) float32.

    Args:
        image_size: Height and width of a frame in pixels.

    Raises:
        ValueError: If the image size is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    name: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]
    action_kind: ClassVar[Literal["continuous", "discrete"]]
    action_size: ClassVar[int]
    action_names: ClassVar[tuple[str, ...]] = ()
    """Names of the entries of a continuous action."""
    action_limits: ClassVar[tuple[float, ...]] = ()
    """Size that each entry of a continuous action has at most; 1 for all if empty."""
    control_mode: ClassVar[ControlMode] = "unknown"
    hold: ClassVar[int] = 0
    """Last environment steps of an episode in which the goal must hold; 0 where reaching it once is enough."""
    pose: ClassVar[tuple[PosePart, ...]] = ()
    """The parts of the pose that a goal asks for; empty where the task does not say."""
    default_image_size: ClassVar[int] = 64
    """Height and width of a frame in pixels, if nothing else is asked for."""

    def __init__(self, image_size: int = 64) -> None:
        if not SMALLEST_IMAGE <= image_size <= LARGEST_IMAGE:
            raise ValueError(
                f"image_size={image_size}: must be between {SMALLEST_IMAGE} and {LARGEST_IMAGE} pixels; use 64 to 224"
            )
        self.image_size = image_size
        self.render_mode = "rgb_array"
        self.observation_space = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        if self.action_kind == "continuous":
            limits = np.array(self.limits(), dtype=np.float32)
            self.action_space = gymnasium.spaces.Box(-limits, limits)
        else:
            self.action_space = gymnasium.spaces.Discrete(self.action_size)

    @classmethod
    def limits(cls) -> tuple[float, ...]:
        """Return the size (A,) that each entry of a continuous action has at most."""
        return cls.action_limits or (1.0,) * cls.action_size

    @property
    @abstractmethod
    def state(self) -> NDArray[np.float32]:
        """The true state (S,), in the order of `state_names`."""

    @abstractmethod
    def set_state(self, state: ArrayLike) -> None:
        """Put the task into a state (S,), so that the same actions lead to the same states from there.

        Raises:
            ValueError: If the state has another shape or is not a possible one.
        """

    def possible(self, state: ArrayLike) -> bool:
        """Tell whether the task can be in a state (S,); its own stays as it is."""
        present = self.state
        try:
            self.set_state(state)
        except ValueError:
            return False
        self.set_state(present)
        return True

    def command(self, states: ArrayLike) -> NDArray[np.float32]:
        """Return the commands (M, A) under which the task rests in states (M, S); only where actions are positions."""
        raise NotImplementedError

    @abstractmethod
    def success(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        """Tell whether states (..., S) have reached goals (..., S); the leading axes broadcast."""

    def rule(self, protocol: EvalProtocol) -> Rule:
        """Return what success is under a protocol.

        Here it is `success` under all of them, in the last `hold` steps where the task wants a goal to be held. A task
        that has other rules for `moderate` or `strict` says them here; `standard` must stay this one.
        """
        return Rule(inside=self.success, steps=max(self.hold, 1), at_end=self.hold > 0)

    @abstractmethod
    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        """Return the true distance of states (..., S) to goals (..., S): the cost of a planner that sees the state."""

    @abstractmethod
    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float32]:
        """Follow the true dynamics from many states at once, without touching the task's own state.

        Args:
            states: States (M, S) to start from.
            actions: Actions (M, L, A), or (M, L) for discrete ones.

        Returns:
            The states (M, L, S) after each action.
        """

    @abstractmethod
    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray:
        """Return what moves the part that actions move straight to where it is in the goal, whatever stands in the way.

        Starts from which this reaches the goal need no planning; closed-loop results are told apart by it.

        Args:
            states: States (M, S).
            goals: Goals (M, S).

        Returns:
            Actions of the task's space, (M, A) float32, or (M,) int64 for discrete ones.
        """

    @abstractmethod
    def render_states(self, states: ArrayLike) -> NDArray[np.uint8]:
        """Draw the frames (M, height, width, 3) of states (M, S)."""

    def place(self, states: ArrayLike) -> NDArray[np.float64] | None:
        """Return where in the frame of states (..., S) the part is that actions move, or None if the task cannot tell.

        Pictures of an episode draw its path there.

        Returns:
            (..., 2) in pixels, from the frame's left and upper edge; the middle of the first pixel is at (0.5, 0.5).
        """
        return None

    @abstractmethod
    def behaviour(self, seed: int) -> Behaviour:
        """Return the policy that collects one episode with good coverage; it depends on the seed alone."""

    @abstractmethod
    def _draw_initial_state(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw the state (S,) that an episode starts from."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode from a state that is drawn at random.

        Args:
            seed: Seed of this and later initial states; None goes on with the present generator.
            options: Not used; Gymnasium's signature.

        Returns:
            The first frame, and a dictionary with the state.
        """
        super().reset(seed=seed, options=options)
        self.set_state(self._draw_initial_state(self.np_random))
        return self.render(), {"state": self.state}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Take one action. The reward is always 0 and the episode never ends by itself."""
        self.advance(action)
        return self.render(), 0.0, False, False, {"state": self.state}

    def advance(self, action: ArrayLike) -> None:
        """Take one action without drawing the frame."""
        self.set_state(self.simulate(self.state[None], np.asarray(action)[None, None])[0, 0])

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draw the present frame (height, width, 3)."""
        return self.render_states(self.state[None])[0]


def straight_within_bounds(offset: NDArray) -> NDArray[np.float32]:
    """Shorten actions (M, A) that leave [-1, 1] to where they do, keeping their direction."""
    longest = np.abs(offset).max(axis=-1, keepdims=True)
    return (offset / np.maximum(longest, 1.0)).astype(np.float32)


def check_state(state: ArrayLike, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return one state (S,) as float32.

    Raises:
        ValueError: If its shape is not (S,) or it has a value that is not finite.
    """
    array = np.array(state, dtype=np.float32)
    if array.shape != (len(names),) or not np.isfinite(array).all():
        raise ValueError(f"state={array.tolist()}: must be {len(names)} finite numbers; give {', '.join(names)}")
    return array
