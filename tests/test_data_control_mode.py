"""The control mode: guessed right from states and frames, left open in doubt, and never replaced if given."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import lewm
from disc_world import Episode, draw, write
from lewm.data import Store
from lewm.data.check.control_mode import GIVEN, guess_control_mode, write_guess
from lewm.data.check.store_check import check_store
from lewm.data.store import set_control_mode

FPS, LENGTH = 10.0, 60


def wander(rng: np.random.Generator, size: int, memory: float = 0.9) -> np.ndarray:
    values = rng.normal(size=(LENGTH + 1, size))
    for t in range(1, len(values)):
        values[t] = memory * values[t - 1] + (1 - memory**2) ** 0.5 * values[t]
    return values


def robot(kind: str, seed: int, *, gain: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return actions (T, 2) and places (T, 2) of a robot that answers over some rows."""
    rng = np.random.default_rng(seed)
    wish, place, move = wander(rng, 2), np.full(2, 0.5), np.zeros(2)
    actions, places = np.zeros((LENGTH, 2)), np.zeros((LENGTH, 2))
    for t in range(LENGTH):
        places[t] = place
        if kind == "position":
            actions[t] = 0.5 + 0.2 * wish[t]
            move = gain * (actions[t] - place)
        else:
            asked = 0.03 * wish[t] - 0.1 * (place - 0.5)
            actions[t] = asked * (FPS if kind == "velocity" else 1.0)
            move = (1 - gain) * move + gain * asked
        place = place + move
    return actions, places


def make_store(path: Path, kind: str, *, change: str = "", count: int = 10, names: tuple[str, ...] = ()) -> Store:
    episodes, state_names = [], ("x", "y")
    for seed in range(count):
        actions, places = robot(kind, seed)
        states = places
        if change == "other order, speeds and a clock":
            speeds = np.diff(places, axis=0, prepend=places[:1]) * FPS
            states = np.column_stack([np.arange(LENGTH), speeds, places[:, ::-1]])
        elif change == "degrees":
            states = np.degrees(places)
        elif change == "angles that wrap":
            turn = 2 * np.pi
            states = (12 * places + np.pi) % turn - np.pi
            actions = (12 * actions + np.pi) % turn - np.pi
        elif change == "a gripper":
            closed = (np.arange(LENGTH) // 15 % 2).astype(float)
            actions, states = np.column_stack([actions, closed]), np.column_stack([places, np.roll(closed, 1)])
        elif change == "a constant":
            actions = np.column_stack([np.full(LENGTH, 0.3), actions])
        state_names = tuple(f"s{k}" for k in range(states.shape[1]))
        frames = draw(np.clip(places, 0.12, 0.88))
        episodes.append(Episode(frames, actions.astype(np.float32), states.astype(np.float32)))
    return write(path, episodes, state_names=state_names, fps=FPS, action_names=names)


def without_states(path: Path, store: Store) -> Store:
    meta = lewm.StoreMeta(
        task="disc",
        image_size=store.meta.image_size,
        action_kind="continuous",
        action_size=store.meta.action_size,
        action_names=store.meta.action_names,
        fps=FPS,
    )
    with lewm.StoreWriter(path, meta) as writer:
        for e in range(store.num_episodes):
            writer.append(store.frames[store.episode(e)], store.actions[store.episode(e)])
    return Store(path)


@pytest.mark.parametrize("kind", ["position", "displacement", "velocity"])
@pytest.mark.parametrize("change", ["", "other order, speeds and a clock", "a gripper", "a constant"])
def test_states_tell(tmp_path: Path, kind: str, change: str) -> None:
    mode, evidence = guess_control_mode(make_store(tmp_path, kind, change=change))
    assert mode == kind
    assert evidence.startswith("guessed: by the states, an action ")
    assert f"of {3 if change.startswith('a ') else 2} entries" in evidence


@pytest.mark.parametrize("change", ["degrees", "angles that wrap"])
def test_targets_in_other_units_or_on_a_circle(tmp_path: Path, change: str) -> None:
    assert guess_control_mode(make_store(tmp_path, "position", change=change))[0] == "position"


def test_displacement_or_velocity_in_units_of_its_own(tmp_path: Path) -> None:
    mode, evidence = guess_control_mode(make_store(tmp_path / "units", "velocity", change="degrees"))
    assert mode == "unknown"
    assert evidence.startswith("not guessed: by the states, an action moves 2 of 2 entries, wherever they are")
    assert evidence.endswith("which may be a displacement or a velocity")
    named = make_store(tmp_path / "named", "velocity", change="degrees", names=("vel_x", "vel_y"))
    assert guess_control_mode(named)[0] == "velocity"


def test_frames_tell_as_far_as_they_can(tmp_path: Path) -> None:
    for kind, mode in (("position", "position"), ("displacement", "unknown"), ("velocity", "unknown")):
        store = without_states(tmp_path / kind, make_store(tmp_path / f"{kind} states", kind, count=12))
        found, evidence = guess_control_mode(store)
        assert found == mode
        assert "by the frames, increments of the actions tell 0." in evidence
    named = make_store(tmp_path / "named states", "displacement", count=12, names=("delta_x", "delta_y"))
    mode, evidence = guess_control_mode(without_states(tmp_path / "named", named))
    assert mode == "displacement"
    assert evidence.endswith("and by the actions' names")


def test_what_is_in_doubt_stays_unknown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [
        Episode(draw(np.full((LENGTH, 2), 0.5)), rng.normal(size=(LENGTH, 2)), rng.normal(size=(LENGTH, 2)))
        for _ in range(8)
    ]
    mode, evidence = guess_control_mode(write(tmp_path / "noise", noise))
    assert mode == "unknown"
    assert evidence.startswith("not guessed: ")
    mixed = []
    for seed in range(8):
        (target, place), (step, moved) = robot("position", seed), robot("displacement", seed + 100)
        columns = [np.column_stack([a[:, 0], b[:, 0]]).astype(np.float32) for a, b in ((target, step), (place, moved))]
        mixed.append(Episode(draw(np.clip(place, 0.12, 0.88)), *columns))
    mode, evidence = guess_control_mode(write(tmp_path / "mixed", mixed))
    assert mode == "unknown"
    assert evidence.endswith("command different things")
    few = guess_control_mode(make_store(tmp_path / "few", "position", count=1))
    assert few == ("unknown", "not guessed: fewer than 400 rows in which frames and actions change")


def test_values_that_are_no_numbers_do_no_harm(tmp_path: Path) -> None:
    store = make_store(tmp_path, "position")
    actions, states = (np.lib.format.open_memmap(tmp_path / f"{n}.npy", mode="r+") for n in ("actions", "states"))
    actions[7], states[100] = np.nan, np.inf
    actions.flush()
    states.flush()
    assert guess_control_mode(Store(store.path))[0] in ("position", "unknown")


def test_a_guess_never_replaces_what_was_given(tmp_path: Path) -> None:
    store = make_store(tmp_path, "position")
    write_guess(store.path)
    assert Store(store.path).meta.control_mode == "position"
    for evidence in (GIVEN, "given by the task"):
        set_control_mode(store.path, "velocity", evidence)
        write_guess(store.path)
        meta = Store(store.path).meta
        assert (meta.control_mode, meta.control_evidence) == ("velocity", evidence)


def test_the_check_uses_and_shows_it(tmp_path: Path) -> None:
    store = make_store(tmp_path, "position", count=20)
    settings = {"frame_skip": 1, "clip_frames": 2, "held_out": 0.1, "split_seed": 0}
    result = check_store(store, **settings)
    assert result.control_mode == "position"
    assert result.as_json()["control_evidence"] == result.control_evidence
    assert result.lag is not None
    assert (result.lag.by, result.lag.lag) == ("states", 0)
    set_control_mode(store.path, "displacement", GIVEN)
    assert check_store(Store(store.path), **settings).control_mode == "displacement"


class Cart(gymnasium.Env):
    """A point that moves by its action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012
    render_mode = "rgb_array"
    action_space = gymnasium.spaces.Box(-0.05, 0.05, (2,), np.float32)
    observation_space = gymnasium.spaces.Box(-1, 2, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0.4, 0.6, 2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = self.place + action
        return self.place.astype(np.float32), 0.0, False, False, {}

    def render(self) -> np.ndarray:
        return draw(self.place[None])[0]


def test_recorded_episodes_get_a_guess_or_what_is_given(tmp_path: Path) -> None:
    store = lewm.record(Cart(), tmp_path / "guessed", episodes=5, episode_length=40)
    assert store.meta.control_mode == "displacement"
    assert store.meta.control_evidence.startswith("guessed: by the states")
    store = lewm.record(Cart(), tmp_path / "given", episodes=5, episode_length=40, control_mode="velocity")
    assert (store.meta.control_mode, store.meta.control_evidence) == ("velocity", GIVEN)
    with lewm.Recorder(Cart(), tmp_path / "loop") as env:
        for seed in range(5):
            env.reset(seed=seed)
            for _ in range(40):
                env.step(env.action_space.sample())
    assert Store(tmp_path / "loop").meta.control_mode == "displacement"
