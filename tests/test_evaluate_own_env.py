"""A run in an environment of one's own: what it is given, what it does there, and what is said of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from lewm.config import ActionConfig, Config, DataConfig, EvalConfig, PlanConfig, TrainConfig
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.evaluate import EnvGoal, evaluate_env, own_env
from lewm.evaluate.evaluation import Evaluation
from lewm.families.compact.settings import CompactSettings
from lewm.train.describe import spec_of

SIZE, SPEED, SKIP = 16, 0.05, 2
HELD_OUT = np.array([1, 3])


class Model:
    """Know the line: one token, which holds the place."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def encode(self, frames: Tensor, /) -> Tensor:
        self.seen.append((frames[:, 0, 0, 0] / 255.0).tolist())
        return frames[:, 0, 0, :1].float()[:, None] / 255.0  # (B, 1, 1)

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        moves = actions.float() - 1.0 if not actions.is_floating_point() else actions
        ways = states[:, -1, 0] + SPEED * moves.sum(-1).cumsum(1)
        return ways.clamp(0.0, 1.0)[..., None, None]


def steps_to_go(tokens: Tensor, goal: Tensor) -> Tensor:
    """Stand in for a learnt cost: the steps that the way takes."""
    return (tokens - goal).abs().mean((-2, -1)) / SPEED


class Line(gymnasium.Env):
    """A place on a line, which is how bright the picture is; an action moves it."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self, *, space: Any = None, width: int = SIZE, ends_at: int | None = None, place: float | None = None
    ) -> None:
        self.action_space = space or Box(-1.0, 1.0, (1, 1), np.float32)
        self.observation_space = Box(0.0, 1.0, (1,), np.float32)
        self.render_mode = "rgb_array"
        self._frame = np.zeros((SIZE, width, 3), np.uint8)
        self.ends_at, self.given = ends_at, place
        self.actions: list[Any] = []
        self.starts: list[float] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.t = self.np_random.uniform(0.0, 1.0) if self.given is None else self.given, 0
        self.starts.append(self.place)
        return np.array([self.place]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.actions.append(action)
        moves = float(action) - 1.0 if isinstance(self.action_space, Discrete) else float(np.sum(action))
        self.place, self.t = float(np.clip(self.place + SPEED * moves, 0.0, 1.0)), self.t + 1
        return np.array([self.place]), 0.0, False, self.t == self.ends_at, {"is_success": self.place > 0.9}

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._frame[:] = round(255 * self.place)
        return self._frame

    def close(self) -> None:
        self.closed = True


class Fleet:
    """Make lines, and keep them."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.made = settings, list[Line]()

    def __call__(self) -> Line:
        self.made.append(Line(**self.settings))
        return self.made[-1]


def near(env: Line, goal: EnvGoal) -> bool:
    assert goal.state is not None
    return abs(env.place - goal.state[0]) < 0.02


def line(path: Path, *, discrete: bool = False, action_size: int = 1, origin: dict[str, Any] | None = None) -> Store:
    """Write four episodes of 12 frames along the line."""
    meta = StoreMeta(
        task="line",
        image_size=SIZE,
        action_kind="discrete" if discrete else "continuous",
        action_size=3 if discrete else action_size,
        state_names=("place",),
        origin=origin or {"fit": "crop"},
    )
    rng = np.random.default_rng(0)
    with StoreWriter(path, meta) as writer:
        for _ in range(4):
            place = rng.uniform(0, 1, 12).astype(np.float32)
            frames = np.repeat(np.rint(255 * place).astype(np.uint8), SIZE * SIZE * 3).reshape(12, SIZE, SIZE, 3)
            drawn = np.repeat(np.where(np.arange(12)[:, None] % 2, 1.0, -1.0), action_size, axis=1)
            actions = np.arange(12) % 3 if discrete else drawn
            writer.append(frames, actions, place[:, None])
    return Store(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return line(tmp_path / "store")


@pytest.fixture
def opened(store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let `evaluate_env` open what is in here in place of a run; see `of`."""
    place: dict[str, Any] = {"of": of(store)}
    monkeypatch.setattr(own_env, "open_run", lambda run, **_: place["of"])
    return place


def of(store: Store, *, skip: int = SKIP, history: int = 1, **plan: Any) -> Evaluation:
    """Return the model that knows the line as a run of a store."""
    config = Config(
        seed=3,
        action=ActionConfig(kind=store.meta.action_kind, size=store.meta.action_size),
        data=DataConfig(frame_skip=skip),
        model=CompactSettings(image_size=SIZE, history=history),
        train=TrainConfig(cost_steps=1),
        plan=PlanConfig(**{"horizon": 4, "candidates": 64, "iterations": 4, "over": "sum", **plan}),  # type: ignore[arg-type]
        eval=EvalConfig(budget=24),
    )
    model: Any = Model()
    learnt: Any = steps_to_go
    spec = spec_of(store, config)
    return Evaluation(Path("run"), config, model, learnt, store, np.array([0, 2]), HELD_OUT, None, spec)


def seen(opened: dict[str, Any]) -> list[list[float]]:
    """Return the places in the frames that the model has encoded, call by call."""
    model: Any = opened["of"].model
    return model.seen


def run(make_env: Any, success: Any = near, **settings: Any) -> dict[str, Any]:
    return evaluate_env("run", make_env, success=success, progress=False, **settings)


def test_controller_beside_a_random_policy(opened: dict[str, Any]) -> None:
    fleet = Fleet()
    results = run(fleet, episodes=30)
    assert json.loads(json.dumps(results)) == results
    assert (results["episodes"], results["budget"], results["seed"]) == (30, 24, 3)
    assert results["success_rate"] == results["successes"] / 30 > 0.9
    assert results["random_success_rate"] < 0.7
    assert results["better"] is True
    assert results["verdict"].startswith("The controller plans: it reaches ")
    assert results["difference"] == pytest.approx(results["success_rate"] - results["random_success_rate"])
    low, high = results["difference_ci95"]
    assert 0 < low < results["difference"] < high
    assert results["ci95"][0] < results["success_rate"] <= results["ci95"][1]
    assert (results["same_starts"], results["distinct"], results["goal_episodes"]) == (30, 30, 2)
    assert (results["ended"], results["random_ended"]) == (0, 0)
    assert results["seconds_per_plan"] > 0
    assert all(at == -1 or 1 <= at <= 24 for at in results["solved_at"] + results["random_solved_at"])
    assert len(fleet.made) == 30
    for env, at, chance_at in zip(fleet.made, results["solved_at"], results["random_solved_at"], strict=True):
        assert env.closed
        assert env.starts[0] == env.starts[1]
        assert len(env.actions) == sum(24 if end == -1 else end for end in (at, chance_at))  # not one step beyond
        for action in env.actions:
            assert (action.shape, action.dtype) == ((1, 1), np.float32)
            assert abs(action[0, 0]) <= 1


def test_it_repeats_and_follows_the_seed(opened: dict[str, Any]) -> None:
    def measured(**settings: Any) -> dict[str, Any]:
        results = run(Fleet(), episodes=6, **settings)
        del results["seconds_per_plan"]
        return results

    assert measured() == measured(seed=3)
    assert measured(seed=4)["random_solved_at"] != measured()["random_solved_at"]


def test_frames_of_model_steps_are_what_the_model_sees(store: Store, opened: dict[str, Any]) -> None:
    opened["of"] = of(store, history=2, execute=3)
    fleet = Fleet(place=0.5)
    results = run(fleet, lambda env, goal: False, episodes=1, budget=24)
    (env,), looks = fleet.made, seen(opened)
    moves = np.concatenate(env.actions[:24])[:, 0]
    ways = np.clip(0.5 + SPEED * np.cumsum(moves), 0, 1)  # after each environment step
    # The goal, the start, and then before each decision the last two of three model steps of two environment steps.
    wanted = [[0.5], *([ways[k + 3], ways[k + 5]] for k in (0, 6, 12))]
    assert len(looks) == 5
    for look, place in zip(looks[1:], wanted, strict=True):
        np.testing.assert_allclose(look, place, atol=0.01)
    assert results["successes"] == 0


def test_an_episode_that_has_ended_leaves(opened: dict[str, Any]) -> None:
    fleet = Fleet(ends_at=5)
    results = run(fleet, lambda env, goal: env is fleet.made[0] and env.t == 3, episodes=4)
    assert results["solved_at"] == results["random_solved_at"] == [3, -1, -1, -1]
    assert results["ended"] == results["random_ended"] == 3
    assert [len(env.actions) for env in fleet.made] == [6, 10, 10, 10]


def test_success_in_the_last_step_counts(opened: dict[str, Any]) -> None:
    results = run(Fleet(ends_at=5), lambda env, goal: env.t == 5, episodes=2)
    assert (results["successes"], results["ended"]) == (2, 0)


def test_a_goal_that_must_hold(opened: dict[str, Any]) -> None:
    fleet = Fleet()
    held = {0: range(5, 13), 1: range(3, 12), 2: range(9, 13), 3: range(1, 13)}
    results = run(fleet, lambda env, goal: env.t in held[fleet.made.index(env)], episodes=4, budget=12, hold=4)
    assert results["solved_at"] == results["random_solved_at"] == [5, -1, 9, 1]
    assert (results["hold"], results["successes"]) == (4, 3)
    assert [len(env.actions) for env in fleet.made] == [24] * 4  # all of the budget, for both policies
    assert run(Fleet(), episodes=10, hold=6)["success_rate"] > 0.8  # and the controller stays
    leaving = Fleet(ends_at=12)
    results = run(leaving, lambda env, goal: env.t > 6, episodes=2, budget=12, hold=4)
    assert (results["successes"], results["ended"]) == (2, 0)
    leaving = Fleet(ends_at=11)
    results = run(leaving, lambda env, goal: env.t > 6, episodes=2, budget=12, hold=4)
    assert (results["successes"], results["ended"]) == (0, 2)


def test_discrete_actions(tmp_path: Path, opened: dict[str, Any]) -> None:
    opened["of"] = of(line(tmp_path / "three", discrete=True))
    fleet = Fleet(space=Discrete(3))
    results = run(fleet, lambda env, goal: abs(env.place - goal.state) < 0.03, episodes=20)
    assert results["success_rate"] > 0.9 > results["random_success_rate"]
    assert {type(action) for env in fleet.made for action in env.actions} == {int}


def test_rows_of_a_thinned_import_are_several_steps(tmp_path: Path, opened: dict[str, Any]) -> None:
    store = line(tmp_path / "thin", action_size=2, origin={"fit": "crop", "frame_skip": 2})
    opened["of"] = of(store, skip=1)
    fleet = Fleet()
    results = run(fleet, episodes=20)
    assert results["success_rate"] > 0.9
    assert fleet.made[0].actions[0].shape == (1, 1)
    (count,) = {len(frames) for frames in seen(opened)[:2]}  # a goal and a start for every episode
    assert count == 20


def test_actions_are_clipped(store: Store, opened: dict[str, Any]) -> None:
    fleet = Fleet(space=Box(-0.25, 0.5, (1,), np.float32))
    run(fleet, episodes=4)
    assert all(-0.25 <= action[0] <= 0.5 for env in fleet.made for action in env.actions)


def test_given_goals(store: Store, opened: dict[str, Any]) -> None:
    asked: list[EnvGoal] = []

    def success(env: Line, goal: EnvGoal) -> bool:
        asked.append(goal)
        return False

    picture = np.full((SIZE, SIZE, 3), 51, np.uint8)
    wide = np.full((SIZE, 3 * SIZE, 3), 51, np.uint8)
    results = run(Fleet(), success, goals=["frame:2:5", picture, (wide, [0.2])], budget=1)
    assert results["episodes"] == 3
    assert results["goal_episodes"] == 1
    first, second, third = asked[:3]
    assert (first.episode, first.index) == (2, 5)
    np.testing.assert_array_equal(first.frame, store.frames[29])
    np.testing.assert_array_equal(first.state, store.states[29])  # pyright: ignore[reportOptionalSubscript,reportArgumentType]
    assert (second.state, second.episode) == (None, None)
    np.testing.assert_array_equal(third.frame, picture)  # fitted as the store was
    np.testing.assert_array_equal(third.state, np.float32([0.2]))  # pyright: ignore[reportArgumentType]
    del asked[:]
    results = run(Fleet(), success, goals=[picture], episodes=5, budget=1)
    assert results["episodes"] == 5
    assert len(asked) == 5 * 2 * 2  # at the start and after one step, of both policies


def test_drawn_goals_are_held_out_and_spread(store: Store, opened: dict[str, Any]) -> None:
    asked: list[EnvGoal] = []
    run(Fleet(), lambda env, goal: asked.append(goal) or False, episodes=10, budget=1)
    drawn = [goal.episode for goal in asked[:10]]
    assert [drawn.count(episode) for episode in HELD_OUT] == [5, 5]
    for goal in asked[:10]:
        assert goal.episode is not None
        assert goal.index is not None
        place = 12 * goal.episode + goal.index
        np.testing.assert_array_equal(goal.frame, store.frames[place])


def test_success_that_info_tells(opened: dict[str, Any]) -> None:
    results = run(Fleet(), "is_success", goals=[np.full((SIZE, SIZE, 3), 242, np.uint8)], episodes=12)
    assert results["success_rate"] > 0.9 > results["random_success_rate"]
    with pytest.raises(ValueError, match=r"^success=solved: info has no such entry; it has is_success$"):
        run(Fleet(), "solved", episodes=2)


def test_starts_that_do_not_follow_the_seed_or_never_differ_are_told(opened: dict[str, Any]) -> None:
    class Wilful(Line):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            super().reset()
            return np.array([self.place]), {}

    assert run(Wilful, episodes=8)["same_starts"] < 4
    results = run(Fleet(place=0.5), goals=["frame:1:3"], episodes=8)
    assert results["distinct"] == 1
    assert "of these, 1 differ in start or goal, so the intervals are too narrow" in results["verdict"]


def test_pictures_are_fitted_as_the_data_was(tmp_path: Path, opened: dict[str, Any]) -> None:
    for origin, bright in (({"fit": "crop"}, 1.0), ({"fit": "pad"}, 0.0)):
        opened["of"] = of(line(tmp_path / origin["fit"], origin=origin))
        run(Fleet(width=2 * SIZE, place=1.0), lambda *_: False, episodes=1, budget=1)
        assert seen(opened)[1] == [bright]  # the corner of the picture
    opened["of"] = of(line(tmp_path / "unsaid", origin={"by": "hand"}))
    with pytest.raises(ValueError, match=r"^frame=32x16: is no square, and the run does not say"):
        run(Fleet(width=2 * SIZE), episodes=1)
    assert run(Fleet(width=2 * SIZE), episodes=1, fit="crop")["episodes"] == 1
    assert run(Fleet(), episodes=1)["episodes"] == 1


def not_an_env() -> Any:
    return [Line()]


ONE = Line()


def silent() -> Line:
    env = Line()
    env.render_mode = None  # pyright: ignore[reportAttributeAccessIssue]
    return env


@pytest.mark.parametrize(
    ("make_env", "settings", "told"),
    [
        (ONE, {}, "make_env=Line: must be a function that makes an environment, as lambda: MyEnv()"),
        (not_an_env, {}, "make_env: gave list, must give one gymnasium.Env"),
        (lambda: ONE, {}, "make_env: gave the same environment twice; make a new one at each call"),
        (silent, {}, "render_mode=None: frames come from render()"),
        (Fleet(space=Discrete(3)), {}, "action_space=Discrete(3): is discrete of size 3, and the model's actions are"),
        (Fleet(space=Box(-1, 1, (2,))), {}, "action_space=Box(-1.0, 1.0, (2,), float32): is continuous of size 2, and"),
        (Fleet(), {"episodes": 0}, "episodes=0: must be at least 1"),
        (Fleet(), {"budget": 0}, "budget=0: must be at least 1"),
        (Fleet(), {"hold": 25}, "hold=25: must be 0 to the budget of 24 steps"),
        (Fleet(), {"seed": -1}, "seed=-1: must not be negative; use 0"),
        (Fleet(), {"goals": []}, "goals=[]: is empty"),
        (Fleet(), {"goals": ["frame:9:0"]}, "goal=frame:9:0: "),
        (Fleet(), {"goals": [np.zeros((4, 4))]}, "frame=float64[4, 4]: must be (height, width, 3) uint8"),
        (Fleet(), {"fit": "pad"}, "fit=pad: "),
        (Fleet(), {"success": lambda env, goal: None}, "success: gave None, must give True or False"),
        (Fleet(), {"success": lambda env, goal: 0.3}, "success: gave 0.3, must give True or False; compare a distance"),
        (
            Fleet(),
            {"success": lambda env, goal: goal.frame < 2},
            "success: gave 768 values, must give True or False",
        ),
    ],
)
def test_refuses_in_one_line(opened: dict[str, Any], make_env: Any, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 — the text is compared below
        run(make_env, **({"episodes": 2} | settings))
    message = str(error.value)
    assert message.startswith(told)
    assert len(message) <= 300
    assert "\n" not in message
    if isinstance(make_env, Fleet):
        assert all(env.closed for env in make_env.made)


def test_several_cameras_are_refused(tmp_path: Path, opened: dict[str, Any]) -> None:
    opened["of"] = of(line(tmp_path / "tiled", origin={"fit": "crop", "cameras": ["top", "wrist"]}))
    with pytest.raises(ValueError, match=r"^cameras=top, wrist: the run's frames are tiled of several cameras"):
        run(Fleet(), episodes=1)


def test_images_are_refused(opened: dict[str, Any]) -> None:
    config = opened["of"].config
    images = dataclasses.replace(opened["of"], config=config)
    object.__setattr__(images.config.action, "kind", "none")
    opened["of"] = images
    with pytest.raises(ValueError, match=r"^run=run: was trained on images"):
        run(Fleet(), episodes=1)
