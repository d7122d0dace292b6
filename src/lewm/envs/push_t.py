"""Push-T: push a T-shaped block to a pose, with the physics and shapes of the package gym-pusht."""

import os
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm.config import ControlMode, EvalProtocol
from lewm.envs.push_t_drawing import ARENA, Drawing
from lewm.envs.push_t_physics import (
    AGENT_INSIDE,
    DAMPING,
    REACH,
    STIFFNESS,
    SUBSTEPS,
    TIME_STEP,
    WALL_RADIUS,
    WALLS,
    follow,
)
from lewm.envs.rule import PosePart, Rule
from lewm.envs.task import Behaviour, Task, check_state, straight_within_bounds

if TYPE_CHECKING:
    from gym_pusht.envs.pusht import PushTEnv

SUCCESS_POSITION, SUCCESS_ANGLE = 20.0, np.pi / 9
STRICT_POSITION, STRICT_ANGLE, STRICT_STEPS = 10.0, np.pi / 18, 3
# The walls' inner faces; AGENT_INSIDE is the same less the agent's radius of 15, where its disc stays clear of them.
_INSIDE = (7.0, 504.0)
# The block's origin is the middle of its bar's edge; its stem ends 120 away and its middle is about 45 away.
_CENTRE, _STEM = 45.0, 120.0
_CLEARANCE = 80.0
_PUSH_TO = (120.0, 392.0)
_APART = np.array([60, 60, 300, 300, 0, 0, 0], dtype=np.float32)
"""A state in which nothing touches, so that the first physics step of a space leaves no contact behind."""
_FEW = 48
"""Fewer states than this are stepped one by one, which is quicker."""


class PushT(Task):
    """Push a T-shaped block with a disc, seen from above in an arena of 512 x 512 units, y down.

    An action (2,) in [-1, 1] sets the target of the disc's controller to its position plus 100 units times the action,
    clipped to the arena, for 0.1 s. The goal is reached when the disc's and the block's position together are within
    20 units and the block's angle within 20 degrees. The frame has no drawn goal: a goal is a frame of its own.

    Note:
        The state does not hold the block's velocity, which the arena damps within one of the ten physics steps of an
        action. So that the state is complete, every action ends with the block taking the one physics step that its
        velocity still owes it, and contacts are found anew. Ordinary pushing for 25 actions ends 0.1 units (median)
        from where the package's own stepping ends.
    """

    name: ClassVar[str] = "push-t"
    state_names: ClassVar[tuple[str, ...]] = (
        "agent_x", "agent_y", "block_x", "block_y", "block_angle", "agent_vx", "agent_vy",
    )  # fmt: skip
    action_kind: ClassVar[Literal["continuous", "discrete"]] = "continuous"
    control_mode: ClassVar[ControlMode] = "displacement"
    action_size: ClassVar[int] = 2
    pose: ClassVar[tuple[PosePart, ...]] = (
        PosePart(name="the disc's position", entries=("agent_x", "agent_y"), step=SUCCESS_POSITION),
        PosePart(name="the block's position", entries=("block_x", "block_y"), step=SUCCESS_POSITION),
        PosePart(name="the block's angle", entries=("block_angle",), step=SUCCESS_ANGLE, angle=True),
    )
    action_names: ClassVar[tuple[str, ...]] = ("target_x", "target_y")

    def __init__(self, image_size: int = 64) -> None:
        super().__init__(image_size)
        self._arena, self._drawing = _Arena(), Drawing(image_size)
        self._state = np.array([256, 400, 256, 200, 0, 0, 0], dtype=np.float32)

    @property
    def state(self) -> NDArray[np.float32]:
        """Positions of disc and block in units of the arena, the block's angle in [0, 2 pi], the disc's velocity."""
        return self._state.copy()

    def set_state(self, state: ArrayLike) -> None:
        """Put disc and block into a state (7,).

        Raises:
            ValueError: If the state is not seven finite numbers.
        """
        self._state = check_state(state, self.state_names)

    def possible(self, state: ArrayLike) -> bool:
        """Tell whether disc and block fit into the arena, clear of each other."""
        array = np.asarray(state, dtype=np.float32)
        within = ((array[:2] >= AGENT_INSIDE[0]) & (array[:2] <= AGENT_INSIDE[1])).all()
        return bool(within) and super().possible(array) and self._arena.fits(array)

    def success(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        """Tell whether states (..., 7) are within 20 units and 20 degrees of goals (..., 7)."""
        position, angle = _difference(state, goal)
        return (position < SUCCESS_POSITION) & (angle < SUCCESS_ANGLE)

    def rule(self, protocol: EvalProtocol) -> Rule:
        """Return what success is: by `strict`, the block alone, half as far off, for three steps in a row."""
        return Rule(inside=_block_placed, steps=STRICT_STEPS) if protocol == "strict" else super().rule(protocol)

    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        """Return the larger of position / 20 and angle / 20 degrees between states (..., 7): below 1 is success."""
        position, angle = _difference(state, goal)
        return np.maximum(position / SUCCESS_POSITION, angle / SUCCESS_ANGLE)

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float32]:
        """Follow the true dynamics from states (M, 7) by actions (M, L, 2) to states (M, L, 7), many at once."""
        starts, moves = np.asarray(states, dtype=np.float32), np.asarray(actions, dtype=np.float32)
        if len(starts) >= _FEW:
            return follow(starts, moves, self._arena.step)
        path = np.empty((*moves.shape[:2], len(self.state_names)), dtype=np.float32)
        for m, state in enumerate(starts):
            for t, action in enumerate(moves[m]):
                path[m, t] = state = self._arena.step(state, action)
        return path

    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray:
        """Return the actions (M, 2) that set the controller's target to the disc's place in the goal."""
        offset = np.asarray(goals)[..., :2] - np.asarray(states)[..., :2]
        return straight_within_bounds(offset / REACH)

    def render_states(self, states: ArrayLike) -> NDArray[np.uint8]:
        """Draw frames (M, height, width, 3) of states (M, 7)."""
        return self._drawing.draw(np.asarray(states, dtype=np.float32))

    def place(self, states: ArrayLike) -> NDArray[np.float64]:
        """Return where in the frame the disc of states (..., 7) has its centre, (..., 2) in pixels."""
        return np.asarray(states, dtype=np.float64)[..., :2] * (self.image_size / ARENA)

    def behaviour(self, seed: int) -> Behaviour:
        """Return a policy that pushes through the block in random directions, and now and then wanders."""
        return _PushOrWander(seed)

    def _draw_initial_state(self, rng: np.random.Generator) -> NDArray[np.float32]:
        while True:
            agent, block = rng.uniform(*AGENT_INSIDE, 2), rng.uniform(*_INSIDE, 2)
            state = np.array([*agent, *block, rng.uniform(0.0, 2.0 * np.pi), 0.0, 0.0], dtype=np.float32)
            if self._arena.fits(state):
                return state


class _Arena:
    """The package's disc, block and walls in its physics engine, driven as a function from one state to the next."""

    def __init__(self) -> None:
        import pymunk

        env = _environment_class()()
        env.reset()
        self._agent, self._block = env.agent, env.block
        env.space.remove(*env.space.shapes, *env.space.bodies)
        static = pymunk.Body(body_type=pymunk.Body.STATIC)
        walls = [pymunk.Segment(static, start, stop, WALL_RADIUS) for start, stop in WALLS]
        # As the package adds them, bar before stem: the order in which contacts are found depends on it.
        parts = sorted(self._block.shapes, key=lambda shape: -shape.area)
        self._things = (static, *walls), (self._agent, *self._agent.shapes), (self._block, *parts)
        self._space = pymunk.Space()
        self._renew()

    def step(self, state: NDArray[np.float32], action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the state (7,) that an action (2,) leads to."""
        import pymunk

        agent, block = self._agent, self._block
        self._renew()
        self._place(state)
        target_x, target_y = np.clip(state[:2] + REACH * np.clip(action, -1.0, 1.0), *AGENT_INSIDE).tolist()
        for _ in range(SUBSTEPS):
            (x, y), (vx, vy) = agent.position, agent.velocity
            force_x, force_y = STIFFNESS * (target_x - x) - DAMPING * vx, STIFFNESS * (target_y - y) - DAMPING * vy
            agent.velocity = vx + force_x * TIME_STEP, vy + force_y * TIME_STEP
            self._space.step(TIME_STEP)
        pymunk.Body.update_position(block, TIME_STEP)
        angle = block.angle % (2.0 * np.pi)
        return np.array([*agent.position, *block.position, angle, *agent.velocity], dtype=np.float32)

    def fits(self, state: NDArray[np.float32]) -> bool:
        """Tell whether the block is clear of the walls and of the disc."""
        self._place(state)
        block, agent = self._block, self._agent
        corners = np.array([block.local_to_world(v) for shape in block.shapes for v in shape.get_vertices()])
        radius = next(iter(agent.shapes)).radius
        clear = all(shape.point_query(agent.position).distance > radius for shape in block.shapes)
        return clear and bool((corners > _INSIDE[0]).all() and (corners < _INSIDE[1]).all())

    def _renew(self) -> None:
        """Put everything into a new space, as the package's reset does.

        Contacts and neighbours of earlier states are forgotten, which the physics would start from, so that the result
        depends on the state alone.
        """
        import pymunk

        if self._space.shapes:
            self._space.remove(*(thing for things in self._things for thing in things))
        self._space = pymunk.Space()
        self._space.damping = 0.0
        self._block.velocity, self._block.angular_velocity = (0.0, 0.0), 0.0
        self._place(_APART)
        for things in self._things:
            self._space.add(*things)
        self._space.step(TIME_STEP)

    def _place(self, state: NDArray[np.float32]) -> None:
        x, y, block_x, block_y, angle, vx, vy = state.tolist()
        self._agent.position, self._agent.velocity = (x, y), (vx, vy)
        self._block.angle = angle  # first: it turns about the centre of gravity, and so moves the block's origin
        self._block.position = (block_x, block_y)
        for body in (self._agent, self._block):
            self._space.reindex_shapes_for_body(body)


class _PushOrWander:
    """Push the block from a random side, or go to a random place; then do the next."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = self._rng.uniform(0.02, 0.25)
        self._targets: list[NDArray[np.float64]] = []
        self._patience = 0
        self._speed = 0.0

    def act(self, task: Task) -> NDArray:
        """Return the action (2,) towards the present target, with Gaussian noise."""
        state = task.state.astype(np.float64)
        self._patience -= 1
        stem = np.array([-np.sin(state[4]), np.cos(state[4])])
        if self._targets and (self._patience < 0 or np.linalg.norm(self._targets[0] - state[:2]) < 15.0):
            self._next_target()
        for _ in range(20):  # in a corner there may be nothing better; then the last one drawn has to do
            if self._targets and not _squeezes(state[:2], self._targets[0], state[2:4] + _CENTRE * stem):
                break
            self._draw_targets(state[2:4], stem)
        offset = (self._targets[0] - state[:2]) / REACH
        action = offset * min(1.0, self._speed / max(float(np.linalg.norm(offset)), 1e-9))
        return np.clip(action + self._noise * self._rng.standard_normal(2), -1.0, 1.0).astype(np.float32)

    def _next_target(self) -> None:
        del self._targets[0]
        self._patience, self._speed = 15, self._rng.uniform(0.15, 0.7)

    def _draw_targets(self, block: NDArray[np.float64], stem: NDArray[np.float64]) -> None:
        """Draw a place beside the block and one beyond it, or one anywhere."""
        self._patience, self._speed = 15, self._rng.uniform(0.3, 1.0)
        if self._rng.random() < 0.25:
            self._targets = [self._rng.uniform(*AGENT_INSIDE, 2)]
            return
        # The push is aimed at a place along the stem, off its axis at times so that it also turns the block.
        aim = block + self._rng.uniform(0.0, _STEM) * stem
        offset = self._rng.uniform(*_PUSH_TO, 2) - aim
        length = max(float(np.linalg.norm(offset)), 1e-9)
        forward = offset / length
        aim = aim + self._rng.normal(0.0, 20.0) * np.array([-forward[1], forward[0]])
        places = (aim - self._rng.uniform(80.0, 130.0) * forward, aim + length * forward)
        self._targets = [np.clip(place, *AGENT_INSIDE) for place in places]


def _squeezes(agent: NDArray[np.float64], target: NDArray[np.float64], block: NDArray[np.float64]) -> bool:
    """Tell whether the way to the target pushes the block's middle towards a wall that is near.

    The disc's force has no limit, so it would push the block through the wall.
    """
    way, to_block = target - agent, block - agent
    length = max(float(np.linalg.norm(way)), 1e-9)
    forward = way / length
    along, aside = to_block @ forward, abs(to_block[0] * forward[1] - to_block[1] * forward[0])
    beyond = block + _CLEARANCE * forward
    outside = (beyond < _INSIDE[0]).any() or (beyond > _INSIDE[1]).any()
    return bool(outside and 0.0 < along < length + _CLEARANCE and aside < _CLEARANCE)


def _difference(state: ArrayLike, goal: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of both positions taken together, and the angle in [0, pi] between the blocks."""
    offset = np.asarray(state, dtype=np.float64) - np.asarray(goal, dtype=np.float64)
    return np.linalg.norm(offset[..., :4], axis=-1), np.abs((offset[..., 4] + np.pi) % (2.0 * np.pi) - np.pi)


def _block_placed(state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
    """Tell whether the blocks of states (..., 7) are within 10 units and 10 degrees of those of goals (..., 7)."""
    apart = np.asarray(state, dtype=np.float64)[..., 2:4] - np.asarray(goal, dtype=np.float64)[..., 2:4]
    _, angle = _difference(state, goal)
    return (np.linalg.norm(apart, axis=-1) < STRICT_POSITION) & (angle < STRICT_ANGLE)


@cache
def _environment_class() -> "type[PushTEnv]":
    """Import the package on first use: it is slow to import, and its drawing must not look for a screen."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise ValueError(f"task=push-t: cannot import gym-pusht ({error}); pip install 'lewm[env]'") from error
    return PushTEnv
