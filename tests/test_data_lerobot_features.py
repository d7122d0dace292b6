"""Actions, states and cameras of LeRobot data sets: which features they are, and what their entries are called."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lerobot_edit import (
    ANY,
    SIDE,
    STARTS,
    TOP,
    edit_info,
    import_to,
)
from lerobot_fixture import (
    TASKS,
    actions_of,
    write_lerobot,
)
from lewm.data.importers.lerobot import LeRobotSource
from lewm.data.importing import ImportOptions


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y", "z"], ("x", "y", "z")),
        ({"motors": ["x", "y", "z"]}, ("x", "y", "z")),
        ({"arm": ["x", "y"], "hand": {"grip": ["z"]}}, ("x", "y", "z")),
        ({"z": 2, "x": 0, "y": 1}, ("x", "y", "z")),
        ([["x", "y"], ["z"]], ("x", "y", "z")),
        (None, ()),
        (["dim"], ()),  # one name for all
        ([[[[[["x", "y", "z"]]]]]], ()),
        ([1, 2, 3], ()),
        (["x", "y", {"grip": None}], ()),
    ],
)
def test_names_of_actions(tmp_path: Path, names: object, expected: tuple[str, ...]) -> None:
    write_lerobot(tmp_path / "data", cameras={TOP: "image"}, names=names)
    assert LeRobotSource(tmp_path / "data", ANY).info.action_names == expected


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_one_number_as_the_action_and_no_states(tmp_path: Path, version: str) -> None:
    root = tmp_path / "data"
    write_lerobot(root, version, cameras={TOP: "image"}, action_size=1, states=False, task_column="task")
    store = import_to(root, tmp_path / "store")
    np.testing.assert_array_equal(store.actions, actions_of(range(STARTS[-1]), 1))
    assert store.states is None
    assert store.meta.origin["tasks"] == list(TASKS)
    assert store.meta.origin["statistics"]["action"]["max"] == [STARTS[-1] - 1]


def test_statistics_and_texts_are_bounded(lerobot_v2: Path) -> None:
    (lerobot_v2 / "meta" / "episodes_stats.jsonl").unlink()
    stats = {"action": {"mean": [0.5] * 3, "std": [float("nan")] * 3, "min": ["a"] * 3, "max": [1.0] * 4}}
    (lerobot_v2 / "meta" / "stats.json").write_text(json.dumps(stats))  # as in v2.0
    lines = [json.dumps({"task_index": i, "task": f"{i} " * 10_000}) for i in range(500)]
    (lerobot_v2 / "meta" / "tasks.jsonl").write_text("\n".join(lines))
    origin = LeRobotSource(lerobot_v2, ANY).info.origin
    assert origin["statistics"]["action"] == {"mean": [0.5] * 3}
    assert origin["num_tasks"] == 500
    assert len(json.dumps(dict(origin))) < 200_000


def test_depth_maps_are_no_cameras(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_lerobot(root, cameras={TOP: "image", SIDE: "image"})
    edit_info(root, lambda info: info["features"][SIDE].update(info={"video.is_depth_map": True}))
    assert LeRobotSource(root, ANY).info.origin["camera_keys"] == [TOP]


def test_wrong_cameras(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_lerobot(root, cameras={TOP: "image", SIDE: "image", "observation.depth.top": "image"}, lengths=(2,))

    def open_with(*cameras: str) -> None:
        LeRobotSource(root, ImportOptions(cameras=cameras))

    with pytest.raises(
        ValueError, match=rf"cameras: there are 3; name one or more of {TOP}, {SIDE}, observation.depth"
    ):
        open_with()
    with pytest.raises(ValueError, match=rf"cameras=front: is no camera of .*; name one or more of {TOP}, {SIDE}"):
        open_with("front")
    with pytest.raises(ValueError, match="cameras=top: is several cameras"):
        open_with("top")
    with pytest.raises(ValueError, match=r"cameras=side, .*: a camera is named twice"):
        open_with("side", SIDE)
    edit_info(root, lambda info: [info["features"].pop(key) for key in (TOP, SIDE, "observation.depth.top")])
    with pytest.raises(ValueError, match="has no camera; "):
        open_with()


def write_features(root: Path, sizes: dict[str, int], names: dict[str, list[str]], camera: str = TOP) -> None:
    """Write a set with features of these sizes, whose entries are those of one action, one after the other."""
    write_lerobot(root, "v2.1", cameras={camera: "image"}, action_size=sum(sizes.values()), states=False)
    declared = {name: {"dtype": "float32", "shape": [size], "names": names.get(name)} for name, size in sizes.items()}
    edit_info(root, lambda info: info["features"].pop("action"))
    edit_info(root, lambda info: info["features"].update(declared))
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        values = np.array(table["action"].to_pylist()).reshape(len(table), -1)
        table = table.remove_column(table.column_names.index("action"))
        for name in sorted(sizes, reverse=True):  # the table has another order
            part = values[:, starts[name] : starts[name] + sizes[name]]
            table = table.append_column(name, pa.array(part[:, 0] if sizes[name] == 1 else part.tolist()))
        pq.write_table(table, path)


@pytest.mark.parametrize(
    ("sizes", "action", "state", "action_names"),
    [
        ({"action": 3, "observation.state": 2}, ["action"], ["observation.state"], ()),
        ({"actions": 3, "state": 2}, ["actions"], ["state"], ()),
        ({"action.arm": 2, "action.gripper": 1, "observation.state": 2}, ["action.arm", "action.gripper"],
         ["observation.state"], ("arm[0]", "arm[1]", "gripper")),
        ({"action.right.arm": 1, "action.left.arm": 2}, ["action.right.arm", "action.left.arm"], [],
         ("right.arm", "left.arm[0]", "left.arm[1]")),
        ({"actions.base": 1, "actions.arm": 2, "state": 2}, ["actions.base", "actions.arm"], ["state"],
         ("base", "arm[0]", "arm[1]")),
        ({"action_arm": 2, "action_hand": 1}, ["action_arm", "action_hand"], [],
         ("action_arm[0]", "action_arm[1]", "action_hand")),
        ({"action": 2, "observation.state.qpos": 2, "observation.state.base": 1}, ["action"],
         ["observation.state.qpos", "observation.state.base"], ()),
        ({"action": 2, "states": 1, "next.reward": 1}, ["action"], ["states"], ()),
    ],
)  # fmt: skip
def test_features_that_are_found(
    tmp_path: Path, sizes: dict[str, int], action: list[str], state: list[str], action_names: tuple[str, ...]
) -> None:
    write_features(tmp_path / "data", sizes, {}, "image")
    store = import_to(tmp_path / "data", tmp_path / "store")
    assert (store.meta.origin["action_keys"], store.meta.origin["state_keys"]) == (action, state)
    assert store.meta.action_names == action_names
    values = actions_of(range(STARTS[-1]), sum(sizes.values()))
    owner = [name for name, size in sizes.items() for _ in range(size)]
    np.testing.assert_array_equal(
        store.actions, values[:, [k for name in action for k, other in enumerate(owner) if other == name]]
    )
    columns = [k for name in state for k, other in enumerate(owner) if other == name]
    assert (store.states is None) == (not state)
    if store.states is not None:
        np.testing.assert_array_equal(store.states, values[:, columns])
    if "observation.state.qpos" in state:
        assert store.meta.state_names == ("qpos[0]", "qpos[1]", "base")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("action", "actions"), "several features may be it; choose one of: --action action | --action actions"),
        (("action", "action.arm", "action.hand"), "choose one of: --action action | --action action.arm action.hand"),
        (("action.arm", "actions.arm"), "choose one of: --action action.arm | --action actions.arm"),
        (("action", "state", "observation.state"), "choose one of: --state observation.state | --state state"),
        (("action", "state.x", "observation.state.x"), "one of: --state observation.state.x | --state state.x"),
        (("act", "state"), "no action among the columns of numbers act, state; name some with --action"),
        (tuple(f"action{'s' * (k > 50)}.joint_{k:040d}" for k in range(100)), "choose one of: --action action"),
    ],
)
def test_features_of_which_one_must_be_named(tmp_path: Path, names: tuple[str, ...], match: str) -> None:
    write_features(tmp_path / "data", dict.fromkeys(names, 1), {})
    with pytest.raises(ValueError, match=re.escape(match)) as error:
        LeRobotSource(tmp_path / "data", ANY)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_features_are_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    sizes = {"action": 2, "action.arm": 2, "action.hand": 1, "velocity": 1, "observation.state": 1}
    write_features(root, sizes, {"action.arm": ["x", "y"], "action.hand": ["grip"]})
    values = actions_of(range(STARTS[1], STARTS[2]), 7)
    source = LeRobotSource(root, ImportOptions(action=("action",)))
    np.testing.assert_array_equal(source.episode(1).actions, values[:, :2])
    source = LeRobotSource(
        root, ImportOptions(action=("velocity", "action.arm"), state=("action", "observation.state"))
    )
    np.testing.assert_array_equal(source.episode(1).actions, values[:, [5, 2, 3]])
    assert source.info.action_names == ("velocity", "action.arm.x", "action.arm.y")
    assert source.info.state_names == ("action[0]", "action[1]", "observation.state")
    states = source.episode(1).states
    assert states is not None
    np.testing.assert_array_equal(states, values[:, [0, 1, 6]])
    for name in ("action.*", "action."):  # all that begin with it
        source = LeRobotSource(root, ImportOptions(action=(name,)))
        np.testing.assert_array_equal(source.episode(1).actions, values[:, 2:5])
        assert source.info.action_names == ("arm.x", "arm.y", "hand")
    with pytest.raises(ValueError, match=r"^action=action\.\*, action\.arm: a feature is named twice; name each once$"):
        LeRobotSource(root, ImportOptions(action=("action.*", "action.arm")))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (ImportOptions(action=("torque",)), "action=torque: no such column of numbers; name some of action, "),
        (ImportOptions(state=("pose",)), "state=pose: no such column of numbers"),
        (ImportOptions(state=("timestamp",)), "state=timestamp: no such column of numbers"),
        (ImportOptions(action=(TOP,)), f"action={TOP}: no such column of numbers"),
    ],
)
def test_features_that_cannot_be_named(lerobot_images: Path, options: ImportOptions, match: str) -> None:
    with pytest.raises(ValueError, match=re.escape(match)):
        LeRobotSource(lerobot_images, options)


def with_actions(root: Path, dtype: str | None, values: list[Any], kind: pa.DataType, shape: list[int]) -> None:
    """Write a set that has these actions, again and again."""
    write_lerobot(root, cameras={TOP: "image"}, action_size=1)
    edit_info(root, lambda info: info["features"]["action"].update(dtype=dtype, shape=shape))
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        column = [values[number % len(values)] for number in table["index"].to_pylist()]
        pq.write_table(table.set_column(table.column_names.index("action"), "action", pa.array(column, kind)), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "kind", "shape"),
    [
        *((name, getattr(pa, name)(), [1]) for name in ("int8", "int16", "int32", "int64", "uint8", "uint64")),
        ("int64", pa.int64(), []),
        ("int64", pa.list_(pa.int64()), [1]),
        ("int64", pa.list_(pa.int64(), 1), [1]),
        ("int64", pa.float32(), [1]),
        ("int64", pa.list_(pa.float64()), [1]),
        (None, pa.int32(), [1]),
    ],
)
def test_whole_numbers_are_discrete_actions(
    tmp_path: Path, dtype: str | None, kind: pa.DataType, shape: list[int]
) -> None:
    values = [[n] if pa.types.is_nested(kind) else n for n in (0, 3, 1, 2)]
    with_actions(tmp_path / "data", dtype, values, kind, shape)
    store = import_to(tmp_path / "data", tmp_path / "store")
    assert (store.meta.action_kind, store.meta.action_size, store.meta.action_names) == ("discrete", 4, ())
    assert store.actions.dtype == np.int64
    assert store.actions.tolist() == [(0, 3, 1, 2)[n % 4] for n in range(STARTS[-1])]
    assert store.meta.origin["notes"] == []


def test_truth_values_are_two_discrete_actions(tmp_path: Path) -> None:
    with_actions(tmp_path / "data", "bool", [False, True, True], pa.bool_(), [1])
    store = import_to(tmp_path / "data", tmp_path / "store")
    assert (store.meta.action_kind, store.meta.action_size) == ("discrete", 2)
    assert store.actions.tolist() == [int(n % 3 > 0) for n in range(STARTS[-1])]


@pytest.mark.parametrize(
    ("dtype", "kind", "values", "noted"),
    [
        ("int64", pa.int64(), [0, -3, 2], "has -3 to 2"),
        ("int32", pa.int32(), [0, 70_000], "has 0 to 70000"),
        ("int64", pa.float32(), [0.0, 0.5, 1.0], "has 0 to 1"),
        ("float32", pa.float32(), [0.0, 1.0], None),
        ("float32", pa.int64(), [0, 1], None),
    ],
)
def test_numbers_that_are_no_classes_are_continuous(
    tmp_path: Path, dtype: str, kind: pa.DataType, values: list[Any], noted: str | None
) -> None:
    with_actions(tmp_path / "data", dtype, values, kind, [1])
    store = import_to(tmp_path / "data", tmp_path / "store")
    assert (store.meta.action_kind, store.meta.action_size) == ("continuous", 1)
    assert store.actions[:, 0].tolist() == [values[n % len(values)] for n in range(STARTS[-1])]
    notes = store.meta.origin["notes"]
    assert len(notes) == (noted is not None)
    assert noted is None or noted in notes[0]


def test_cameras_without_files(lerobot_v2: Path, lerobot_v3: Path, lerobot_images: Path) -> None:
    for root, kind in ((lerobot_v2, "video"), (lerobot_v3, "video"), (lerobot_images, "image")):
        wrist = {"dtype": kind, "shape": [64, 64, 3], "names": None}
        edit_info(root, lambda info, wrist=wrist: info["features"].update({SIDE: wrist}))
        info = LeRobotSource(root, ANY).info
        assert info.origin["camera_keys"] == [TOP]
        assert info.origin["notes"] == [f"cameras without files are left out: {SIDE}"]
        with pytest.raises(ValueError, match=rf"^cameras=side: has no files; name one or more of {TOP}$"):
            LeRobotSource(root, ImportOptions(cameras=("side",)))
        edit_info(root, lambda info: info["features"].pop(TOP))
        with pytest.raises(ValueError, match=rf"its cameras {SIDE} have no files; copy the images or videos too"):
            LeRobotSource(root, ANY)
