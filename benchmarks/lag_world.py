"""Simulated recordings for the benchmark of the lag estimate: a disc, or an arm of two links, told what to do.

The robots answer at once, by a servo that goes a part of the way, or with inertia; some only after one or two rows,
as real ones do. They are led by wandering, to and fro, from pose to pose, or by a controller that looks at the robot,
as it is or was up to two rows before.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["position", "displacement", "velocity", "discrete"]
KINDS: tuple[Kind, ...] = ("position", "displacement", "velocity", "discrete")
SIZE, LENGTH, MARGIN, FPS = 16, 100, 8, 10.0
SHORT = 50  # rows of an episode where there are more than 20
BATCH = 500  # frames drawn at once
DIRECTIONS = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], dtype=float)
STEP = 0.1  # of a discrete action


@dataclass(frozen=True)
class Recording:
    """Episodes of one simulated robot.

    Args:
        frames: (E, T, SIZE, SIZE, 3) uint8.
        actions: (E, T, 2), or (E, T) for discrete ones.
        states: (E, T, S) with noise, in an order and units of their own.
        robot: what was drawn for it, in a few words.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32] | NDArray[np.int64]
    states: NDArray[np.float32]
    robot: str


def make_recording(kind: Kind, *, smooth: bool, episodes: int, late: int, seed: list[int]) -> Recording:
    """Simulate a recording.

    Args:
        kind: what an action commands.
        smooth: whether the actions change slowly, or much from row to row.
        episodes: how many, of 100 rows each, of 50 where there are more than 20.
        late: rows by which the actions are moved to later rows, negative for earlier; 0 for aligned ones.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    body = str(rng.choice(["disc", "arm"]))
    response = str(rng.choice(["at once", "servo", "inert"]))
    dead = int(rng.choice([0, 0, 1, 2])) if late == 0 else 0  # shifted and dead time would be a shift by their sum
    leads = ["wander", "to and fro", "poses", "feedback"] if smooth else ["noise", "noisy feedback"]
    lead = str(rng.choice(leads))
    length = LENGTH if episodes <= 20 else SHORT
    total = length + 2 * MARGIN
    places, actions = _simulate(rng, kind, response, dead, lead, episodes, total)
    kept = slice(MARGIN, MARGIN + length)
    told = actions[:, MARGIN - late : MARGIN - late + length]
    shown = places[:, kept].reshape(-1, 2).astype(np.float32)
    frames = np.concatenate([draw(body, shown[k : k + BATCH]) for k in range(0, len(shown), BATCH)])
    frames += rng.integers(0, 5, frames.shape, dtype=np.uint8)  # no pixel is brighter than 250
    frames = frames.reshape(episodes, length, SIZE, SIZE, 3)
    states = _states(rng, places)[:, kept]
    if kind != "discrete":
        scale = 1.0 if rng.random() < 0.7 else 10.0 ** rng.uniform(-1, 2)  # the same units as the states, or others
        told = (told * scale).astype(np.float32)
    return Recording(frames, told, states.astype(np.float32), f"{body}, {response}, dead {dead}, {lead}")


def _simulate(
    rng: np.random.Generator, kind: Kind, response: str, dead: int, lead: str, count: int, total: int
) -> tuple[NDArray[np.float64], NDArray]:
    """Return places (E, T, 2) and actions (E, T, 2) or (E, T)."""
    place = rng.uniform(-0.5, 0.5, (count, 2))
    speed, wish, target, goal = np.zeros((4, count, 2))
    target[:], goal[:] = place, place
    gain, size = rng.uniform(0.3, 0.8), rng.uniform(0.03, 0.1)  # of the servo, and of a usual move
    pull, memory = rng.uniform(0.1, 0.4), rng.uniform(0.85, 0.97) if "nois" not in lead else rng.uniform(0.0, 0.6)
    disturbed = size * rng.choice([0.0, 0.05, 0.2])
    phase, angle = rng.uniform(0, 2 * np.pi, (2, count))
    beat = rng.uniform(0.15, 0.5, (count, 1))
    choice = rng.integers(0, len(DIRECTIONS), count)
    begin, since, takes = place.copy(), np.zeros(count), rng.integers(15, 35, count)
    follows = rng.random() < 0.5  # a target is set from where the robot is, or from the last target
    sees = int(rng.choice([0, 0, 1, 2]))  # rows before, when the controller saw the robot
    places, actions = [], []
    for t in range(total):
        places.append(place)
        seen = places[max(t - sees, 0)]
        base = seen if follows or kind != "position" else target
        if lead == "wander" or lead == "noise":
            wish = memory * wish + (1 - memory**2) ** 0.5 * size * rng.normal(size=(count, 2))
            wish_now = wish - 0.1 * base * (1 if lead == "wander" else 0.5)
        elif lead == "to and fro":
            turn = rng.random(count) < 1 / 40
            angle = np.where(turn, rng.uniform(0, 2 * np.pi, count), angle)
            phase = phase + beat[:, 0] * rng.uniform(0.7, 1.3, count)
            way = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            wish_now = 1.5 * size * np.cos(phase)[:, None] * way - 0.05 * base
        elif lead == "poses":
            done = since >= takes
            begin = np.where(done[:, None], goal, begin)
            goal = np.where(done[:, None], rng.uniform(-0.8, 0.8, (count, 2)), goal)
            since = np.where(done, 0, since) + 1
            eased = ((1 - np.cos(np.pi * since / takes)) / 2)[:, None]
            wish_now = begin + eased * (goal - begin) - base
        else:
            goal = np.where(rng.random((count, 1)) < 1 / 25, rng.uniform(-0.8, 0.8, (count, 2)), goal)
            noise = size * (1.0 if lead == "noisy feedback" else 0.1) * rng.normal(size=(count, 2))
            wish_now = pull * (goal - seen) + noise
        if kind == "discrete":
            keep = rng.random(count) < (0.85 if "nois" not in lead else 0.2)
            drawn = np.argmax(wish_now @ DIRECTIONS.T / STEP + 0.3 * rng.gumbel(size=(count, 5)), axis=1)
            choice = np.where(keep, choice, drawn)
            actions.append(choice)
        elif kind == "position":
            target = np.clip(base + wish_now, -1, 1)
            actions.append(target)
        else:
            actions.append(wish_now * (FPS if kind == "velocity" else 1.0))
        given = actions[max(t - dead, 0)]
        if kind == "position":
            away = given - place
            if response == "at once":
                speed = away
            elif response == "servo":
                speed = gain * away
            else:
                speed = 0.45 * speed + 0.3 * gain * away
        else:
            asked = STEP * DIRECTIONS[given] if kind == "discrete" else given / (FPS if kind == "velocity" else 1.0)
            share = {"at once": 1.0, "servo": gain, "inert": 0.25}[response]
            speed = (1 - share) * speed + share * asked
        place = np.clip(place + speed + disturbed * rng.normal(size=(count, 2)), -1.2, 1.2)
    return np.stack(places, axis=1), np.stack(actions, axis=1)


def _states(rng: np.random.Generator, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return states (E, T, S) as a robot may report them: with noise, in any order, some with speeds."""
    moves = np.diff(places, axis=1, prepend=places[:, :1])
    columns = [places + rng.choice([0.0, 0.02]) * moves.std() * rng.normal(size=places.shape)]
    if rng.random() < 0.5:
        columns.append(moves * FPS)
    if rng.random() < 0.5:
        columns.append(np.cumsum(0.01 * rng.normal(size=(*places.shape[:2], 1)), axis=1))  # something else that moves
    found = np.concatenate(columns, axis=2)
    return found[:, :, rng.permutation(found.shape[2])]


def draw(body: str, places: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw frames (n, SIZE, SIZE, 3) of a disc at places (n, 2), or of an arm with these angles."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) + np.float32(0.5)
    floor = np.where((x + 2 * y) % 16 < 8, np.float32(170), np.float32(200))[..., None]
    image = np.broadcast_to(floor, (len(places), SIZE, SIZE, 3))
    if body == "disc":
        centre = (places / 1.2 * 0.38 + 0.5) * SIZE
        far = np.hypot(x - centre[:, 0, None, None], y - centre[:, 1, None, None])
        return _painted(image, np.clip(2.8 - far, 0, 1), (200, 40, 50)).astype(np.uint8)
    at = np.repeat(np.array([[SIZE / 2, SIZE * 0.85]], dtype=np.float32), len(places), axis=0)
    angle = np.full(len(places), -np.pi / 2, dtype=np.float32)
    for k, colour in enumerate(((30, 60, 200), (230, 120, 20))):
        angle = angle + places[:, k]
        to = at + 0.36 * SIZE * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        way = to - at
        along = (x - at[:, 0, None, None]) * way[:, 0, None, None] + (y - at[:, 1, None, None]) * way[:, 1, None, None]
        along = np.clip(along / (way**2).sum(axis=1)[:, None, None], 0, 1)
        far = np.hypot(
            x - at[:, 0, None, None] - along * way[:, 0, None, None],
            y - at[:, 1, None, None] - along * way[:, 1, None, None],
        )
        image = _painted(image, np.clip(1.8 - far, 0, 1), colour)
        at = to
    return image.astype(np.uint8)


def _painted(image: NDArray[np.float32], cover: NDArray[np.float32], colour: tuple[int, ...]) -> NDArray[np.float32]:
    tone, shade = np.array(colour, dtype=np.float32), cover[..., None]
    return (shade * tone + (1 - shade) * image).astype(np.float32)
