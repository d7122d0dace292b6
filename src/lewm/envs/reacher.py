"""Reacher: turn a two-link arm to a pose, with the physics and shapes of dm_control's reacher."""

import atexit
import importlib
import importlib.resources
import os
import sys
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm.config import EvalProtocol
from lewm.envs.rule import PosePart, Rule
from lewm.envs.task import Behaviour, Task, check_state

SUCCESS_ANGLE = 0.05
STRICT_DISTANCE, STRICT_STEPS = 0.01, 2  # metres between fingertips
WRIST_LIMIT = np.radians(160.0)
_DRAWN = 256  # pixels, at least, before a frame is averaged down
_HIDDEN = 4  # a group of shapes that is not drawn
# Of the arm's pull towards a pose, in full torques a radian and a radian a second: fast, and hardly any overshoot.
_STIFFNESS, _DAMPING = 2.0, 0.25


class Reacher(Task):
    """Turn a planar arm of two links, seen from above: the shoulder turns freely, the wrist by up to 160 degrees.

    An action (2,) in [-1, 1] is the torque of shoulder and wrist as a share of the strongest, for one physics step of
    0.02 s, the step of dm_control's own environment. Within 25 actions of the behaviour policy the joint that turns
    further turns by about one radian (median). The goal is reached when both angles are within 0.05 radians of it, the
    tolerance of the published protocol: about what an ordinary step turns, so that an arm on its way does not pass the
    goal unseen. The frame has no drawn target: a goal is a frame of its own.

    Note:
        Shadows and reflections, which take most of the time in software, are not drawn. A frame is drawn with 256
        pixels or more a side and averaged down.
    """

    metadata: ClassVar[dict[str, Any]] = Task.metadata | {"render_fps": 50}
    name: ClassVar[str] = "reacher"
    state_names: ClassVar[tuple[str, ...]] = ("shoulder", "wrist", "shoulder_velocity", "wrist_velocity")
    action_kind: ClassVar[Literal["continuous", "discrete"]] = "continuous"
    action_size: ClassVar[int] = 2
    action_names: ClassVar[tuple[str, ...]] = ("shoulder_torque", "wrist_torque")
    pose: ClassVar[tuple[PosePart, ...]] = (
        PosePart(name="the shoulder's angle", entries=("shoulder",), step=SUCCESS_ANGLE, angle=True),
        PosePart(name="the wrist's angle", entries=("wrist",), step=SUCCESS_ANGLE, angle=True),
    )

    def __init__(self, image_size: int = 64) -> None:
        super().__init__(image_size)
        self._arm = _Arm(image_size)
        self._state = np.zeros(4, dtype=np.float32)

    @property
    def state(self) -> NDArray[np.float32]:
        """The angles of shoulder, in [-pi, pi], and wrist in radians, and how fast they grow, a second."""
        return self._state.copy()

    def set_state(self, state: ArrayLike) -> None:
        """Put the arm into a state (4,).

        Raises:
            ValueError: If the state is not four finite numbers, or the wrist is turned by more than pi.
        """
        array = check_state(state, self.state_names)
        if abs(array[1]) > np.pi:  # the limit of 160 degrees gives way a little
            raise ValueError(
                f"state={array.tolist()}: the wrist turns by up to 160 degrees; keep it within 2.79 radians"
            )
        self._state = array

    def success(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        """Tell whether both angles of states (..., 4) are within 0.05 radians of those of goals (..., 4)."""
        return self.distance(state, goal) < 1.0

    def rule(self, protocol: EvalProtocol) -> Rule:
        """Return what success is: by `strict`, the fingertip within 1 cm of its place in the goal, two steps in a row.

        `distance` takes the shoulder's shorter way round, so `moderate` needs no rule of its own.
        """
        return Rule(inside=self._tip_placed, steps=STRICT_STEPS) if protocol == "strict" else super().rule(protocol)

    def _tip_placed(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        apart = self._arm.tip(np.asarray(state, dtype=np.float64)) - self._arm.tip(np.asarray(goal, dtype=np.float64))
        return np.linalg.norm(apart, axis=-1) <= STRICT_DISTANCE

    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        """Return the larger of both angles between states (..., 4), over 0.05 radians: below 1 is success.

        The shoulder takes the shorter way round; the wrist cannot go round.
        """
        offset = np.asarray(state, dtype=np.float64)[..., :2] - np.asarray(goal, dtype=np.float64)[..., :2]
        return np.maximum(np.abs(_wrapped(offset[..., 0])), np.abs(offset[..., 1])) / SUCCESS_ANGLE

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float32]:
        """Follow the true dynamics from states (M, 4) by actions (M, L, 2) to states (M, L, 4), one after another."""
        starts, moves = np.asarray(states, dtype=np.float32), np.asarray(actions, dtype=np.float32)
        path = np.empty((*moves.shape[:2], len(self.state_names)), dtype=np.float32)
        for m, state in enumerate(starts):
            for t, action in enumerate(moves[m]):
                path[m, t] = state = self._arm.step(state, action)
        return path

    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray[np.float32]:
        """Return the torques (M, 2) that pull both joints of states (M, 4) to the angles of goals (M, 4)."""
        array = np.asarray(states, dtype=np.float64)
        offset = np.asarray(goals, dtype=np.float64)[..., :2] - array[..., :2]
        offset[..., 0] = _wrapped(offset[..., 0])
        return np.clip(_STIFFNESS * offset - _DAMPING * array[..., 2:], -1.0, 1.0).astype(np.float32)

    def render_states(self, states: ArrayLike) -> NDArray[np.uint8]:
        """Draw frames (M, height, width, 3) of states (M, 4).

        Raises:
            ValueError: If MuJoCo cannot draw on this machine.
        """
        array = np.asarray(states, dtype=np.float32)
        frames = np.empty((len(array), self.image_size, self.image_size, 3), dtype=np.uint8)
        for m, state in enumerate(array):
            frames[m] = self._arm.draw(state)
        return frames

    def place(self, states: ArrayLike) -> NDArray[np.float64]:
        """Return where in the frame the fingertip of states (..., 4) is, (..., 2) in pixels."""
        return self._arm.fingertip(np.asarray(states, dtype=np.float64))

    def behaviour(self, seed: int) -> Behaviour:
        """Return a policy that turns the arm to random poses one after another, each with its own strength."""
        return _Reach(seed)

    def _draw_initial_state(self, rng: np.random.Generator) -> NDArray[np.float32]:
        shoulder, wrist = rng.uniform(-np.pi, np.pi), rng.uniform(-WRIST_LIMIT, WRIST_LIMIT)
        return np.array([shoulder, wrist, 0.0, 0.0], dtype=np.float32)


class _Arm:
    """dm_control's model of the arm, driven as a function from one state to the next."""

    def __init__(self, image_size: int) -> None:
        self._mujoco, path = _import_mujoco()
        self._image_size = image_size
        self._oversampling = -(-_DRAWN // image_size)
        model = self._mujoco.MjModel.from_xml_path(str(path))
        model.geom_group[model.geom("target").id] = _HIDDEN
        # Before there is a renderer, which takes them over.
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = self._oversampling * image_size
        model.mat_reflectance[:] = 0.0
        self._model, self._data = model, self._mujoco.MjData(model)

    def step(self, state: NDArray[np.float32], action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the state (4,) that an action (2,) leads to; the motors clip it."""
        # Forget what the solver would start from, so that the result depends on the state alone.
        self._place(state)
        self._data.ctrl[:] = action
        self._mujoco.mj_step(self._model, self._data)
        shoulder, wrist = self._data.qpos
        return np.array([_wrapped(shoulder), wrist, *self._data.qvel], dtype=np.float32)

    def draw(self, state: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Draw the frame (height, width, 3) of a state (4,)."""
        self._place(state)
        self._mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera="fixed")
        size, times = self._image_size, self._oversampling
        large = self._renderer.render().reshape(size, times, size, times, 3)
        return np.rint(large.sum((1, 3), dtype=np.uint32) / times**2).astype(np.uint8)

    def tip(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where the fingertip is in states (..., 4), from the shoulder, (..., 2) in metres."""
        shoulder, both = states[..., 0], states[..., 0] + states[..., 1]
        upper, lower = (self._model.body(name).pos[0] for name in ("hand", "finger"))
        x, y = upper * np.cos(shoulder) + lower * np.cos(both), upper * np.sin(shoulder) + lower * np.sin(both)
        return np.stack((x, y), axis=-1)

    def fingertip(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return at which pixels (..., 2) the camera, which looks straight down, sees the tip in states (..., 4)."""
        camera = self._model.camera("fixed")
        depth = camera.pos[2] - self._model.body("arm").pos[2]
        half = depth * np.tan(np.radians(camera.fovy[0]) / 2)  # of what the frame shows
        return self._image_size / 2 * (1.0 + self.tip(states) * (1.0, -1.0) / half)

    def _place(self, state: NDArray[np.float32]) -> None:
        self._mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:], self._data.qvel[:] = state[:2], state[2:]

    @cached_property
    def _renderer(self) -> Any:
        """Open what draws on first use: it takes a while, and the dynamics do without."""
        side = self._oversampling * self._image_size
        try:
            renderer = self._mujoco.Renderer(self._model, side, side)
        except (AttributeError, ImportError, RuntimeError, self._mujoco.FatalError) as error:
            raise ValueError(_no_drawing(error)) from error
        # Left to the end of the process it would outlive what it draws with, and say so on the error stream.
        atexit.register(_close, weakref.ref(renderer))
        return renderer


class _Reach:
    """Turn the arm to a random pose, or for half a second towards it; then to the next."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = self._rng.uniform(0.02, 0.3)
        self._draw_pose()

    def act(self, task: Task) -> NDArray:
        """Return the action (2,) towards the present pose, with Gaussian noise."""
        state = task.state.astype(np.float64)
        self._patience -= 1
        if self._patience < 0 or np.abs(self._offset(state)).max() < 0.1:
            self._draw_pose()
        pull = _STIFFNESS * self._offset(state) - _DAMPING * state[2:]
        action = np.clip(pull, -self._strength, self._strength) + self._noise * self._rng.standard_normal(2)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _draw_pose(self) -> None:
        # The wrist is drawn from a full turn and held at its limits: else they are seldom seen.
        wrist = np.clip(self._rng.uniform(-np.pi, np.pi), -WRIST_LIMIT, WRIST_LIMIT)
        self._pose = np.array([self._rng.uniform(-np.pi, np.pi), wrist])
        self._patience, self._strength = 25, self._rng.uniform(0.2, 1.0)

    def _offset(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the angles (2,) from the present pose to the one that is wanted."""
        offset = self._pose - state[:2]
        return np.array([_wrapped(offset[0]), offset[1]])


def _wrapped(angle: Any) -> Any:
    """Return angles in [-pi, pi]."""
    return (angle + np.pi) % (2.0 * np.pi) - np.pi


def _import_mujoco() -> tuple[Any, Path]:
    """Import MuJoCo on first use, drawing without a screen, and return it with the file of dm_control's model."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        # Not dm_control's suite, which imports every domain: its file is all that is needed.
        suite = Path(str(importlib.resources.files("dm_control"))) / "suite"
        return importlib.import_module("mujoco"), suite / "reacher.xml"
    except ImportError as error:
        raise ValueError(
            f"task=reacher: cannot import mujoco and dm_control ({error}); pip install 'lewm[mujoco]'"
        ) from error
    except (AttributeError, RuntimeError) as error:  # it looks for what it would draw with
        raise ValueError(_no_drawing(error)) from error


def _close(renderer: weakref.ref[Any]) -> None:
    """Close a renderer that is still there."""
    if (alive := renderer()) is not None:
        alive.close()


def _no_drawing(error: Exception) -> str:
    """Say that MuJoCo found nothing to draw with, which it says in many ways."""
    return (
        f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: MuJoCo cannot draw with it ({error}); "
        "install its library, or set the variable to egl, osmesa or glfw"
    )
