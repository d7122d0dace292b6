"""The physics of Push-T for many states at once: the equations of the package's engine, in NumPy.

The package steps one state at a time through the engine Chipmunk. Here its equations are worked out for what Push-T
has: a disc that nothing stops, a block of two rectangles, and four walls, without friction and without bounce. Each of
the ten physics steps of an action finds the contacts and runs ten rounds of the engine's sequential impulses. These
start from the impulses of the step before. Blocks that nothing can touch take no part.

Where the disc presses the block against a wall, ten rounds settle nothing, and the result depends on the order in
which the engine's search tree lists the contacts. These rows are told, so that the engine itself can step them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Step = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""The state (7,) after a state (7,) and an action (2,)."""

SUBSTEPS, TIME_STEP, _ROUNDS = 10, 0.01, 10
# The disc's controller, as in the package, and its target, as the task sets it.
STIFFNESS, DAMPING = 100.0, 20.0
REACH, AGENT_INSIDE = 100.0, (22.0, 489.0)
_DISC_RADIUS = 15.0
# The block has mass 1. Its middle is 45 below the middle of its bar's edge. The package takes the bar's moment twice.
_CENTRE, _INVERSE_MOMENT = 45.0, 1.0 / 3000.0
# (4, 2): least and largest x and y of bar and stem, seen from the block's middle.
_PARTS = np.array([[-60.0, 60.0, -45.0, -15.0], [-15.0, 15.0, -15.0, 75.0]]).T
_CORNERS = _PARTS[[[0, 1, 1, 0], [2, 2, 3, 3]]]  # (2, 4, 2): x and y of the corners of bar and stem
_OUTWARD = np.array([[0.0, 1.0, 0.0, -1.0], [-1.0, 0.0, 1.0, 0.0]])  # (2, 4): of the sides that start at the corners
_BLOCK_RADIUS = float(np.hypot(15.0, 75.0))
# The middle lines of the left, top, right and bottom wall, from where to where.
WALLS = ((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506))
WALL_RADIUS = 2.0
_WALLS = np.array(WALLS, dtype=np.float64).transpose(1, 2, 0)  # (2, 2, 4): both ends, each x and y
# What the engine lets bodies overlap, and the share of the rest that it takes back in a physics step.
_SLOP = float(np.float32(0.1))
_FREE = 5.0 + WALL_RADIUS - _SLOP, 506.0 - WALL_RADIUS + _SLOP  # a corner in between is in no wall, but for this
_TAKE_BACK = 1.0 - float(np.float32(0.9)) ** (60.0 * TIME_STEP)
_MEMORY = 3  # physics steps after which a contact that has ended is forgotten
_UNSETTLED = 1e-6  # what the last round may move the block; below this, the order of contacts does not matter
_SETTLED = 1e-10  # a change of impulse after which further rounds change nothing that counts
# Pairs of shapes that can touch, in the order in which impulses run: both parts with each wall, then with the disc.
_WALL_PAIRS = 8
_PAIRS = _WALL_PAIRS + 2


def follow(states: NDArray[np.float32], actions: NDArray[np.float32], engine: Step) -> NDArray[np.float32]:
    """Follow the dynamics of many rows at once.

    Args:
        states: States (M, 7) to start from.
        actions: Actions (M, L, 2), clipped to [-1, 1].
        engine: What steps a row whose contacts do not settle.

    Returns:
        The states (M, L, 7) after each action.
    """
    path = np.empty((*actions.shape[:2], 7), dtype=np.float32)
    present = states
    for t in range(actions.shape[1]):
        after, unsettled = step(present, actions[:, t])
        for m in np.flatnonzero(unsettled):
            after[m] = engine(present[m], actions[m, t])
        path[:, t] = present = after
    return path


def step(states: NDArray[np.float32], actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the states (M, 7) after one action (M, 2) each, and in which rows (M,) the contacts did not settle."""
    places, speeds = disc_way(states, actions)
    pose = states[:, 2:5].astype(np.float64)
    block = _shift(pose, _CENTRE)
    unsettled = np.zeros(len(states), dtype=bool)
    rows = np.flatnonzero(_may_move(block, places))
    if len(rows):
        block[rows], unsettled[rows] = _push(block[rows], places[:, rows], speeds[:, rows])
        pose = _shift(block, -_CENTRE)
    pose[:, 2] %= 2.0 * np.pi
    return np.concatenate([places[-1], pose, speeds[-1]], axis=1, dtype=np.float32), unsettled


def disc_way(states: NDArray[np.float32], actions: NDArray[np.float32]) -> tuple[Array, Array]:
    """Return the disc's places and velocities (10, M, 2) in the physics steps; the block does not stop it."""
    target = np.clip(states[:, :2] + REACH * np.clip(actions, -1.0, 1.0), *AGENT_INSIDE).astype(np.float64)
    places, speeds = np.empty((2, SUBSTEPS, len(states), 2))
    place, speed = states[:, :2].astype(np.float64), states[:, 5:].astype(np.float64)
    for k in range(SUBSTEPS):
        speed = speed + (STIFFNESS * (target - place) - DAMPING * speed) * TIME_STEP
        place = place + speed * TIME_STEP
        places[k], speeds[k] = place, speed
    return places, speeds


def _shift(pose: Array, distance: float) -> Array:
    """Return poses (M, 3) that stand a distance further along the stem."""
    angle = pose[:, 2]
    return np.stack([pose[:, 0] - distance * np.sin(angle), pose[:, 1] + distance * np.cos(angle), angle], axis=1)


def _may_move(block: Array, places: Array) -> NDArray[np.bool_]:
    """Tell in which rows the block, which rests when an action starts, is touched by the disc or is in a wall."""
    moves = np.zeros(len(block), dtype=bool)
    near = np.square(places - block[:, :2]).sum(axis=-1).min(axis=0) <= (_BLOCK_RADIUS + _DISC_RADIUS) ** 2
    near = np.flatnonzero(near)
    x, y, angle = block[near].T
    px, py = _seen(x, y, np.cos(angle), np.sin(angle), places[:, near].transpose(2, 0, 1))
    for left, right, top, bottom in _PARTS.T:
        squared = np.square(np.clip(px, left, right) - px) + np.square(np.clip(py, top, bottom) - py)
        moves[near] |= squared.min(axis=0) <= _DISC_RADIUS**2 + 1e-6
    cos, sin = np.cos(block[:, 2]), np.sin(block[:, 2])
    for part in range(2):
        across, down = _CORNERS[:, :, part, None]  # (4, 1)
        for corner in (block[:, 0] + cos * across - sin * down, block[:, 1] + sin * across + cos * down):
            moves |= (corner.min(axis=0) < _FREE[0]) | (corner.max(axis=0) > _FREE[1])
    return moves


def _seen(x: Array, y: Array, cos: Array, sin: Array, place: Array) -> tuple[Array, Array]:
    """Return places (2, ..., R) as blocks see them that have their middle at x and y."""
    across, down = place[0] - x, place[1] - y
    return cos * across + sin * down, cos * down - sin * across


@dataclass(slots=True)
class _Contacts:
    """Contacts of N rows, each with a pair of shapes; directions and places are seen from the block, which may turn.

    Args:
        row: (N,) the row.
        slot: (N,) number of the pair, and which of its two contacts: 2 * pair + 0 or 1.
        mark: (N,) which corners meet; an impulse is taken over from a contact of the same corners.
        normal: (2, N) from disc or wall to the block.
        turn: (N,) how far an impulse along the normal turns the block, as a cross product.
        gap: (N,) distance; negative where they overlap.
        speed: (N,) of the disc along the normal.
    """

    row: NDArray[np.int64]
    slot: NDArray[np.int64]
    mark: NDArray[np.int64]
    normal: Array
    turn: Array
    gap: Array
    speed: Array


def _push(block: Array, places: Array, speeds: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the blocks (R, 3) after the ten physics steps, and which of them (R,) did not settle.

    Args:
        block: (R, 3) places of the blocks' middles, and their angles.
        places: (10, R, 2) of the disc.
        speeds: (10, R, 2) of the disc.
    """
    memory = _Memory(len(block))
    motion = np.zeros_like(block)  # what the next physics step adds: the arena damps all speed within one
    for k in range(SUBSTEPS):
        block = block + motion * TIME_STEP
        x, y, angle = block.T
        cos, sin = np.cos(angle), np.sin(angle)
        found = _disc_contacts(x, y, cos, sin, places[k].T, speeds[k].T) + _wall_contacts(x, y, cos, sin)
        if found:
            along, across, turn = memory.solve(_join(found), k)
            motion = np.stack([cos * along - sin * across, sin * along + cos * across, turn], axis=1)
        else:
            motion = np.zeros_like(block)
    return block + motion * TIME_STEP, memory.unsettled


def _join(found: list[_Contacts]) -> _Contacts:
    return _Contacts(
        *(np.concatenate([getattr(part, field.name) for part in found], -1) for field in fields(_Contacts))
    )


def _disc_contacts(x: Array, y: Array, cos: Array, sin: Array, place: Array, speed: Array) -> list[_Contacts]:
    """Find where discs at places (2, R) with speeds (2, R) touch the rectangles."""
    px, py = _seen(x, y, cos, sin, place)
    found = []
    for part, (left, right, top, bottom) in enumerate(_PARTS.T):
        gap_x, gap_y = np.clip(px, left, right) - px, np.clip(py, top, bottom) - py
        squared = gap_x * gap_x + gap_y * gap_y
        rows = np.flatnonzero(squared <= _DISC_RADIUS**2)
        if not len(rows):
            continue
        nx, ny, distance = gap_x[rows], gap_y[rows], np.sqrt(squared[rows])
        at_x, at_y = px[rows] + nx, py[rows] + ny
        inside = distance == 0.0
        safe = np.where(inside, 1.0, distance)
        nx, ny = nx / safe, ny / safe
        if inside.any():  # the middle of the disc is in the rectangle: the way out is to the nearest side
            cx, cy = at_x[inside], at_y[inside]
            depths = np.stack([cy - top, right - cx, bottom - cy, cx - left])
            side = depths.argmin(axis=0)
            nx[inside], ny[inside] = np.array([[0.0, -1.0, 0.0, 1.0], [1.0, 0.0, -1.0, 0.0]])[:, side]
            distance[inside] = -depths[side, np.arange(len(side))]
            at_x[inside] += nx[inside] * distance[inside]
            at_y[inside] += ny[inside] * distance[inside]
        c, s, (vx, vy) = cos[rows], sin[rows], speed[:, rows]
        found.append(
            _Contacts(
                row=rows,
                slot=np.full(len(rows), 2 * (_WALL_PAIRS + part)),
                mark=np.zeros(len(rows), dtype=np.int64),
                normal=np.stack([nx, ny]),
                turn=at_x * ny - at_y * nx,
                gap=distance - _DISC_RADIUS,
                speed=nx * (c * vx + s * vy) + ny * (c * vy - s * vx),
            )
        )
    return found


def _wall_contacts(x: Array, y: Array, cos: Array, sin: Array) -> list[_Contacts]:
    """Find where the rectangles touch the walls, each in up to two places."""
    left, right, top, bottom = _PARTS[..., None]  # (2, 1) each
    half_x, half_y, middle = (right - left) / 2.0, (bottom - top) / 2.0, (top + bottom) / 2.0
    wide, high = np.abs(cos) * half_x + np.abs(sin) * half_y, np.abs(sin) * half_x + np.abs(cos) * half_y
    middle_x, middle_y = x - sin * middle, y + cos * middle
    extent = np.stack([middle_x - wide, middle_x + wide, middle_y - high, middle_y + high])[:, :, None]  # (4, 2, 1, R)
    (low_x, low_y), (high_x, high_y) = _WALLS.min(0)[..., None] - WALL_RADIUS, _WALLS.max(0)[..., None] + WALL_RADIUS
    meet = (extent[0] <= high_x) & (extent[1] >= low_x) & (extent[2] <= high_y) & (extent[3] >= low_y)
    part, wall, rows = meet.nonzero()
    if not len(rows):
        return []
    c, s = cos[rows], sin[rows]
    across, down = _WALLS[:, 0, wall] - x[rows], _WALLS[:, 1, wall] - y[rows]  # the walls' ends, as the blocks see them
    ends = np.stack([c * across + s * down, c * down - s * across], axis=1)
    return _clip(rows, 2 * (4 * part + wall), _CORNERS[:, :, part], ends)


def _clip(rows: NDArray[np.int64], slot: NDArray[np.int64], corners: Array, ends: Array) -> list[_Contacts]:
    """Find the contacts of rectangles with corners (2, 4, N) with walls of ends (2, 2, N), of some rows (N,)."""
    normal, gap = _closest(corners, ends)
    near = np.flatnonzero(gap <= WALL_RADIUS)
    if not len(near):
        return []
    rows, slot, corners, ends, normal = rows[near], slot[near], corners[..., near], ends[..., near], normal[:, near]
    every = np.arange(len(near))
    # The wall's side that faces the block, and the rectangle's side that faces the wall.
    along = ends[1] - ends[0]
    flipped = np.where(_cross(normal, along) > 0.0, 0, 1)
    wall_a, wall_b = ends[flipped, :, every].T, ends[1 - flipped, :, every].T
    first = (corners * -normal[:, None]).sum(axis=0).argmax(axis=0)
    second = (first + 1) % 4
    to_first = (_OUTWARD[:, first - 1] * normal).sum(axis=0) < (_OUTWARD[:, first] * normal).sum(axis=0)
    a, b = np.where(to_first, (first - 1) % 4, first), np.where(to_first, first, second)
    block_a, block_b = corners[:, a, every], corners[:, b, every]
    wall_at_a, wall_at_b = _cross(wall_a, normal), _cross(wall_b, normal)
    block_at_a, block_at_b = _cross(block_a, normal), _cross(block_b, normal)
    tiny = np.finfo(np.float64).tiny
    per_wall, per_block = 1.0 / (wall_at_b - wall_at_a + tiny), 1.0 / (block_at_b - block_at_a + tiny)
    # Either end of one side, put onto the other side, is a contact if the two overlap there.
    found = []
    for which, (wall_share, block_share, mark) in enumerate(
        (
            ((block_at_b - wall_at_a) * per_wall, (wall_at_a - block_at_a) * per_block, 4 * flipped + b),
            ((block_at_a - wall_at_a) * per_wall, (wall_at_b - block_at_a) * per_block, 4 * (1 - flipped) + a),
        )
    ):
        on_wall = wall_a + (wall_b - wall_a) * np.clip(wall_share, 0.0, 1.0) + WALL_RADIUS * normal
        on_block = block_a + (block_b - block_a) * np.clip(block_share, 0.0, 1.0)
        apart = ((on_block - on_wall) * normal).sum(axis=0)
        hit = np.flatnonzero(apart <= 0.0)
        turn, still = _cross(on_block, normal)[hit], np.zeros(len(hit))
        found.append(_Contacts(rows[hit], slot[hit] + which, mark[hit], normal[:, hit], turn, apart[hit], still))
    return found


def _closest(corners: Array, ends: Array) -> tuple[Array, Array]:
    """Return the directions (2, N) from walls with ends (2, 2, N) to rectangles (2, 4, N), and the distances (N,).

    It is where the outline of all differences between a point of the rectangle and one of the wall is closest to 0:
    four sides that are the rectangle's and two that are the wall's.
    """
    along = ends[1] - ends[0]
    every = np.arange(along.shape[1])
    side = np.stack([along[1], -along[0]]) / np.sqrt((along * along).sum(axis=0))
    outward = np.empty((2, 6, len(every)))
    outward[:, :4], outward[:, 4], outward[:, 5] = _OUTWARD[..., None], side, -side
    # How far each side's line is from 0, along its outward normal: where all are positive, the two overlap.
    low, high = ends.min(axis=0), ends.max(axis=0)
    heights = np.empty((6, len(every)))
    heights[0], heights[1] = high[1] - corners[1, 0], corners[0, 1] - low[0]
    heights[2], heights[3] = corners[1, 2] - low[1], high[0] - corners[0, 0]
    reach, start = (corners * side[:, None]).sum(axis=0), (ends[0] * side).sum(axis=0)
    heights[4], heights[5] = reach.max(axis=0) - start, start - reach.min(axis=0)
    best = heights.argmin(axis=0)
    gap = -heights[best, every]
    normal = -outward[:, best, every]
    # Of those further apart, this bound is enough. Of the others it is the distance where that side holds the closest
    # point; where a corner does, all sides have to be asked.
    apart = np.flatnonzero((gap > 0.0) & (gap <= WALL_RADIUS))
    if len(apart):
        best, every, corners, ends = best[apart], every[: len(apart)], corners[..., apart], ends[..., apart]
        whole, backward = along[:, apart], best == 5
        furthest = corners[:, np.where(backward, reach[:, apart].argmin(axis=0), reach[:, apart].argmax(axis=0)), every]
        outer = _OUTWARD[:, best % 4]
        nearer = np.where((outer * whole).sum(axis=0) < 0.0, ends[1], ends[0])
        own = best < 4
        first = corners[:, best % 4, every]
        point = np.where(own, first - nearer, furthest - ends[0])
        edge = np.where(own, corners[:, (best + 1) % 4, every] - first, -whole)
        share = -(point * edge).sum(axis=0) / (edge * edge).sum(axis=0)
        tips = np.flatnonzero((share <= 0.0) | (share >= 1.0))
        if len(tips):
            chosen = apart[tips]
            normal[:, chosen], gap[chosen] = _between(corners[..., tips], ends[..., tips], outward[..., chosen])
    return normal, gap


def _between(corners: Array, ends: Array, outward: Array) -> tuple[Array, Array]:
    """Return what `_closest` does where the two do not overlap; the outline's sides have normals (2, 6, N)."""
    every = np.arange(corners.shape[2])
    starts, stops = np.empty((2, 2, 6, len(every)))
    along = ends[1] - ends[0]
    nearer = np.where((outward[:, :4] * along[:, None]).sum(axis=0) < 0.0, ends[1][:, None], ends[0][:, None])
    starts[:, :4], stops[:, :4] = corners - nearer, np.roll(corners, -1, axis=1) - nearer
    far = (corners[:, :, None] * outward[:, None, 4:]).sum(axis=0).argmax(axis=0)  # (2, N)
    furthest = corners[:, far, every]
    starts[:, 4:], stops[:, 4:] = furthest - ends[0][:, None], furthest - ends[1][:, None]
    edge = stops - starts
    share = np.clip(-(starts * edge).sum(axis=0) / (edge * edge).sum(axis=0), 0.0, 1.0)
    points = starts + share * edge
    best = (points * points).sum(axis=0).argmin(axis=0)
    point, facing, at = points[:, best, every], outward[:, best, every], share[best, every]
    distance = np.sqrt((point * point).sum(axis=0))
    flat = (at > 0.0) & (at < 1.0)
    height = (facing * starts[:, best, every]).sum(axis=0)
    return np.where(flat, -facing, point / np.where(flat, 1.0, distance)), np.where(flat, -height, distance)


def _cross(a: Array, b: Array) -> Array:
    return a[0] * b[1] - a[1] * b[0]


class _Memory:
    """What R rows keep from one physics step to the next: the impulses of their contacts."""

    def __init__(self, count: int) -> None:
        self.unsettled = np.zeros(count, dtype=bool)
        """(R,) rows whose contacts with disc and wall did not settle; they are left alone from then on."""
        self._impulse = np.zeros((count, 2 * _PAIRS))
        self._mark = np.full((count, 2 * _PAIRS), -1)
        self._last = np.full((count, _PAIRS), -SUBSTEPS)  # the physics step in which each pair has last touched

    def solve(self, contacts: _Contacts, k: int) -> Array:
        """Return the motion (3, R) that contacts give the blocks in physics step k: along their axes, and turning."""
        order = np.lexsort((contacts.slot, contacts.row))
        order = order[~self.unsettled[contacts.row[order]]]
        row, slot, mark, pair = (
            contacts.row[order],
            contacts.slot[order],
            contacts.mark[order],
            contacts.slot[order] // 2,
        )
        # Impulses go on from those of the step before. After a gap they are still counted, but they move nothing.
        age = k - self._last[row, pair]
        before = np.zeros(len(row))
        for old in (2 * pair, 2 * pair + 1):
            same = (self._mark[row, old] == mark) & (age <= _MEMORY)
            before[same] = self._impulse[row[same], old[same]]
        applied = np.where(age == 1, before, 0.0)
        root = np.sqrt(_INVERSE_MOMENT)
        lever = np.concatenate([contacts.normal[:, order], root * contacts.turn[None, order]])
        aim = np.stack([contacts.speed[order], -_TAKE_BACK / TIME_STEP * np.minimum(contacts.gap[order] + _SLOP, 0.0)])

        motion, impulse = np.zeros((3, len(self.unsettled))), np.empty(len(row))
        first = np.flatnonzero(np.diff(row, prepend=-1))
        sizes = np.diff(first, append=len(row))
        for size in np.unique(sizes):
            chosen = first[sizes == size] + np.arange(size)[:, None]  # (size, rows)
            rows = row[chosen[0]]
            motion[:, rows], impulse[chosen], last = _rounds(
                lever[:, chosen], aim[:, chosen], before[chosen], applied[chosen]
            )
            self.unsettled[rows] = last * TIME_STEP > _UNSETTLED
        motion[2] *= root
        self._mark[row, 2 * pair] = self._mark[row, 2 * pair + 1] = -1
        self._impulse[row, slot], self._mark[row, slot], self._last[row, pair] = impulse, mark, k
        return motion


def _rounds(lever: Array, aim: Array, before: Array, applied: Array) -> tuple[Array, Array, Array]:
    """Run sequential impulses on N contacts a row, one after another, in up to ten rounds.

    Args:
        lever: (3, N, R) what a unit of impulse moves.
        aim: (2, N, R) the speeds along the normal that impulses must reach at least: the disc's, and that of taking
            back an overlap. The engine solves for the two side by side.
        before: (N, R) impulses to start from.
        applied: (N, R) those of them that have moved the block.

    Returns:
        The motion (3, R), the impulses (N, R) at the end, and the largest change of one in the last round (R,).
    """
    count = len(before)
    weight = (lever * lever).sum(axis=0)
    aim = (aim / weight).swapaxes(0, 1)  # (N, 2, R)
    moved = np.stack([applied, np.zeros_like(applied)], axis=1)
    least = np.stack([applied - before, np.zeros_like(applied)], axis=1)  # what keeps the impulses from pulling
    # How much of each contact's speed the impulses of the others take; what one takes of its own is put in anew.
    share = (lever[:, :, None] * lever[:, None]).sum(axis=0) / weight[:, None]  # (N, N, R)
    share[range(count), range(count)] = 0.0
    result, last, rows = np.empty_like(moved), np.zeros(len(weight.T)), np.arange(len(weight.T))
    for left in reversed(range(_ROUNDS if count > 1 else 1)):  # one contact alone is settled at once
        previous = moved.copy()
        for j in range(count):
            moved[j] = np.maximum(aim[j] - (share[j, :, None] * moved).sum(axis=0), least[j])
        change = np.abs(moved - previous).max(axis=(0, 1))
        going = np.flatnonzero(change > _SETTLED) if left else rows[:0]
        if len(going) > 0.8 * len(rows):
            continue
        result[..., rows], last[rows] = moved, change
        if not len(going):
            break
        rows, aim, moved = rows[going], aim[..., going], moved[..., going]
        least, share = least[..., going], share[..., going]
    motion = (lever * result.sum(axis=1)).sum(axis=1)
    return motion, before + result[:, 0] - applied, last if count > 1 else np.zeros_like(last)
