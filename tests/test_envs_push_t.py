"""Push-T against the package that it is built on, and against its success rule by hand."""

import numpy as np
import pygame
import pytest
from gym_pusht.envs.pusht import PushTEnv
from gym_pusht.envs.pymunk_override import DrawOptions

from lewm.envs import PushT
from lewm.envs.push_t_physics import follow


@pytest.fixture(scope="module")
def task() -> PushT:
    return PushT(64)


def state(**values: float) -> np.ndarray:
    """Return a state with the block in the middle and the disc above it, but for the named values."""
    rest = {"agent_x": 256.0, "agent_y": 100.0, "block_x": 256.0, "block_y": 250.0, "block_angle": 0.0}
    rest |= {"agent_vx": 0.0, "agent_vy": 0.0} | values
    return np.array([rest[name] for name in PushT.state_names])


def package_path(start: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Return the states (L, 7) by the package's own stepping, without a break between actions."""
    env = PushTEnv()
    env.reset(options={"reset_to_state": [60, 60, 300, 300, 0]})
    env.block.angle = start[4]
    env.agent.position, env.block.position = tuple(start[:2]), tuple(start[2:4])
    path = []
    for action in actions:
        env.step(np.array(env.agent.position) + 100.0 * action)
        path.append([*env.agent.position, *env.block.position, env.block.angle, *env.agent.velocity])
    return np.array(path)


def test_free_motion_is_the_package_s(task: PushT) -> None:
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (10, 2))
    start = state(agent_x=120.0, agent_y=120.0, block_x=350.0, block_y=350.0)
    np.testing.assert_allclose(task.simulate(start[None], actions[None])[0], package_path(start, actions), atol=1e-3)


def test_pushing_stays_close_to_the_package(task: PushT) -> None:
    start, actions = state(agent_x=280.0, agent_y=210.0), np.tile((0.0, 0.25), (12, 1))
    ours, theirs = task.simulate(start[None], actions[None])[0], package_path(start, actions)
    assert ours[-1, 3] > start[3] + 40.0  # the block was pushed down
    np.testing.assert_allclose(ours[:, :2], theirs[:, :2], atol=1e-3)
    # The package reports the block one physics step of 0.01 s earlier: about a tenth of its move.
    np.testing.assert_allclose(ours[:, 2:4], theirs[:, 2:4], atol=2.5)
    np.testing.assert_allclose(ours[:, 4], theirs[:, 4] % (2 * np.pi), atol=0.05)


def test_result_does_not_depend_on_what_was_simulated_before(task: PushT) -> None:
    starts = np.stack([state(agent_x=250.0 + 5 * i, agent_y=215.0, block_angle=0.3 * i) for i in range(4)])
    actions = np.random.default_rng(1).normal((0.0, 0.4), 0.2, (4, 10, 2))
    together = task.simulate(starts, actions)
    for i in range(4):
        np.testing.assert_array_equal(PushT(64).simulate(starts[i : i + 1], actions[i : i + 1])[0], together[i])


def pushed_starts(count: int, seed: int, *, walls: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return starts (count, 7) with the disc beside the block, and actions (count, 12, 2) that push through it."""
    rng = np.random.default_rng(seed)
    block = rng.uniform(60.0, 440.0, (count, 2)) if walls else rng.uniform(200.0, 300.0, (count, 2))
    angle = rng.uniform(0.0, 2.0 * np.pi, (count, 1))
    side = rng.uniform(0.0, 2.0 * np.pi, (count, 1))
    way = np.concatenate([np.cos(side), np.sin(side)], axis=1)
    middle = block + 45.0 * np.concatenate([-np.sin(angle), np.cos(angle)], axis=1)
    starts = np.concatenate([middle - 95.0 * way, block, angle, rng.normal(0.0, 30.0, (count, 2))], axis=1)
    speed = rng.uniform(0.2, 0.9 if walls else 0.3, (count, 1, 1))
    return starts.astype(np.float32), (way[:, None] * speed + rng.normal(0.0, 0.1, (count, 12, 2))).astype(np.float32)


@pytest.mark.parametrize("walls", [False, True])
def test_many_at_once_go_where_each_goes_alone(task: PushT, walls: bool) -> None:
    starts, actions = pushed_starts(100, seed=int(walls), walls=walls)
    together = task.simulate(starts, actions)
    alone = np.stack([task.simulate(starts[m : m + 1], actions[m : m + 1])[0] for m in range(len(starts))])
    moved = np.linalg.norm(alone[:, -1, 2:4] - starts[:, 2:4], axis=1) > 5.0
    assert moved.mean() > 0.6
    if walls:
        outside = (alone[..., :4] < 22.0) | (alone[..., :4] > 489.0)
        assert outside[..., 2:4].any(axis=(1, 2)).mean() > 0.1  # blocks reach the walls
    apart = np.abs(together.astype(np.float64) - alone).max(axis=(1, 2))
    assert (apart < 1e-3).mean() >= 0.99


def test_ordinary_pushing_needs_no_engine() -> None:
    def engine(state: np.ndarray, action: np.ndarray) -> np.ndarray:
        raise AssertionError((state, action))

    starts, actions = pushed_starts(50, seed=2, walls=False)
    path = follow(starts, actions, engine)
    assert np.linalg.norm(path[:, -1, 2:4] - starts[:, 2:4], axis=1).max() > 20.0


def test_rows_that_do_not_settle_are_left_to_the_engine() -> None:
    squeezed = state(agent_x=256.0, agent_y=390.0, block_x=256.0, block_y=430.0, block_angle=0.3)
    free = state(agent_x=60.0, agent_y=60.0)
    asked = []

    def engine(start: np.ndarray, action: np.ndarray) -> np.ndarray:
        asked.append(start)
        return start

    path = follow(np.stack([squeezed, free]).astype(np.float32), np.full((2, 1, 2), (0.0, 0.8), np.float32), engine)
    np.testing.assert_array_equal(asked, squeezed.astype(np.float32)[None])
    np.testing.assert_array_equal(path[0, 0], asked[0])


def test_disc_stays_in_the_arena(task: PushT) -> None:
    path = task.simulate(state(agent_x=60.0, agent_y=60.0)[None], np.full((1, 12, 2), -1.0))[0]
    np.testing.assert_allclose(path[-1, :2], 22.0, atol=0.5)


def test_straight_way_brings_the_disc_to_its_place_and_minds_no_block(task: PushT) -> None:
    free = state(agent_x=60.0, agent_y=60.0, block_x=350.0, block_y=400.0)
    blocked = state(agent_x=256.0, agent_y=150.0)
    states, goals = np.stack([free, blocked]).astype(np.float32), np.stack([free, blocked])
    goals[:, :2] = (150.0, 400.0), (256.0, 450.0)
    for _ in range(30):
        states = task.simulate(states, task.straight_action(states, goals)[:, None])[:, 0]
    np.testing.assert_array_equal(task.success(states, goals), [True, False])
    assert states[1, 3] > 300.0  # the block was pushed along


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({}, True),
        ({"agent_x": 274.0}, True),
        ({"agent_x": 277.0}, False),
        ({"block_y": 269.0}, True),
        ({"agent_x": 271.0, "block_y": 265.0}, False),  # each alone would do, together they are 21.2 away
        ({"block_angle": np.radians(19.0)}, True),
        ({"block_angle": np.radians(-19.0)}, True),
        ({"block_angle": np.radians(359.0)}, True),
        ({"block_angle": np.radians(21.0)}, False),
        ({"agent_vx": 300.0}, True),
    ],
)
def test_success_follows_the_published_rule(task: PushT, change: dict[str, float], reached: bool) -> None:
    assert task.success(state(**change), state()) == reached
    assert (task.distance(state(**change), state()) < 1.0) == reached


def test_distance_by_hand(task: PushT) -> None:
    assert task.distance(state(agent_x=286.0, block_x=296.0), state()) == pytest.approx(50.0 / 20.0)
    assert task.distance(state(block_angle=np.radians(350.0)), state(block_angle=np.radians(50.0))) == pytest.approx(3)


def test_frame_shows_disc_and_block_and_no_goal_zone() -> None:
    frame = PushT(128).render_states(state()[None])[0].astype(int)
    red, green, blue = frame[25, 64]  # the disc, at a quarter of (256, 100)
    assert blue > red + 80
    red, green, blue = frame[66, 64]  # the block's bar, below its origin
    assert 100 < red < green < blue < 210
    assert frame[40, 20].min() == 255
    assert not ((frame[..., 1] > frame[..., 0] + 20) & (frame[..., 1] > frame[..., 2] + 20)).any()


def package_frame(task_state: np.ndarray, image_size: int) -> np.ndarray:
    """Return the frame (height, width, 3) that the package draws, without its goal, averaged down."""
    env = PushTEnv()
    env.reset(options={"reset_to_state": [60, 60, 300, 300, 0]})
    env.block.angle = float(task_state[4])
    env.agent.position, env.block.position = tuple(task_state[:2].tolist()), tuple(task_state[2:4].tolist())
    for body in (env.agent, env.block):
        env.space.reindex_shapes_for_body(body)
    surface = pygame.Surface((512, 512))
    surface.fill((255, 255, 255))
    options = DrawOptions(surface)
    options.flags = DrawOptions.DRAW_SHAPES
    env.space.debug_draw(options)
    small = pygame.transform.smoothscale(surface, (image_size, image_size))
    return pygame.surfarray.array3d(small).swapaxes(0, 1)


@pytest.mark.parametrize("image_size", [32, 64, 96])
def test_frame_is_the_package_s_to_the_pixel(image_size: int) -> None:
    drawn = [
        state(),
        state(agent_x=280.0, agent_y=230.0, block_angle=0.7),  # the disc over the block
        state(agent_x=22.0, agent_y=489.0, block_x=20.4, block_y=60.7, block_angle=4.0),  # both at the walls
        state(block_x=560.0, block_y=500.0),  # the block partly pushed out of the arena
        state(block_x=700.0),  # and wholly
        *np.random.default_rng(3).uniform(0.0, (512, 512, 512, 512, 6.3, 1, 1), (20, 7)),
    ]
    frames = PushT(image_size).render_states(np.stack(drawn).astype(np.float32))
    for frame, one in zip(frames, drawn, strict=True):
        np.testing.assert_array_equal(frame, package_frame(one.astype(np.float32), image_size))


def test_frame_turns_with_the_block() -> None:
    upright, turned = PushT(64).render_states(np.stack([state(), state(block_angle=np.pi / 2)])).astype(int)
    # The stem points down, or to the left after a quarter turn.
    assert upright[42, 32].max() < 230
    assert upright[32, 22].min() == 255
    assert turned[42, 32].min() == 255
    assert turned[31, 22].max() < 230


def test_initial_states_vary_and_are_clear_of_walls() -> None:
    task = PushT(16)
    states = np.stack([task.reset(seed=seed)[1]["state"] for seed in range(60)])
    spread = states.std(axis=0)
    assert (spread[:4] > 90.0).all()
    assert len(np.unique(np.floor(states[:, 4] / (np.pi / 2)))) == 4
    np.testing.assert_array_equal(states[:, 5:], 0.0)
    # Nothing overlaps, so that nothing moves when nothing is done.
    np.testing.assert_allclose(task.simulate(states, np.zeros((60, 1, 2)))[:, 0], states, atol=1e-3)


def test_behaviour_pushes_the_block_and_keeps_it_inside(task: PushT) -> None:
    moved, contact = [], []
    for seed in range(4):
        task.reset(seed=seed)
        behaviour, states = task.behaviour(seed), [task.state]
        for _ in range(80):
            task.advance(behaviour.act(task))
            states.append(task.state)
        path = np.stack(states)
        steps = np.linalg.norm(np.diff(path[:, 2:4], axis=0), axis=1)
        moved.append(np.linalg.norm(path[:, 2:4] - path[0, 2:4], axis=1).max())
        contact.append((steps > 0.05).mean())
        middle = path[:, 2:4] + 45.0 * np.stack([-np.sin(path[:, 4]), np.cos(path[:, 4])], axis=1)
        assert middle.min() > 0.0
        assert middle.max() < 512.0
    assert min(moved) > 80.0
    assert 0.25 < np.mean(contact) < 0.55
