"""What rivals share: sizes, and actions as vectors."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lewm.config import Config
from lewm.envs import collect
from lewm.evaluate import evaluate_run, plan_run
from lewm.evaluate import probe as probe_module
from lewm.families.family import make_model
from lewm.families.presets import preset
from lewm.families.rivals.rival import ActionVector, RivalWorldModel, halvings
from lewm.train import loop, resume, train
from lewm.train.checkpoint import METRICS, WEIGHTS
from tiny import labelled_images, moving_dot, override, rival, tiny


def test_are_as_large_as_the_compact_model() -> None:
    counts = {name: make_model(preset(name)).num_parameters for name in ("tiny", "tdmpc2", "dreamer", "gcbc")}
    assert counts == {"tiny": 746_600, "tdmpc2": 722_512, "dreamer": 646_763, "gcbc": 737_300}


@pytest.mark.parametrize("name", ["tdmpc2", "dreamer"])
@pytest.mark.parametrize("image_size", [32, 48, 56, 96])
def test_any_image_size_and_history(name: str, image_size: int) -> None:
    config = override(rival(name), {"model.image_size": image_size, "data.frame_skip": 2})
    torch.manual_seed(0)
    model = make_model(config).eval()
    assert isinstance(model, RivalWorldModel)
    frames = torch.randint(256, (2, 2, image_size, image_size, 3), dtype=torch.uint8)
    actions = torch.randn(2, 4, 4)
    with torch.no_grad():
        tokens = model.encode(frames.flatten(0, 1)).unflatten(0, (2, 2))
        ahead = model.rollout(tokens, actions[:, :1], actions[:, 1:])
        assert tokens.shape == (2, 2, 1, tokens.shape[-1])
        assert ahead.shape == (2, 3, 1, tokens.shape[-1])  # one of the four actions lies behind
        changed = actions.clone()
        changed[:, 2] += 1
        differs = (model.rollout(tokens, changed[:, :1], changed[:, 1:]) - ahead).abs().amax((0, 2, 3)) > 0
        assert differs.tolist() == [False, True, True]
        # what a frame is represented by does not depend on the frames beside it
        torch.testing.assert_close(model.encode(frames[:1, 1]), tokens[:1, 1])
        fresh = model.fresh_encoder()
        assert not torch.equal(fresh(frames[:, 0]), tokens[:, 0])


def test_action_vectors() -> None:
    config = tiny(data__frame_skip=2)
    vector = ActionVector(config)
    vector.standardise(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
    action = torch.tensor([[3.0, 5.0, -1.0, 2.0]])
    torch.testing.assert_close(vector(action), torch.tensor([[1.0, 3.0, -1.0, 0.0]]))  # a constant entry is shifted
    discrete = ActionVector(tiny(action__kind="discrete", action__size=3, data__frame_skip=2))
    np.testing.assert_array_equal(discrete(torch.tensor([[2, 0]])), [[0, 0, 1, 1, 0, 0]])


def test_halvings_end_at_four_or_less() -> None:
    assert halvings(64) == [64, 32, 16, 8, 4]
    assert halvings(112) == [112, 56, 28, 14, 7, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tdmpc2", "dreamer"])
@pytest.mark.parametrize("discrete", [False, True])
def test_training_reduces_the_loss(tmp_path: Path, name: str, discrete: bool) -> None:
    store = moving_dot(tmp_path / "store", discrete=discrete)
    train(override(rival(name), {"train.steps": 60}), store.path, tmp_path / "run", progress=False)
    curve = [json.loads(line)["loss"] for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert len(curve) == 60
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[:5])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tdmpc2", "dreamer", "gcbc"])
def test_a_rival_that_was_stopped_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    store = moving_dot(tmp_path / "store").path
    config = override(rival(name), {"train.steps": 4})
    train(config, store, tmp_path / "whole", progress=False)
    real, calls = loop.train_step, []

    def stopping(*arguments: Any, **keywords: Any) -> Any:
        calls.append(0)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(SystemExit, match="stopped at step 2"):
            train(config, store, tmp_path / "run", progress=False)
    resume(tmp_path / "run", progress=False)
    assert (tmp_path / "run" / METRICS).read_text() == (tmp_path / "whole" / METRICS).read_text()
    ours, whole = (load_file(tmp_path / run / WEIGHTS) for run in ("run", "whole"))
    assert all(torch.equal(value, whole[key]) for key, value in ours.items())


def test_images_are_refused(tmp_path: Path) -> None:
    images = labelled_images(tmp_path / "images").path
    with pytest.raises(ValueError, match=r"^model\.family=tdmpc2: .* images do not have; use --preset literal"):
        train(rival("tdmpc2"), images, tmp_path / "run", progress=False)


def short(name: str, cost: str) -> Config:
    settings: dict[str, Any] = {
        "train.steps": 3, "train.cost_steps": 3, "data.frame_skip": 2, "data.held_out": 0.3, "plan.cost": cost,
        "plan.horizon": 2, "plan.candidates": 8, "plan.iterations": 1, "plan.elites": 2, "plan.execute": 2,
        "eval.episodes": 4, "eval.split_episodes": 2, "eval.goal_offset": 6, "eval.budget": 8, "eval.horizons": (1, 2),
        "eval.clips": 10, "eval.probe_frames": 40,
    }  # fmt: skip
    return override(tiny() if name == "compact" else rival(name), settings)


def keys(results: dict[str, Any]) -> dict[str, Any]:
    """Return the names in results, at every depth; None stands for what was not measured."""
    return {name: keys(value) if isinstance(value, dict) else None for name, value in results.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "cost"), [("two-room", "steps_to_go"), ("two-room-discrete", "tokens")])
def test_every_family_is_measured_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, cost: str
) -> None:
    monkeypatch.setattr(probe_module, "MLP_STEPS", 5)
    store = tmp_path / "store"
    collect(task, store, episodes=6, episode_length=16, image_size=32, workers=1, progress=False)
    measured = {}
    for name in ("compact", "tdmpc2", "dreamer", "gcbc"):
        train(short(name, cost), store, tmp_path / name, progress=False)
        measured[name] = evaluate_run(tmp_path / name, progress=False)
    ours = measured["compact"]
    for name, results in measured.items():
        assert keys(results["planning"]) == keys(ours["planning"])
        assert results["planning"]["episodes"] == 4
        assert results["planning"]["random_success_rate"] == ours["planning"]["random_success_rate"]
        assert list(results) == list(ours)
        assert results["data"] == ours["data"]
        if name == "gcbc":
            assert results["planning"]["planner"] is None
            assert not any(results[part] for part in ("spectrum", "prediction", "probe", "cost"))
        else:
            assert keys(results) == keys(ours)
            assert results["cost"]["name"] == cost
    with pytest.raises(ValueError, match=r"is a policy of the family gcbc, which makes no plans; measure it by"):
        plan_run(tmp_path / "gcbc", progress=False)
