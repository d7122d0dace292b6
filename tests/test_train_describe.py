"""What training writes of a run's robot, of every kind of store, and that a run needs nothing else to be told it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lewm
from lewm.config import Config
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.envs import TASKS, collect
from lewm.run_spec import SPEC, CameraSpec, load_spec, save_spec
from lewm.train import resume, train
from lewm.train.checkpoint import load_config, save_config, with_data
from lewm.train.describe import spec_of
from lewm.version import __version__
from tiny import IMAGE, labelled_images, moving_dot, tiny, tiny_article


def robot(path: Path, **changes: Any) -> Store:
    """Write a store of an arm with a gripper; its entries of an action have ranges of their own."""
    values: dict[str, Any] = {
        "task": "so-101", "image_size": IMAGE, "action_kind": "continuous", "action_size": 2,
        "action_names": ("shoulder", "gripper"), "control_mode": "position", "state_names": ("shoulder.pos",),
        "fps": 30.0, "source": "lewm import pick (lerobot)",
    }  # fmt: skip
    meta = StoreMeta(**values | changes)
    rng = np.random.default_rng(0)
    with StoreWriter(path, meta) as writer:
        for number in range(10):
            actions = rng.uniform((-1, 0), (1, 0.5), (16, 2)).astype(np.float32)
            if number == 0:
                actions[0] = (-3, 9)
            frames = rng.integers(0, 256, (16, IMAGE, IMAGE, 3), np.uint8)
            writer.append(frames, np.tile(actions, meta.action_size // 2), actions[:, :1] if meta.state_names else None)
    return Store(path)


def settings(store: Store, **changes: Any) -> Config:
    return with_data(tiny(**changes), store)


def test_a_robot_of_an_import(tmp_path: Path) -> None:
    origin = {
        "format": "lerobot", "name": "pick", "path": "/home/me/pick", "robot_type": "so101", "fit": "pad",
        "crop_box": [1, 2, 30, 40], "cameras": [], "camera_keys": ["observation.images.top"], "frame_skip": 1,
    }  # fmt: skip
    store = robot(tmp_path / "store", origin=origin)
    spec = spec_of(store, settings(store, data__frame_skip=3, data__split_seed=4))
    assert (spec.task, spec.action_kind, spec.action_size) == ("so-101", "continuous", 2)
    assert (spec.action_names, spec.control_mode) == (("shoulder", "gripper"), "position")
    train_rows = np.concatenate([store.actions[store.episode(k)] for k in split(store, seed=4)])
    np.testing.assert_array_equal(np.array([spec.low, spec.high]), [train_rows.min(0), train_rows.max(0)])
    assert len(spec.max_change) == 2
    assert (spec.fps, spec.steps_in_row, spec.frame_skip, spec.model_fps) == (30, 1, 3, 10)
    assert (spec.state_names, spec.image_size) == (("shoulder.pos",), IMAGE)
    assert spec.cameras == (
        CameraSpec(
            name="observation.images.top", fit="pad", crop_box=(1, 2, 30, 40), left=0, top=0, width=IMAGE, height=IMAGE
        ),
    )
    assert (spec.held_out, spec.split_seed) == (0.2, 4)
    assert spec.origin == {"format": "lerobot", "name": "pick", "robot_type": "so101"}
    assert spec.package_version == __version__
    assert "/home/me" not in json.dumps(dataclasses.asdict(spec))


def split(store: Store, seed: int) -> list[int]:
    return lewm.data.split_episodes(store.num_episodes, held_out=0.2, seed=seed)[0].tolist()  # pyright: ignore


def test_rows_of_several_environment_steps(tmp_path: Path) -> None:
    names = ("a+0", "g+0", "a+1", "g+1", "a+2", "g+2")
    store = robot(tmp_path / "store", action_size=6, action_names=names, fps=10.0, origin={"frame_skip": 3})
    spec = spec_of(store, settings(store, data__frame_skip=2))
    assert (spec.fps, spec.steps_in_row, spec.steps_in_model_step, spec.model_fps) == (30, 3, 6, 5)


def test_cameras_in_the_order_of_the_tiles(tmp_path: Path) -> None:
    origin = {"fit": "crop", "cameras": ["wrist", "top"], "tiles": [[0, 0, 32, 16], [0, 16, 32, 16]]}
    store = robot(tmp_path / "store", origin=origin)
    cameras = spec_of(store, settings(store)).cameras
    assert [(one.name, one.fit, one.left, one.top, one.width, one.height) for one in cameras] == [
        ("wrist", "crop", 0, 0, 32, 16), ("top", "crop", 0, 16, 32, 16),
    ]  # fmt: skip


def test_a_store_that_says_little(tmp_path: Path) -> None:
    store = robot(tmp_path / "store", action_names=(), control_mode="unknown", fps=None, source="")
    spec = spec_of(store, settings(store))
    assert (spec.action_names, spec.control_mode, spec.fps, spec.model_fps) == ((), "unknown", None, None)
    assert spec.cameras == (CameraSpec(name="", fit=None, crop_box=None, left=0, top=0, width=IMAGE, height=IMAGE),)
    assert spec.origin == {}


def test_a_name_is_found_in_the_path_that_an_earlier_version_wrote(tmp_path: Path) -> None:
    store = robot(tmp_path / "store", origin={"format": "hdf5", "path": "/home/me/pick.h5"})
    assert spec_of(store, settings(store)).origin == {"format": "hdf5", "name": "pick.h5"}


def test_settings_of_a_version_that_measured_no_range(tmp_path: Path) -> None:
    store = robot(tmp_path / "store")
    known = settings(store)
    bare = dataclasses.replace(known, action=dataclasses.replace(known.action, low=(), high=(), max_change=()))
    assert spec_of(store, bare) == spec_of(store, known)


@pytest.mark.parametrize("name", ["two-room", "two-room-discrete", "arm"])
def test_a_known_task_has_bounds_of_its_own(tmp_path: Path, name: str) -> None:
    store = collect(name, tmp_path / "store", episodes=3, image_size=IMAGE, episode_length=6, workers=1, progress=False)
    spec, task = spec_of(store, settings(store)), TASKS[name]
    if task.action_kind == "discrete":
        assert (spec.low, spec.high, spec.action_names, spec.action_size) == ((), (), (), 5)
    else:
        bounds = {"two-room": (1.0, 1.0), "arm": (2.6, 2.4)}[name]
        assert (spec.low, spec.high) == (tuple(-bound for bound in bounds), bounds)
        assert spec.action_names == task.action_names
    assert (spec.task, spec.fps, spec.state_names) == (name, 10.0, task.state_names)
    assert spec.origin == {"format": "collect", "name": name}


@pytest.mark.parametrize("changes", [{"action_size": 6, "action_names": ()}, {"state_names": ("shoulder.pos",)}])
def test_another_robot_of_the_same_name_is_no_known_task(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = robot(tmp_path / "store", **{"task": "arm", "state_names": ()} | changes)
    assert spec_of(store, settings(store)).high[:2] != (2.6, 2.4)


def test_images(tmp_path: Path) -> None:
    store = labelled_images(tmp_path / "store")
    spec = spec_of(store, with_data(tiny_article(), store))
    assert (spec.action_kind, spec.action_size, spec.low, spec.state_names) == ("none", 0, (), ("label",))


def test_training_writes_it_and_a_loaded_run_has_it(tmp_path: Path) -> None:
    store, run = moving_dot(tmp_path / "store"), tmp_path / "run"
    train(tiny(train__steps=2), store.path, run, progress=False)
    spec = load_spec(run)
    assert spec == spec_of(store, load_config(run)) == lewm.load_run(run).spec
    assert (spec.task, spec.low, spec.high) == ("dot", (-1.0, -1.0), (1.0, 1.0))


def test_going_on_writes_what_an_earlier_version_did_not(tmp_path: Path) -> None:
    store, run = moving_dot(tmp_path / "store"), tmp_path / "run"
    train(tiny(train__steps=2), store.path, run, progress=False)
    spec = load_spec(run)
    (run / SPEC).unlink()
    with pytest.raises(ValueError, match=r"has no spec\.json \(made by an older version\); `lewm train --resume "):
        lewm.load_run(run)
    store.path.rename(tmp_path / "moved")
    resume(run, data=tmp_path / "moved", progress=False)
    assert load_spec(run) == spec
    tightened = dataclasses.replace(spec, low=(-0.5, -0.5))  # a user's own bounds stay
    save_spec(run, tightened)
    resume(run, progress=False)
    assert load_spec(run) == tightened


def test_a_new_run_does_not_take_over_what_lies_there(tmp_path: Path) -> None:
    store, run = moving_dot(tmp_path / "store"), tmp_path / "run"
    train(tiny(train__steps=2), store.path, run, progress=False)
    other = dataclasses.replace(load_spec(run), task="other")
    (run / "config.json").unlink()
    save_spec(run, other)
    train(tiny(train__steps=2, seed=1), store.path, run, progress=False)
    assert load_spec(run).task == "dot"


def test_settings_and_description_of_two_runs_are_refused(tmp_path: Path) -> None:
    store, run = moving_dot(tmp_path / "store"), tmp_path / "run"
    train(tiny(train__steps=2), store.path, run, progress=False)
    config = load_config(run)
    save_config(run, dataclasses.replace(config, data=dataclasses.replace(config.data, held_out=0.5)))
    told = rf"^{run / SPEC}: held_out=0\.2: config\.json has 0\.5; restore the file of this run$"
    with pytest.raises(ValueError, match=told):
        lewm.load_run(run)
