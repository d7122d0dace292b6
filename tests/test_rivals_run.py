"""Rivals end to end: they learn, and the result has the form of an evaluation of the package's own model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm.config import Config, EvalConfig, PlanConfig
from lewm.data import Store
from lewm.envs import collect
from lewm.evaluate import evaluate_run
from lewm.evaluate import probe as probe_module
from lewm.rivals import RIVALS, run_rival
from lewm.rivals.run import take_step, train_rival
from lewm.train import NonFiniteLossError, train
from tiny import labelled_images, moving_dot, tiny

NAMES = ("tdmpc2", "dreamer", "gcbc")


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MLP_STEPS", 5)


def short(cost: str) -> Config:
    config = tiny(train__steps=3, train__cost_steps=3, data__frame_skip=2, data__held_out=0.3)
    return replace(
        config,
        plan=PlanConfig(cost=cost, horizon=2, candidates=8, iterations=1, elites=2, execute=2),  # pyright: ignore[reportArgumentType]
        eval=EvalConfig(
            episodes=4, split_episodes=2, goal_offset=6, budget=8, horizons=(1, 2), clips=10, probe_frames=40
        ),
    )


def keys(results: dict[str, Any]) -> dict[str, Any]:
    """Return the names in results, at every depth; None stands for what was not measured."""
    return {name: keys(value) if isinstance(value, dict) else None for name, value in results.items()}


@pytest.mark.parametrize(("task", "cost"), [("two-room", "steps_to_go"), ("two-room-discrete", "tokens")])
def test_result_has_the_form_of_an_evaluation(tmp_path: Path, task: str, cost: str) -> None:
    store, config = tmp_path / "store", short(cost)
    collect(task, store, episodes=6, episode_length=16, image_size=32, workers=1, progress=False)
    train(config, store, tmp_path / "run", progress=False)
    ours = evaluate_run(tmp_path / "run", progress=False)
    for name in NAMES:
        results = run_rival(name, config, store)
        assert results.pop("parameters") == RIVALS[name](replace(config, action=results_action(store))).num_parameters
        assert results.pop("train_seconds") > 0
        assert keys(results["planning"]) == keys(ours["planning"])
        assert results["planning"]["episodes"] == 4
        assert results["planning"]["random_success_rate"] == ours["planning"]["random_success_rate"]
        assert list(results) == list(ours)
        assert results["data"] == ours["data"]
        if name == "gcbc":
            assert results["planning"]["planner"] is None
            assert {part for part, value in results.items() if value is None} == {
                "spectrum", "prediction", "probe", "cost", "learnt", "verdict"
            }  # fmt: skip
        else:
            assert keys(results) == keys(ours)
            assert results["cost"]["name"] == cost
            again = run_rival(name, config, store)
            assert again["prediction"] == results["prediction"]


def results_action(store: Path) -> Any:
    meta = Store(store).meta
    return replace(tiny().action, kind=meta.action_kind, size=meta.action_size)


@pytest.mark.parametrize("name", ["tdmpc2", "dreamer"])
@pytest.mark.parametrize("discrete", [False, True])
def test_training_reduces_the_loss(tmp_path: Path, name: str, discrete: bool) -> None:
    store = moving_dot(tmp_path / "store", discrete=discrete)
    config = tiny(
        action__kind="discrete" if discrete else "continuous", action__size=4 if discrete else 2, train__steps=60
    )
    torch.manual_seed(0)
    curve = train_rival(RIVALS[name](config), store, np.arange(8))
    assert len(curve) == 60
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[:5])


def test_share_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "store", []
    moving_dot(path)
    monkeypatch.setattr("lewm.rivals.run.train_rival", lambda model, store, episodes, progress: seen.append(episodes))
    monkeypatch.setattr(RIVALS["tdmpc2"], "evaluate", lambda self, of, progress: {"train": of.train})
    whole = run_rival("tdmpc2", tiny(), path)
    half = run_rival("tdmpc2", tiny(data__train_share=0.5), path)
    assert (len(seen[0]), len(seen[1])) == (8, 4)
    assert set(seen[1]) < set(seen[0])
    np.testing.assert_array_equal(whole["train"], half["train"])  # probes are fitted to all of them


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = moving_dot(tmp_path / "dot").path
    with pytest.raises(ValueError, match=r"^rival=dremer: must be one of tdmpc2, "):
        run_rival("dremer", tiny(), path)
    with pytest.raises(ValueError, match=r"^model\.image_size=64: "):
        run_rival("tdmpc2", tiny(model__image_size=64), path)
    images = labelled_images(tmp_path / "images").path
    with pytest.raises(ValueError, match=r"^data=.*: has images without actions"):
        run_rival("tdmpc2", tiny(), images)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(NonFiniteLossError, match=r"^loss=nan: not finite at step 7 with learning rate 1 "):
        take_step(optimizer, (weight * float("nan")).sum(), clip_norm=1.0, learning_rate=1.0, step=7)
    assert weight.tolist() == [1, 1]
