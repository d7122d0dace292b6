"""One plan from a frame of the data: it leads where it should, and what is told of it is so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import ActionConfig, Config, DataConfig, EvalConfig, PlanConfig, TrainConfig
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.evaluate import open_loop, plan_once
from lewm.evaluate.evaluation import Evaluation
from lewm.evaluate.frames import draw_frames
from lewm.evaluate.open_loop import random_plans
from lewm.families.article.settings import ArticleSettings
from lewm.families.compact.settings import CompactSettings
from lewm.plan import action_space
from tiny import plain_spec

SIZE, SPEED, SKIP, HORIZON = 16, 0.1, 2, 4
TRAIN, HELD_OUT = np.array([0, 1, 3]), np.array([2])


class Model:
    """Know a line: one token, which holds the place; the second entry of an action does nothing."""

    device = torch.device("cpu")

    def encode(self, frames: Tensor, /) -> Tensor:
        return frames[:, 0, 0, :1].float()[:, None] / 255.0  # (B, 1, 1)

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        moves = actions.unflatten(-1, (SKIP, -1))
        moves = moves[..., 0] if actions.is_floating_point() else actions - 1.0  # (B, H, f)
        return (states[:, -1, 0] + SPEED * moves.sum(-1).cumsum(1))[..., None, None]


def steps_to_go(tokens: Tensor, goal: Tensor) -> Tensor:
    """Stand in for a learnt cost: the steps that the way takes."""
    return (tokens - goal).abs().mean((-2, -1)) / SPEED


def line(path: Path, *, discrete: bool = False, states: bool = True, images: bool = False) -> Store:
    """Write four episodes of 8 frames along a line; their brightness is the place."""
    kind, size = ("discrete", 3) if discrete else ("continuous", 2)
    kind, size = ("none", 0) if images else (kind, size)
    meta = StoreMeta(
        task="my-robot",
        image_size=SIZE,
        action_kind=kind,  # pyright: ignore[reportArgumentType]
        action_size=size,
        state_names=("place",) if states else (),
    )
    with StoreWriter(path, meta) as writer:
        for number in range(4):
            place = np.linspace(0.1, 0.2 * (number + 2), 8, dtype=np.float32)
            frames = np.broadcast_to(np.rint(255 * place).astype(np.uint8)[:, None, None, None], (8, SIZE, SIZE, 3))
            actions = np.full((8, 2), 0.25, np.float32)  # the second entry never varies
            actions[:, 0] = (0.4, -0.4, 9.0, 0.1)[number]  # the third is held out
            writer.append(
                np.ascontiguousarray(frames),
                actions[:, :0] if images else np.arange(8) % 3 if discrete else actions,
                place[:, None] if states else None,
            )
    return Store(path)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a store and lets every run be the model of the line."""

    def make(*, cost: str = "steps_to_go", over: str = "last", **options: Any) -> Evaluation:
        store = line(tmp_path / "store", **options)
        kind, size = store.meta.action_kind, store.meta.action_size
        config = Config(
            action=ActionConfig(kind=kind, size=size),
            data=DataConfig(frame_skip=1 if kind == "none" else SKIP),
            model=ArticleSettings(image_size=SIZE) if kind == "none" else CompactSettings(image_size=SIZE),
            train=TrainConfig(cost_steps=0 if kind == "none" else 2000),
            plan=PlanConfig(horizon=HORIZON, iterations=4, cost=cost, over=over),  # pyright: ignore[reportArgumentType]
            eval=EvalConfig(probe_frames=20),
        )
        model: Any = Model()
        learnt: Any = None if kind == "none" else steps_to_go
        bounds = {"low": (-0.4, 0.25), "high": (0.4, 0.25)} if kind == "continuous" else {}
        spec = plain_spec(config, **bounds)
        of = Evaluation(Path("run"), config, model, learnt, store, TRAIN, HELD_OUT, None, spec)
        monkeypatch.setattr(open_loop, "open_run", lambda *args, **kwargs: of)
        return of

    return make


def plan(goal: str, start: str | None = None) -> dict[str, Any]:
    return plan_once(Path("run"), goal=goal, start=start, progress=False)


@pytest.mark.parametrize("over", ["last", "sum"])
def test_the_plan_leads_into_the_region(opened: Any, over: str) -> None:
    of = opened(over=over)
    result = plan("region:place=0.3..0.35")
    assert result["start"] == "frame:2:0"  # the first held-out one
    actions = np.array(result["actions"])
    assert actions.shape == (HORIZON * SKIP, 2)
    assert actions[:, 0].min() >= -0.4 - 1e-6  # what the training episodes did, not the held-out one
    assert actions[:, 0].max() <= 0.4 + 1e-6
    np.testing.assert_allclose(actions[:, 1], 0.25)
    end = 26 / 255 + SPEED * actions[:, 0].sum()  # by the true dynamics
    assert 0.295 <= end <= 0.355
    assert result["predicted_state"]["place"] == pytest.approx(end, abs=0.005)
    assert result["start_state"] == {"place": pytest.approx(0.1)}
    std = of.store.states[draw_frames(of.store, TRAIN, 20, seed=0)].std()
    assert result["cost_now"] == pytest.approx(0.2 / std, rel=0.05)
    assert result["cost"] == 0 < result["cost_random"]
    assert result["goal"]["kind"] == "region"
    assert result["goal"]["r2"]["place"] > 0.99
    assert (result["planner"], result["seconds"] > 0) == ("cem", True)


def test_a_plan_can_go_back_from_another_start(opened: Any) -> None:
    opened()
    result = plan("state:0.35", "frame:3:5")
    place = np.linspace(0.1, 1.0, 8)[5]
    assert result["start"] == "frame:3:5"
    assert result["start_state"]["place"] == pytest.approx(place)
    assert place + SPEED * np.array(result["actions"])[:, 0].sum() == pytest.approx(
        max(0.35, place - HORIZON * SKIP * SPEED * 0.4), abs=0.03
    )
    assert result["cost"] < min(result["cost_now"], result["cost_random"])


@pytest.mark.parametrize("cost", ["steps_to_go", "tokens", "pooled"])
def test_frames_need_no_states(opened: Any, cost: str) -> None:
    opened(cost=cost, over="sum", states=False)
    result = plan("frame:1:3")  # at 0.314 of 0.1 to 0.6
    gap = 80 / 255 - 26 / 255
    assert SPEED * np.array(result["actions"])[:, 0].sum() == pytest.approx(gap, abs=0.02)
    assert result["cost_now"] == pytest.approx(gap / SPEED if cost == "steps_to_go" else gap**2, rel=1e-4)
    assert result["goal"] == {"text": "frame:1:3", "kind": "frame"}
    assert "predicted_state" not in result
    assert result["cost"] < min(result["cost_now"], result["cost_random"])
    with pytest.raises(ValueError, match=r"goal=state:0.3: the data has no states; give frame:"):
        plan("state:0.3")


def test_discrete_actions_are_integers(opened: Any) -> None:
    opened(discrete=True)
    result = plan("region:place=0.38..0.42")
    actions = result["actions"]
    assert len(actions) == HORIZON * SKIP
    assert set(actions) <= {0, 1, 2}
    assert sum(actions) - len(actions) == 3


def test_the_same_seed_gives_the_same_plan(opened: Any) -> None:
    opened()
    first, second = plan("region:place=0.3..0.4"), plan("region:place=0.3..0.4")
    del first["seconds"], second["seconds"]
    assert first == second


@pytest.mark.parametrize(
    ("goal", "start", "told"),
    [
        ("frame:4:0", None, r"goal=frame:4:0: .* has no such episode; use 0 to 3"),
        ("frame:0:0", "frame:0:8", r"start=frame:0:8: episode 0 has no such frame; use 0 to 7"),
        ("frame:0:0", "state:0.3", r"start=state:0.3: must be frame:EPISODE:INDEX"),
        ("region:plaec=0..1", None, r"did you mean place\?"),
    ],
)
def test_wrong_goals_and_starts_are_refused(opened: Any, goal: str, start: str | None, told: str) -> None:
    opened()
    with pytest.raises(ValueError, match=told):
        plan(goal, start)


def test_images_have_nothing_to_plan(opened: Any) -> None:
    opened(images=True, cost="tokens")
    with pytest.raises(ValueError, match=r"run=run: was trained on images, which have no actions to plan"):
        plan("frame:0:0")


def test_a_plan_stays_within_the_bounds_of_the_run(opened: Any) -> None:
    space = opened().space
    np.testing.assert_allclose(space.low, [-0.4, 0.25] * SKIP, rtol=1e-6)
    np.testing.assert_allclose(space.high, [0.4, 0.25] * SKIP, rtol=1e-6)


def test_random_plans_fill_the_space() -> None:
    action, data = ActionConfig(kind="continuous", size=2), DataConfig(frame_skip=1)
    config = Config(action=action, data=data, model=CompactSettings())
    space = action_space(config, [-3.0, 1.0], [3.0, 5.0], device="cpu")
    drawn = random_plans(space, 50, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, open_loop.RANDOM_PLANS, 50, 2)
    np.testing.assert_allclose(drawn.amin((0, 1, 2)), [-3, 1], atol=0.05)
    np.testing.assert_allclose(drawn.amax((0, 1, 2)), [3, 5], atol=0.05)
