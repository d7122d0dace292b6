"""The learnt planning cost, on a store where the time between two frames is known."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.data import Store
from lewm.families.family import WorldModel, make_model
from lewm.plan.steps_to_go import StepsToGo
from lewm.train.fit_steps_to_go import fit_steps_to_go
from tiny import moving_dot, tiny, tiny_article

# a random encoder says well enough where the square is; the test is about the head
CONFIG = tiny_article(
    train__cost_steps=1000,
    train__cost_reach=12,
    plan__cost="steps_to_go",
    model__stem="linear",
    model__final_norm="none",
)
LENGTH = 13
TRAINING = np.arange(72)
HELD_OUT = np.arange(72, 80)


@dataclass(frozen=True)
class Fitted:
    before: WorldModel
    model: WorldModel
    cost: StepsToGo
    steps: int


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return moving_dot(tmp_path_factory.mktemp("dot") / "store", episodes=80, length=LENGTH, speed=2, lane=4)


@pytest.fixture(scope="module")
def fitted(store: Store) -> Fitted:
    """A model before and after the fit, the learnt cost, and the number of reported steps."""
    torch.manual_seed(0)
    before = make_model(CONFIG).train()
    model, steps = copy.deepcopy(before), []
    cost = fit_steps_to_go(model, store, TRAINING, on_step=lambda: steps.append(0))
    return Fitted(before, model, cost, len(steps))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


@pytest.mark.slow
def test_learns_the_time_between_held_out_frames(store: Store, fitted: Fitted) -> None:
    now, goal, away = [], [], []
    for episode in HELD_OUT:
        start = store.episode(int(episode)).start
        for t in range(LENGTH):
            for later in range(t, LENGTH):
                now.append(start + t)
                goal.append(start + later)
                away.append(later - t)
    with torch.no_grad():
        tokens = [fitted.model.encode(torch.from_numpy(store.frames[np.array(index)])) for index in (now, goal)]
        estimate = fitted.cost(*tokens).numpy()
        torch.manual_seed(0)
        untrained = StepsToGo(CONFIG.model.num_tokens, CONFIG.model.token_width)(*tokens).numpy()
    away = np.array(away)
    assert rank_correlation(estimate, away) > 0.85
    assert rank_correlation(untrained, away) < 0.7  # a random embedding already keeps some order
    means = [estimate[away == steps].mean() for steps in range(LENGTH - 1)]
    assert np.corrcoef(means, np.arange(LENGTH - 1))[0, 1] > 0.95
    assert abs(means[0]) < 1.5
    assert means[9] == pytest.approx(9, abs=2.5)


@pytest.mark.slow
def test_changes_nothing_of_the_model(fitted: Fitted) -> None:
    assert fitted.steps == 1000
    assert not fitted.model.training
    assert not fitted.cost.training
    before, after = fitted.before.state_dict(), fitted.model.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@pytest.mark.slow
def test_unrelated_frames_are_far(store: Store, fitted: Fitted) -> None:
    model, cost = fitted.model, fitted.cost
    rng = np.random.default_rng(0)
    starts = store.episodes.start[TRAINING]
    now, goal = starts[rng.integers(0, 72, 200)], starts[rng.integers(0, 72, 200)] + 12
    with torch.no_grad():
        same = model.encode(torch.from_numpy(store.frames[now]))
        estimate = cost(same, model.encode(torch.from_numpy(store.frames[goal]))).mean()
        assert estimate > 4
        assert cost(same, same).mean() < 1.5


def test_is_a_function_of_the_seed(store: Store) -> None:
    heads = []
    for _ in range(2):
        torch.manual_seed(0)
        model = make_model(tiny(train__cost_steps=3))
        torch.manual_seed(len(heads))
        heads.append(fit_steps_to_go(model, store, TRAINING, on_step=lambda: None).state_dict())
    for name, value in heads[0].items():
        assert torch.equal(value, heads[1][name]), name


@pytest.mark.parametrize("history", [1, 3])
def test_frame_skip_and_discrete_actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: int) -> None:
    """Times are counted in model steps, up to the reach, which an unrelated goal has."""
    labels, l1_loss = [], F.l1_loss

    def record(estimate: Tensor, label: Tensor) -> Tensor:
        labels.append(label)
        return l1_loss(estimate, label)

    monkeypatch.setattr(F, "l1_loss", record)
    store = moving_dot(tmp_path / "store", episodes=4, length=11, discrete=True)
    config = tiny(
        train__cost_steps=4,
        train__cost_reach=2,
        data__frame_skip=4,
        action__kind="discrete",
        action__size=4,
        model__history=history,
    )
    fit_steps_to_go(make_model(config), store, np.arange(3), on_step=lambda: None)
    assert torch.equal(torch.cat(labels).unique(), torch.arange(9) / 4)
    assert 0.05 < (torch.cat(labels) == 2).float().mean() < 0.3


def test_refuses_episodes_without_a_step(tmp_path: Path) -> None:
    store = moving_dot(tmp_path / "store", episodes=3, length=4)
    config = tiny(train__cost_steps=2, data__frame_skip=4)
    with pytest.raises(
        ValueError, match=r"^data\.frame_skip=4: is longer than every training episode; use 3 or fewer$"
    ):
        fit_steps_to_go(make_model(config), store, np.arange(2), on_step=lambda: None)
