"""A proposal is fitted to a store, written into the run, and refused where it is of something else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lewm
from lewm.plan import Proposal, action_space
from lewm.plan.proposal import ProposalSettings
from lewm.train.checkpoint import CONFIG, PROPOSAL, WEIGHTS, load_run
from lewm.train.distill import distill_run
from lewm.train.fit_proposal import Pairs
from lewm.train.frozen_frames import freeze
from tiny import moving_dot, rival, tiny_article, untrained_run


def made(path: Path, *, discrete: bool = False, episodes: int = 10, **settings: Any) -> Path:
    """A run with random weights, whose tokens tell well enough where the square is, and its data."""
    store = moving_dot(path / "store", episodes=episodes, length=12, speed=2, lane=4, discrete=discrete)
    settings |= {"action__kind": "discrete", "action__size": 4} if discrete else {}
    settings |= {"data__frame_skip": 2, "model__stem": "linear", "model__final_norm": "none"}
    config = tiny_article(data__path=str(store.path), **settings)
    return untrained_run(path / "run", config)


@pytest.mark.slow
@pytest.mark.parametrize("discrete", [False, True])
def test_it_learns_which_way_the_data_went(tmp_path: Path, discrete: bool) -> None:
    run = made(tmp_path, discrete=discrete, episodes=60)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    result = distill_run(run, steps=300, progress=False)
    assert result["error"] < 0.5 * result["rival"]
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name in before} == before
    loaded, store = load_run(run), lewm.Store(tmp_path / "store")
    assert loaded.proposal is not None
    assert loaded.proposal.settings.horizon == 3
    now, goal = (loaded.model.encode(store.frames[[k, 12 + k]]) for k in (0, 6))
    said = loaded.proposal(now, goal, action_space(loaded.config, device="cpu"), horizon=3)
    right, left = said[:2, 0]  # the squares of the first two episodes cross the frame this way and that
    if discrete:
        assert (right.tolist(), left.tolist()) == ([0, 0], [1, 1])
    else:
        assert right[0] > 0.3
        assert left[0] < -0.3


def test_the_same_again_and_in_place_of_an_earlier_one(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert load_run(run).proposal is None
    distill_run(run, steps=2, progress=False)
    first = (run / PROPOSAL).read_bytes()
    distill_run(run, steps=3, progress=False)
    assert (run / PROPOSAL).read_bytes() != first
    distill_run(run, steps=2, data=tmp_path / "store", progress=False)
    assert (run / PROPOSAL).read_bytes() == first


@pytest.mark.parametrize("positions", [False, True])
def test_actions_after_the_goal_do_not_count_or_are_the_last_position(tmp_path: Path, positions: bool) -> None:
    run = made(tmp_path)
    model, store = load_run(run).model, lewm.Store(tmp_path / "store")
    rng = np.random.default_rng(0)
    frozen = freeze(model, store, np.arange(10), rng)
    proposal = Proposal(ProposalSettings.of(model.config, ""))
    drawn = Pairs(store, frozen, proposal, positions).draw(rng, 500)
    assert set(drawn.away) == set(range(1, 12))  # the reach is 12, and an episode has 12 frames
    assert (drawn.now + drawn.away < frozen.end[drawn.now]).all()
    assert drawn.action.shape == (500, 6)
    for now, away, rows, counts in zip(drawn.now, drawn.away, drawn.action, drawn.counts.tolist(), strict=True):
        assert rows.tolist() == [now + min(k, away - 1) for k in range(6)]
        assert counts == [positions or k < away for k in range(6)]


def test_what_was_made_for_something_else_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    distill_run(run, steps=2, progress=False)
    path, weights = run / PROPOSAL, load_file(run / PROPOSAL)
    with safe_open(path, framework="pt") as file:
        settings = json.loads(file.metadata()["settings"])
    again = rf"; make it anew by `lewm distill {run}`$"

    def refused(told: str, text: str | None = None, tensors: dict[str, torch.Tensor] | None = None) -> None:
        metadata = {} if text is None else {"settings": text}
        save_file(weights if tensors is None else tensors, path, metadata)
        with pytest.raises(ValueError, match=told) as error:
            load_run(run)
        assert "\n" not in str(error.value)

    refused(rf"^{path}: settings: are no JSON{again}")
    refused(rf"^{path}: version=None: must be 1{again}", "[]")
    refused(rf"^{path}: version=2: must be 1{again}", json.dumps(settings | {"version": 2}))
    refused(rf"^{path}: horizon: is missing; ", json.dumps({k: v for k, v in settings.items() if k != "horizon"}))
    refused(rf"^{path}: horizon='3': must be int", json.dumps(settings | {"horizon": "3"}))
    for name, other in (("horizon", 4), ("token_width", 8), ("frame_skip", 1), ("action_size", 3), ("reach", 9)):
        told = rf"^{path}: {name}={other}: is of another run, this one has {settings[name]}{again}"
        refused(told, json.dumps(settings | {name: other}))
    refused(rf"^{path}: mean=absent: ", json.dumps(settings), {k: v for k, v in weights.items() if k != "mean"})
    damaged = weights | {"std": torch.tensor([1.0, torch.nan])}
    refused(rf"^{path}: std: has numbers that are not finite", json.dumps(settings), damaged)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"^{path}: damaged "):
        load_run(run)
    distill_run(run, steps=2, progress=False)  # a broken one is in nobody's way
    changed = {name: tensor + 1 for name, tensor in load_file(run / WEIGHTS).items()}
    save_file(changed, run / WEIGHTS)
    with pytest.raises(ValueError, match=rf"^{path}: weights=.*: is of another run, this one has .*{again}"):
        load_run(run)


def test_runs_and_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    with pytest.raises(ValueError, match=r"^steps=0: must be at least 1; use 2000"):
        distill_run(run, steps=0, progress=False)
    other = moving_dot(tmp_path / "other", discrete=True)
    with pytest.raises(ValueError, match=r"^action_kind=discrete: .*other does not fit .*run, which has continuous; "):
        distill_run(run, data=other.path, progress=False)
    policy = untrained_run(tmp_path / "policy", rival("gcbc"))
    with pytest.raises(ValueError, match=r"^run=.*policy: makes no plans, so there is nothing to propose; "):
        distill_run(policy, progress=False)
    text = (run / CONFIG).read_text(encoding="utf-8").replace(str(tmp_path / "store"), "")
    (run / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^data: not given, and .*run does not say which it was trained on; "):
        distill_run(run, progress=False)
    assert not (run / PROPOSAL).exists()
