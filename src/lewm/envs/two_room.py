"""Two-Room: a disc in two square rooms that a wall with one door divides, with continuous or discrete moves."""

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm.config import ControlMode, EvalProtocol
from lewm.envs.rule import PosePart, Rule
from lewm.envs.task import Behaviour, Task, check_state, straight_within_bounds

RADIUS = 0.05
STEP = 0.04
SUCCESS_DISTANCE = 0.07
STRICT_DISTANCE = SUCCESS_DISTANCE / 2
WALL_X = (0.47, 0.53)
DOOR_Y = (0.38, 0.62)
SUBSTEPS = 4

_FLOOR_LEFT, _FLOOR_RIGHT = (240, 234, 214), (214, 230, 240)
_WALL_COLOUR, _AGENT_COLOUR = (38, 42, 60), (220, 30, 40)
_CENTRE_Y = 0.5 * (DOOR_Y[0] + DOOR_Y[1])
_HALF_GAP = 0.5 * (DOOR_Y[1] - DOOR_Y[0]) - RADIUS  # room for the disc's centre on either side of the door's middle
_ROUNDING = 1e-5  # of states, which are float32
# Of one action, seen as a straight line: what it cuts off a post that the disc slides round, and how far it goes along
# an axis, at most, where a post pushes the disc on.
_CUT = RADIUS - np.sqrt(RADIUS**2 - STEP**2 / 2)
_LONGEST = 1.2 * STEP
_MOUTH_X = (WALL_X[0] - RADIUS - 0.02, WALL_X[1] + RADIUS + 0.02)


class TwoRoom(Task):
    """Move a disc of radius 0.05 through two rooms: the unit square, x to the right and y down in the frame.

    The wall stands at x = 0.5 with thickness 0.06; its door is centred at y = 0.5 with width 0.24. An action (2,) in
    [-1, 1] moves the disc by up to 0.04 along each axis; it slides along what it touches. The goal is reached within
    0.07 of it (16 of 224 pixels).
    """

    name: ClassVar[str] = "two-room"
    state_names: ClassVar[tuple[str, ...]] = ("x", "y")
    action_kind: ClassVar[Literal["continuous", "discrete"]] = "continuous"
    control_mode: ClassVar[ControlMode] = "displacement"
    action_size: ClassVar[int] = 2
    action_names: ClassVar[tuple[str, ...]] = ("move_x", "move_y")
    pose: ClassVar[tuple[PosePart, ...]] = (
        PosePart(name="the disc's position", entries=("x", "y"), step=SUCCESS_DISTANCE),
    )

    def __init__(self, image_size: int = 64) -> None:
        super().__init__(image_size)
        self._background = _draw_rooms(image_size)
        self._state = np.array([0.25, 0.5], dtype=np.float32)

    @property
    def state(self) -> NDArray[np.float32]:
        """The position (2,) of the disc's centre."""
        return self._state.copy()

    def set_state(self, state: ArrayLike) -> None:
        """Put the disc's centre at a position (2,), exactly.

        Raises:
            ValueError: If the disc would stand in a wall, or the position is not two finite numbers.
        """
        array = check_state(state, self.state_names)
        if not _fits(array.astype(np.float64)):
            raise ValueError(f"state={array.tolist()}: the disc would stand in a wall; keep {RADIUS} away from walls")
        self._state = array

    def success(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        """Tell whether positions (..., 2) are within 0.07 of goals (..., 2)."""
        return np.linalg.norm(np.asarray(state) - np.asarray(goal), axis=-1) < SUCCESS_DISTANCE

    def rule(self, protocol: EvalProtocol) -> Rule:
        """Return what success is: by `moderate` and `strict`, only ways from one room to the other count.

        By `strict` the disc must come twice as close, and every step of its way must be one that leads through no wall.
        """
        rule = super().rule(protocol)
        if protocol == "standard":
            return rule
        if protocol == "moderate":
            return replace(rule, counts=_in_other_room)
        return replace(rule, inside=_close, legal=_legal, counts=_in_other_room)

    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        """Return the length of the shortest way between positions (..., 2), through the door where need be.

        Within a room it is the straight line. It takes the door posts as sharp, not rounded by the disc's radius.
        """
        return _path_length(np.asarray(state, dtype=np.float64), np.asarray(goal, dtype=np.float64))

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float32]:
        """Follow the true dynamics of many discs at once: states (M, 2), actions (M, L, A) or (M, L) to (M, L, 2)."""
        position = np.asarray(states, dtype=np.float32)
        moves = self._moves(actions)
        path = np.empty((len(position), moves.shape[1], 2), dtype=np.float32)
        for t in range(moves.shape[1]):
            position = path[:, t] = _slide(position, moves[:, t]).astype(np.float32)
        return path

    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray:
        """Return the actions (M, 2) that move discs straight to the goals' positions, as if there were no wall."""
        return straight_within_bounds((np.asarray(goals) - np.asarray(states)) / STEP)

    def render_states(self, states: ArrayLike) -> NDArray[np.uint8]:
        """Draw frames (M, height, width, 3) of positions (M, 2), with smooth edges."""
        centres = np.asarray(states, dtype=np.float32) * self.image_size
        reach = int(np.ceil(RADIUS * self.image_size)) + 1
        offsets = np.arange(-reach, reach + 1)
        # Only the pixels around the disc change. Those beyond the border fold onto the border pixel, and get the
        # colour that this pixel has anyway.
        pixels = np.clip(np.floor(centres)[:, :, None].astype(np.int64) + offsets, 0, self.image_size - 1)
        from_centre = pixels + 0.5 - centres[:, :, None]
        radius = np.hypot(from_centre[:, 0, None, :], from_centre[:, 1, :, None])
        cover = np.clip(RADIUS * self.image_size - radius + 0.5, 0.0, 1.0)[..., None]
        columns, rows = pixels[:, 0, None, :], pixels[:, 1, :, None]
        blend = cover * np.array(_AGENT_COLOUR) + (1.0 - cover) * self._background[rows, columns]
        frames = np.repeat(self._background[None], len(centres), axis=0)
        frames[np.arange(len(centres))[:, None, None], rows, columns] = np.rint(blend).astype(np.uint8)
        return frames

    def place(self, states: ArrayLike) -> NDArray[np.float64]:
        """Return where in the frame the discs of positions (..., 2) have their centres, (..., 2) in pixels."""
        return np.asarray(states, dtype=np.float64) * self.image_size

    def behaviour(self, seed: int) -> Behaviour:
        """Return a policy that walks to random places of both rooms, each at its own speed, with Gaussian noise."""
        return _Walk(seed)

    def _draw_initial_state(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return _draw_free_position(rng)

    def _moves(self, actions: ArrayLike) -> NDArray[np.float64]:
        """Turn actions (M, L, 2) into displacements (M, L, 2)."""
        return STEP * np.clip(np.asarray(actions, dtype=np.float64), -1.0, 1.0)


class TwoRoomDiscrete(TwoRoom):
    """Move the disc of Two-Room by five actions: stay, left, right, up and down, each 0.04 long."""

    name: ClassVar[str] = "two-room-discrete"
    action_kind: ClassVar[Literal["continuous", "discrete"]] = "discrete"
    control_mode: ClassVar[ControlMode] = "unknown"
    action_size: ClassVar[int] = 5
    action_names: ClassVar[tuple[str, ...]] = ()

    _directions: ClassVar[NDArray[np.float64]] = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], dtype=np.float64)

    def behaviour(self, seed: int) -> Behaviour:
        """Return a policy that walks to random places of both rooms, with some actions drawn uniformly."""
        return _DiscreteWalk(seed)

    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray:
        """Return the actions (M,) along the axis with the larger offset from the goal; none within half a step."""
        offset = np.asarray(goals) - np.asarray(states)
        x, y = np.moveaxis(offset, -1, 0)
        action = np.where(np.abs(x) >= np.abs(y), 1 + (x > 0), 3 + (y > 0))
        return np.where(np.abs(offset).max(axis=-1) <= 0.5 * STEP, 0, action)

    def _moves(self, actions: ArrayLike) -> NDArray[np.float64]:
        """Turn actions (M, L) into displacements (M, L, 2)."""
        index = np.asarray(actions, dtype=np.int64)
        if index.size and not 0 <= index.min() <= index.max() < self.action_size:
            raise ValueError(f"action={index.min()}..{index.max()}: must be between 0 and 4; use a known action")
        return STEP * self._directions[index]


class _Walk:
    """Walk from one random place to the next, through the door where need be."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = self._rng.uniform(0.05, 0.6)
        self._draw_waypoint()

    def act(self, task: Task) -> NDArray:
        """Return the action (2,) towards the present waypoint, with noise."""
        position = task.state.astype(np.float64)
        offset = self._offset(position)
        # A step that would overshoot is shortened; the noise stays.
        action = offset / max(float(np.linalg.norm(offset)), STEP * self._speed) * self._speed
        action = action + self._noise * self._rng.standard_normal(2)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _draw_waypoint(self) -> None:
        self._waypoint = _draw_free_position(self._rng).astype(np.float64)
        self._speed = self._rng.uniform(0.3, 1.0)
        # Enough for the longest way at this speed, so that a corner never holds the walk for good.
        self._patience = int(1.5 / (STEP * self._speed))

    def _offset(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the displacement (2,) to the next point on the way, after drawing a new waypoint if need be."""
        self._patience -= 1
        if self._patience < 0 or np.linalg.norm(self._waypoint - position) < STEP:
            self._draw_waypoint()
        return _next_point(position, self._waypoint) - position


class _DiscreteWalk(_Walk):
    """Walk along the axes: the axis is drawn in proportion to what remains along it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._uniform = self._rng.uniform(0.05, 0.5)

    def act(self, task: Task) -> NDArray:
        """Return the number of the action towards the present waypoint, or now and then of any action."""
        offset = self._offset(task.state.astype(np.float64))
        if self._rng.random() < self._uniform:
            return np.array(self._rng.integers(5))
        along_y = self._rng.random() * np.abs(offset).sum() > np.abs(offset[0])
        return np.array(3 + (offset[1] > 0) if along_y else 1 + (offset[0] > 0))


def _from_post(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the offset (..., 2) of positions from the nearest point of the wall, which is the post on their side."""
    x, y = position[..., 0], position[..., 1]
    post_y = np.where(y < _CENTRE_Y, np.minimum(y, DOOR_Y[0]), np.maximum(y, DOOR_Y[1]))
    return np.stack([x - np.minimum(np.maximum(x, WALL_X[0]), WALL_X[1]), y - post_y], axis=-1)


def _fits(position: NDArray[np.float64]) -> bool:
    """Tell whether the disc fits at a position (2,), but for rounding."""
    clear = np.hypot(*_from_post(position)) >= RADIUS - _ROUNDING
    return bool(clear and (np.abs(position - 0.5) <= 0.5 - RADIUS + _ROUNDING).all())


def _close(state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
    """Tell whether positions (..., 2) are within half of the usual distance of goals (..., 2)."""
    return np.linalg.norm(np.asarray(state) - np.asarray(goal), axis=-1) < STRICT_DISTANCE


def _in_other_room(state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
    """Tell whether discs at (..., 2) and at goals (..., 2) are in different rooms, none of them in the door."""
    sides = []
    for x in (np.asarray(state)[..., 0], np.asarray(goal)[..., 0]):
        left, right = x <= WALL_X[0] - RADIUS + _ROUNDING, x >= WALL_X[1] + RADIUS - _ROUNDING
        sides.append(right.astype(np.int64) - left)
    return sides[0] * sides[1] == -1


def _legal(before: ArrayLike, after: ArrayLike) -> NDArray[np.bool_]:
    """Tell whether the disc can move from positions (..., 2) to the next ones (..., 2) by one action.

    It goes no further than an action moves it, and meets neither the wall nor the border on the straight line between.
    """
    start, end = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    share = np.linspace(0.0, 1.0, 2 * SUBSTEPS + 1)[:, None]
    way = start[..., None, :] + share * (end - start)[..., None, :]  # (..., points, 2)
    clear = (np.hypot(*np.moveaxis(_from_post(way), -1, 0)) >= RADIUS - _CUT - _ROUNDING).all(axis=-1)
    inside = (np.abs(way - 0.5) <= 0.5 - RADIUS + _ROUNDING).all(axis=(-2, -1))
    return clear & inside & (np.abs(end - start) <= _LONGEST).all(axis=-1)


def _push_out(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move disc centres (..., 2) that overlap a wall, but are not in it, to the nearest place where they only touch."""
    offset = _from_post(position)
    gap = np.hypot(offset[..., :1], offset[..., 1:])
    position = position + offset * (np.maximum(RADIUS, gap) / np.maximum(gap, 1e-9) - 1.0)
    return np.minimum(np.maximum(position, RADIUS), 1.0 - RADIUS)


def _slide(position: NDArray, move: NDArray) -> NDArray[np.float64]:
    """Move disc centres (M, 2) by (M, 2), sliding along walls.

    A substep is shorter than the radius, so that a centre never gets into the wall itself and is always pushed back to
    the side that it came from.
    """
    for _ in range(SUBSTEPS):
        position = _push_out(position + move / SUBSTEPS)
    return position


def _draw_free_position(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a disc centre (2,) uniformly over the places where the disc fits."""
    while True:
        position = rng.uniform(RADIUS, 1.0 - RADIUS, 2)
        if _fits(position):
            return position.astype(np.float32)


def _passes(start: NDArray, end: NDArray, wall_x: float) -> NDArray[np.bool_]:
    """Tell whether the straight way from start to end (..., 2), left to right, meets x = wall_x in the door, or not."""
    crosses = (start[..., 0] < wall_x) & (wall_x < end[..., 0])
    share = (wall_x - start[..., 0]) / np.where(crosses, end[..., 0] - start[..., 0], 1.0)
    height = start[..., 1] + share * (end[..., 1] - start[..., 1])
    return ~crosses | (np.abs(height - _CENTRE_Y) <= _HALF_GAP + 1e-9)


def _path_length(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shortest way between positions (..., 2), as the best of those that touch 0, 1 or 2 door corners."""
    start, end = np.broadcast_arrays(start, end)
    swap = (start[..., 0] > end[..., 0])[..., None]
    left, right = np.where(swap, end, start), np.where(swap, start, end)

    def length(*points: NDArray) -> NDArray[np.float64]:
        total = np.zeros(left.shape[:-1])
        for a, b in pairwise(points):
            total += np.linalg.norm(b - a, axis=-1)
        return total

    entry, leave = WALL_X
    enters = (left[..., 0] < entry) & (entry < right[..., 0])
    leaves = (left[..., 0] < leave) & (leave < right[..., 0])
    best = np.where(_passes(left, right, entry) & _passes(left, right, leave), length(left, right), np.inf)
    heights = (_CENTRE_Y - _HALF_GAP, _CENTRE_Y + _HALF_GAP)
    for first in (np.array([entry, y]) for y in heights):
        best = np.where(enters & _passes(first, right, leave), np.minimum(best, length(left, first, right)), best)
        for second in (np.array([leave, y]) for y in heights):
            best = np.where(leaves & _passes(left, second, entry), np.minimum(best, length(left, second, right)), best)
            best = np.where(enters & leaves, np.minimum(best, length(left, first, second, right)), best)
    return best


def _next_point(position: NDArray[np.float64], waypoint: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the point (2,) to walk straight to: the waypoint if it can be seen, else a mouth of the door."""
    forth = position[0] < waypoint[0]
    left, right = (position, waypoint) if forth else (waypoint, position)
    if all(_passes(left, right, x) for x in WALL_X):
        return waypoint
    near, far = _MOUTH_X if forth else _MOUTH_X[::-1]
    at_door = min(_MOUTH_X) - 0.01 < position[0] < max(_MOUTH_X) + 0.01 and abs(position[1] - _CENTRE_Y) < _HALF_GAP
    return np.array([far if at_door else near, _CENTRE_Y])


def _draw_rooms(image_size: int) -> NDArray[np.uint8]:
    """Draw the rooms without the disc (height, width, 3); a pixel mixes colours by the area that each covers."""
    edges = np.arange(image_size + 1) / image_size

    def cover(low: float, high: float) -> NDArray[np.float64]:
        return np.diff(np.clip(edges, low, high)) * image_size

    right = cover(0.5, 1.0)[None, :, None]
    wall = (1.0 - cover(*DOOR_Y))[:, None, None] * cover(*WALL_X)[None, :, None]
    floor = (1.0 - right) * np.array(_FLOOR_LEFT) + right * np.array(_FLOOR_RIGHT)
    return np.rint((1.0 - wall) * floor + wall * np.array(_WALL_COLOUR)).astype(np.uint8)
