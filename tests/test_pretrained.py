"""Models that come with the package: listed, loaded by name, and whole."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import get_args

import pytest
import torch

import lewm
from lewm import pretrained
from lewm.config import EvalProtocol, PlanConfig
from lewm.envs import TASKS
from lewm.envs.collector import task_meta
from lewm.families.family import make_model
from lewm.plan.steps_to_go import StepsToGo
from lewm.run_spec import SPEC
from lewm.train.checkpoint import CONFIG, COST, WEIGHTS
from lewm.train.describe import spec_of_meta
from tiny import tiny, untrained_run

LATER = ("max_change", "absolute", "reached_below", "correction", "proposals")
"""Settings of planning that came after some of the models were measured."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put two models and what is none into the place of those that come with the package."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    untrained_run(tmp_path / "two-room", tiny())
    untrained_run(tmp_path / "push-t", tiny(seed=3), cost=True)
    (tmp_path / "__pycache__").mkdir()
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_model_is_loaded_by_its_name() -> None:
    assert pretrained.pretrained_names() == ("push-t", "two-room")
    loaded = lewm.load_pretrained("push-t", "cpu")
    assert (loaded.config, loaded.data) == (tiny(seed=3), None)
    assert not loaded.model.training
    torch.manual_seed(0)
    for name, weight in make_model(loaded.config).state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert isinstance(loaded.cost, StepsToGo)
    assert not loaded.cost.training
    assert lewm.load_pretrained("two-room", "cpu").cost is None  # it has learnt none


@pytest.mark.parametrize("name", ["two-rom", "..", "__pycache__", ""])
@pytest.mark.usefixtures("folder")
def test_an_unknown_name_lists_the_known(name: str) -> None:
    remedy = r"did you mean two-room\?" if name == "two-rom" else "give one of them"
    with pytest.raises(ValueError, match=rf"^pretrained={name}: must be one of push-t, two-room; {remedy}$"):
        lewm.load_pretrained(name)


def test_a_package_without_models_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"^pretrained=two-room: no model comes with this package; train one"):
        lewm.load_pretrained("two-room")


def test_files_that_are_no_weights_are_refused_and_not_executed(folder: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (folder / "executed",))

    for name, file in (("two-room", WEIGHTS), ("push-t", COST)):
        (folder / name / file).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError, match=rf"{file}: damaged"):
            lewm.load_pretrained(name, "cpu")
    assert not (folder / "executed").exists()


def test_models_that_come_with_the_package_are_whole() -> None:
    for name in pretrained.pretrained_names():
        assert name in TASKS  # episodes to plan are collected by this name
        loaded = lewm.load_pretrained(name, "cpu")
        task = TASKS[name]
        assert (loaded.config.action.kind, loaded.config.action.size) == (task.action_kind, task.action_size)
        assert loaded.config.data.path == loaded.config.train.encoder_from == ""  # no machine's paths
        files = {file.name for file in (pretrained.FOLDER / name).iterdir()}
        lists = {f"starts-{protocol}.json" for protocol in get_args(EvalProtocol)} if name == "push-t" else set()
        assert files == {CONFIG, SPEC, WEIGHTS, COST, "metrics.json"} | lists
        assert loaded.cost is not None
        described = spec_of_meta(task_meta(task, image_size=loaded.config.model.image_size), loaded.config)
        assert dataclasses.replace(described, package_version=loaded.spec.package_version) == loaded.spec
        planning = json.loads((pretrained.FOLDER / name / "metrics.json").read_text(encoding="utf-8"))["planning"]
        plain = dataclasses.asdict(PlanConfig())
        for setting, value in dataclasses.asdict(loaded.config.plan).items():  # it plans as it was measured
            came_later = setting in LATER and setting not in planning
            assert value == (plain[setting] if came_later else planning[setting]), (name, setting)
