"""The controller of a robot's computer, with graphs that PyTorch runs in place of ONNX Runtime: quick, and any family.

`tests/test_deploy_export.py` has the graphs that are written.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deploy_world import World
from lewm.config import ActionConfig, Config
from lewm.deploy import consistent, searching
from lewm.deploy import graphs as graphs_module
from lewm.deploy import runtime as runtime_module
from lewm.deploy.runtime import Controller
from lewm.families.presets import preset
from lewm.plan import LatentController
from lewm.plan import search as search_module
from tiny import override, rival, tiny, tiny_article

POSITIONS = ActionConfig(
    kind="continuous", size=2, low=(-1.0, -2.0), high=(1.0, 2.0), control_mode="position", max_change=(0.1, 0.2)
)
CASES: dict[str, Config] = {
    "continuous": tiny(),
    "held": tiny(data__frame_skip=2, plan__hold=True),
    "sub-actions": tiny(data__frame_skip=2, plan__hold=False),
    "discrete": tiny(action__kind="discrete", action__size=4, data__frame_skip=2),
    "positions": replace(tiny(data__frame_skip=2), action=POSITIONS),
    "history": tiny(model__history=3),
    "two at once": tiny(plan__execute=2, model__history=2),
    "mppi": tiny(plan__planner="mppi", plan__over="sum"),
    "learnt cost": tiny(plan__cost="steps_to_go", train__cost_steps=2),
    "tokens": tiny_article(),
    "published": override(
        preset("published-small"),
        {"model.depth": 1, "model.predictor_depth": 1, "model.image_size": 28, "plan.execute": 1, "data.frame_skip": 1},
    ),
    "a rival": rival("tdmpc2"),
    "from a proposal": tiny(data__frame_skip=2, plan__proposals=4),
    "from a proposal, discrete": tiny(action__kind="discrete", action__size=4, plan__proposals=4),
    "from a proposal of positions": replace(tiny(data__frame_skip=2, plan__proposals=4), action=POSITIONS),
    "mppi from a proposal": tiny(plan__planner="mppi", plan__proposals=1, model__history=2),
    "a proposal": tiny(plan__planner="proposal", plan__horizon=2),
    "a discrete proposal": tiny(action__kind="discrete", action__size=4, plan__planner="proposal"),
    "a proposal of positions": replace(tiny(plan__planner="proposal", plan__hold=True), action=POSITIONS),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_is_consistent(name: str) -> None:
    for states in (False, True):
        world = World(CASES[name], states=states, surprise={"limit": 1.0, "cost_limit": 1.0})
        consistent.require_consistent(world.manifest, world.spec, "manifest.json")
        assert set(consistent.needed(world.manifest)) == world.graphs.keys() - {"matrix", "read"}  # which nobody needs


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        (
            "sizes",
            {"batch": 10**12},
            r"graphs.encode.inputs: frame=uint8\(1, 32, 32, 3\): must be uint8\(10+, 32, 32, 3\)",
        ),
        ("sizes", {"batch": 0}, "sizes: must be at least 1"),
        ("sizes", {"history": 10**11}, "sizes.history: must have graphs for each count of frames"),
        ("sizes", {"width": 17}, "graphs.encode.outputs: tokens=float32"),
        ("space", {"kind": "discrete"}, "space.kind: must be that of spec.json"),
        ("space", {"size": 3}, "space.size=3: must be 2 or 2"),
        ("space", {"relative": True}, "graphs.improve.inputs: low=float32"),
        ("plan", {"execute": 9}, "plan.execute: must be 1 to plan.horizon"),
        ("plan", {"candidates": 9}, "graphs.improve.inputs: noise=float32"),
        ("plan", {"planner": "proposal"}, "graphs: has no propose"),
        ("", {"surprise": {}}, "surprise: must have finite limits"),
        ("graphs", {"judge": None}, "graphs: has no judge"),
        ("graphs", {"evil": "judge"}, "graphs: 'evil' is not known"),
        ("graphs", {"judge": "encode"}, "graphs.judge.inputs: 'frame' is not known"),
    ],
)
def test_parts_of_a_manifest_that_do_not_fit_are_refused(part: str, changes: dict[str, Any], told: str) -> None:
    world = World(CASES["continuous"], surprise={"limit": 1.0, "cost_limit": 1.0})
    if part == "graphs":
        graphs = world.manifest.graphs | {name: world.manifest.graphs.get(other) for name, other in changes.items()}
        changes = {"graphs": {name: graph for name, graph in graphs.items() if graph is not None}}
    elif part:
        changes = {part: replace(getattr(world.manifest, part), **changes)}
    with pytest.raises(ValueError, match=rf"^manifest.json: {told}.*; export the run again, or copy") as error:
        consistent.require_consistent(replace(world.manifest, **changes), world.spec, "manifest.json")
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize("name", CASES)
def test_it_does_what_the_controller_in_pytorch_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(CASES[name])
    config, execute = world.config, world.config.plan.execute
    theirs = world.controller(seed=3)
    rng = np.random.default_rng(3)

    def drawn(*_: Any, **__: Any) -> torch.Tensor:
        return torch.from_numpy(searching.draw(world.manifest, rng))

    monkeypatch.setattr(search_module, "draw", drawn)
    parts = {"cost": world.learnt, "proposal": world.proposal}
    ours = LatentController(world.model, config, world.space, **parts, batch=1, generator=torch.Generator())
    ours.reset(world.frames[:1], command=world.command)
    theirs.set_goal(world.frames[0], command=world.command)
    for look in range(1, 5):
        first, many = world.frames[look], min(execute, config.model.history)
        frames = first[None] if look == 1 or many == 1 else world.frames[None, look : look + many]
        expected = ours.act(frames)[0]
        given = first if frames.ndim == 4 else frames
        np.testing.assert_allclose(theirs.act(given), expected, rtol=1e-4, atol=1e-5, err_msg=f"look {look}")
    assert not theirs.events.counts


def test_what_is_written_twice_is_the_same() -> None:
    assert consistent.FORBIDDEN == graphs_module.FORBIDDEN
    assert runtime_module.PENALTY == graphs_module.PENALTY
    assert searching.WARM_UNIFORM == search_module.WARM_UNIFORM


def test_two_robots_at_once() -> None:
    world = World(CASES["continuous"], batch=2)
    controller = world.controller()
    controller.set_goal(world.frames[:2])
    assert controller.act(world.frames[2:4]).shape == (2, 1, 2)
    with pytest.raises(ValueError, match="must be pictures of 2 environments"):
        controller.act(world.frames[0])


@pytest.mark.parametrize("execute", [1, 3])
def test_a_look_that_was_not_trusted_disturbs_no_loop(execute: int) -> None:
    """The loop goes on as documented: it gives the frames of the fallback's steps, and asks what is reached."""
    world = World(tiny(plan__execute=execute, plan__cost="tokens", plan__reached_below=1e9, model__history=2))
    controller, many = world.controller(), min(execute, 2)
    controller.set_goal(world.frames[0])
    controller.act(world.frames[1])
    assert controller.reached.tolist() == [True]
    encode, calls = world.sessions["encode"], 0

    def failing(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        nonlocal calls
        calls += 1
        out = encode(given)
        out["tokens"].fill(np.nan if calls == 1 else 1.0)
        return out

    world.sessions["encode"] = failing  # pyright: ignore[reportArgumentType]
    steps = world.frames[None, 2 : 2 + many]
    controller.act(steps)
    assert controller.events.counts == {"not finite": 1}
    assert controller.reached.tolist() == [False]
    controller.act(steps)
    assert controller.events.counts == {"not finite": 1}
    assert controller.reached.tolist() == [True]
    controller.restart()
    with pytest.raises(ValueError, match="reached: no frame was looked at in this episode; call set_goal and act"):
        _ = controller.reached


@pytest.mark.parametrize(
    ("goal", "low", "high"),
    [
        ({"x": 0.5}, [0.5, -np.inf], [0.5, np.inf]),
        ({"y": (None, 2.0), "x": (0.0, 1.0)}, [0.0, -np.inf], [1.0, 2.0]),
    ],
)
def test_goals_of_the_state(goal: dict[str, Any], low: list[float], high: list[float]) -> None:
    world = World(CASES["continuous"], states=True)
    controller = world.controller()
    controller.set_goal(goal)
    assert controller._goal is not None
    np.testing.assert_array_equal(controller._goal["goal_low"], [low])
    np.testing.assert_array_equal(controller._goal["goal_high"], [high])
    controller.act(world.frames[1])
    assert controller.last_look is not None
    read = world.graphs["judge_state"]
    tokens = torch.from_numpy(controller._memory.states[:, -1])
    cost = read({"tokens": tokens, **{k: torch.from_numpy(v) for k, v in controller._goal.items()}})["cost"]
    assert bool(controller.reached[0]) == bool(cost[0] <= 0)


def test_it_reads_the_state_from_what_it_imagines() -> None:
    world = World(CASES["continuous"], states=True)
    controller = world.controller()
    controller.set_goal(world.frames[0])
    controller.act(world.frames[1])
    assert controller.last_look is not None
    imagined = controller.last_look.imagined
    assert imagined.shape == (1, 3, *controller._memory.states.shape[2:])
    read = controller.read(imagined)
    assert list(read) == ["x", "y"]
    reader = world.graphs["read"].module
    np.testing.assert_array_equal(np.stack(list(read.values()), -1), reader(torch.from_numpy(imagined)).numpy())
    assert World(CASES["continuous"]).controller().read(imagined) == {}


def test_an_episode_begins_anew_with_the_same_goal() -> None:
    world = World(CASES["positions"])
    controller = world.controller()
    controller.set_goal(world.frames[0], command=[0.0, 0.5])
    first = controller.act(world.frames[1])
    assert controller.picture is not None
    with pytest.raises(ValueError, match="command=None: these actions are positions"):
        controller.restart()
    controller.restart(command=[0.0, 0.5])
    assert controller.picture is None
    controller.draw_anew(0)
    np.testing.assert_array_equal(controller.act(world.frames[1]), first)


def test_plans_keep_out_of_boxes_where_they_can() -> None:
    world = World(CASES["continuous"], states=True)
    free, kept = world.controller(), world.controller(keep_out=[{"x": (None, None), "y": (-1e9, 1e9)}])
    for controller in (free, kept):
        controller.set_goal(world.frames[0])
    free.act(world.frames[1])
    assert not free.events.counts
    kept.act(world.frames[1])  # every place is forbidden
    assert kept.events.counts == {"forbidden": 1}
    with pytest.raises(ValueError, match="keep_out: got 5 boxes, must be 4 at most; join some"):
        world.controller(keep_out=[{"x": 0.0}] * 5)
    with pytest.raises(ValueError, match=r"keep_out=\{'x': 0.0\}: the run's data has no states; give a picture"):
        World(CASES["continuous"]).controller(keep_out=[{"x": 0.0}])


@pytest.mark.parametrize("name", ["continuous", "held", "sub-actions", "positions"])
def test_limits_are_obeyed(name: str) -> None:
    world = World(CASES[name])
    change = np.array([0.03, 0.05], np.float32)
    controller = world.controller(low=[-0.2, -0.1], high=0.3, max_change=change)
    controller.set_goal(world.frames[0], command=[0.0, 0.0])
    last = np.zeros(2, np.float32)
    for frame in world.frames[1:9]:
        actions = controller.act(frame)
        assert (actions >= np.array([-0.2, -0.1]) - 1e-6).all()
        assert (actions <= 0.3 + 1e-6).all()
        assert (np.abs(np.diff(np.concatenate((last[None], actions)), axis=0)) <= change + 1e-6).all()
        last = actions[-1]
    assert np.abs(last).max() > 0.03
    with pytest.raises(ValueError, match=r"max_change=\[0.0, 0.0\]: must be positive; leave it out for no limit"):
        world.controller(max_change=0.0)
    with pytest.raises(ValueError, match=r"low=\[1.0, 1.0\]: must be below high="):
        world.controller(low=1.0, high=0.0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        *(({"deadline": value}, f"deadline={value}: must be seconds, more than 0; ") for value in (0, -1, "a", np.nan)),
        *(({"delay": value}, f"delay={value}: must be seconds, at least 0; ") for value in (-1, "a", np.nan, None)),
        *(({"seed": value}, f"seed={value}: must be a whole number, at least 0; ") for value in (-1, "a", 1.5)),
        ({"fallback": None}, "fallback=None: must be stop, hold or a function; "),
        ({"low": "a"}, "low=a: must be numbers; "),
        ({"high": [1, 2, 3]}, r"high=\[1.0, 2.0, 3.0\]: must be 2 finite numbers, or one for all; "),
        ({"low": 1e300}, "low=inf: must be 2 finite numbers, or one for all; "),
        ({"max_change": np.nan}, "max_change=nan: must be 2 finite numbers, or one for all; "),
        ({"keep_out": {"x": 1.0}}, r"keep_out=\{'x': 1.0\}: must be a list of boxes; "),
        ({"keep_out": [None]}, "keep_out=None: must be ranges by name; "),
        ({"keep_out": [{"z": 1.0}]}, "keep_out=z: is no variable that can be read; "),
        ({"keep_out": [{"x": (None, None)}]}, r"keep_out=\{'x': \(None, None\)\}: is open at every end; "),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], told: str) -> None:
    world = World(CASES["continuous"], states=True)
    with pytest.raises(ValueError, match=told) as error:
        world.controller(**settings)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_a_deadline_is_checked_whenever_it_is_set() -> None:
    controller = World(CASES["continuous"]).controller()
    controller.deadline = 0.5
    for wrong in (0, np.nan, np.inf, "a", 10**400):
        with pytest.raises(ValueError, match=r"deadline=.*: must be seconds, more than 0; leave it out for no limit"):
            controller.deadline = wrong  # pyright: ignore[reportAttributeAccessIssue]
    assert controller.deadline == 0.5


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        ({"x": np.inf}, "goal=x: has no value between inf and inf; "),
        ({"x": np.nan}, "goal=x: has no value between nan and nan; "),
        ({"x": 1e300}, "goal=x: is too large for a float32; "),
        ({"x": 10**400}, "goal=x: must be a number or a pair of them; "),
        ({"x": "12"}, "goal=x: must be a number or a pair of them; "),
        ({"x": (1.0, 2.0, 3.0)}, "goal=x: must be a number or a pair of them; "),
        ({"x": None}, "goal={'x': None}: is open at every end; "),
    ],
)
def test_goals_that_are_none_are_refused(goal: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        World(CASES["continuous"], states=True).controller().set_goal(goal)


# What goes wrong on a robot.


def looked(world: World, controller: Controller, count: int = 3) -> list[NDArray[Any]]:
    controller.set_goal(world.frames[0], command=world.command)
    return [controller.act(frame) for frame in world.frames[1 : 1 + count]]


def broken(world: World, name: str, change: Callable[[dict[str, NDArray[Any]]], Any]) -> None:
    """Let a graph give something else."""
    before = world.sessions[name]

    def session(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        out = before(given)
        change(out)
        return out

    world.sessions[name] = session  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("graph", "output"),
    [("encode", "tokens"), ("improve", "next_best"), ("finish", "actions"), ("finish", "cost"), ("finish", "imagined")],
)
def test_numbers_that_are_not_finite_never_reach_the_robot(graph: str, output: str) -> None:
    world = World(CASES["continuous"])
    controller = world.controller()
    looked(world, controller, 1)
    broken(world, graph, lambda out: out[output].fill(np.nan))
    for frame in world.frames[2:5]:
        actions = controller.act(frame)
        assert np.isfinite(actions).all()
        assert (actions == 0).all() or output == "next_best"
    assert controller.events.counts.keys() <= {"not finite"}
    assert output == "next_best" or controller.events.counts["not finite"] == 3


def test_a_runtime_that_fails_is_answered_by_the_fallback() -> None:
    world = World(CASES["continuous"])
    controller = world.controller(fallback=lambda controller: [0.25, -0.5])
    looked(world, controller, 1)

    def fail(out: dict[str, NDArray[Any]]) -> None:
        raise RuntimeError("no memory")

    broken(world, "finish", fail)
    np.testing.assert_array_equal(controller.act(world.frames[2]), [[0.25, -0.5]])
    assert [event.detail for event in controller.events.newest] == ["RuntimeError: no memory"]


@pytest.mark.parametrize(
    ("fallback", "expected"),
    [("stop", [0.0, 0.0]), ("hold", "last"), (lambda _: [0.1, 0.2], [0.1, 0.2]), (lambda _: 1 / 0, [0.0, 0.0])],
    ids=["stop", "hold", "a function", "a function that fails"],
)
def test_fallbacks(fallback: Any, expected: Any) -> None:
    world = World(CASES["continuous"])
    controller = world.controller(fallback=fallback)
    last = looked(world, controller, 2)[-1][-1]
    broken(world, "encode", lambda out: out["tokens"].fill(np.nan))
    actions = controller.act(world.frames[4])
    np.testing.assert_allclose(actions[0], last if expected == "last" else np.float32(expected))
    assert controller.events.counts["fallback failed"] == (
        fallback != "hold" and callable(fallback) and expected == [0.0, 0.0]
    )


def test_positions_stay_where_they_are_told_to_stop() -> None:
    world = World(CASES["positions"], control_mode="position")
    controller = world.controller()
    last = looked(world, controller, 3)[-1][-1]
    broken(world, "finish", lambda out: out["cost"].fill(np.inf))
    np.testing.assert_array_equal(controller.act(world.frames[5]), [last, last])
    with pytest.raises(ValueError, match="command=None: these actions are positions"):
        controller.restart()  # nothing would stand still
    with pytest.raises(ValueError, match="command=a: must be numbers; give one an entry"):
        controller.restart(command="a")
    absolute = World(override(CASES["positions"], {"plan.absolute": True}), control_mode="position")
    with pytest.raises(ValueError, match="command=None: these actions are positions"):
        absolute.controller().set_goal(absolute.frames[0])


def test_a_goal_that_the_model_makes_nothing_of_is_refused() -> None:
    world = World(CASES["continuous"])
    broken(world, "encode", lambda out: out["tokens"].fill(np.nan))
    with pytest.raises(ValueError, match="goal: the model's numbers of it are not finite; give another picture"):
        world.controller().set_goal(world.frames[0])


def test_a_fallback_knows_the_actions_there_are() -> None:
    world = World(CASES["discrete"])
    for said, told in ((4, "is no action of 0 to 3"), (-1, "is no action of 0 to 3"), (3, None)):
        controller = world.controller(fallback=lambda _, said=said: said)
        controller._graphs = world.sessions | {"finish": lambda _: {}}  # pyright: ignore[reportAttributeAccessIssue]
        actions = looked(world, controller, 1)[0]
        assert actions.tolist() == ([0, 0] if told else [3, 3])
        assert controller.events.counts["fallback failed"] == bool(told)


def test_surprise_and_cost_call_the_fallback() -> None:
    quiet = World(CASES["continuous"], surprise={"limit": 1e9, "cost_limit": 1e9})
    looked(quiet, controller := quiet.controller())
    assert not controller.events.counts
    surprised = World(CASES["continuous"], surprise={"limit": 1e-6, "cost_limit": 1e9})
    looked(surprised, controller := surprised.controller(), 3)
    assert controller.events.counts == {"surprise": 1}  # then it begins anew, and has predicted nothing
    looked(surprised, controller := surprised.controller(guarded=False))
    assert not controller.events.counts
    costly = World(CASES["continuous"], surprise={"limit": 1e9, "cost_limit": 1e-9})
    looked(costly, controller := costly.controller(), 2)
    assert controller.events.counts == {"cost": 2}


def test_a_frozen_camera_is_seen() -> None:
    world = World(CASES["continuous"], surprise={"limit": 1e-9, "cost_limit": 1e9})
    controller = world.controller()
    controller.set_goal(world.frames[0])
    controller.act(world.frames[1])
    controller.act(world.frames[1].copy())
    assert controller.events.counts == {"frozen camera": 1}


# Deadlines.


def test_a_slow_machine_does_fewer_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    world = World(CASES["continuous"])
    manifest = replace(world.manifest, plan=replace(world.manifest.plan, iterations=50))

    def tick(_: dict[str, NDArray[Any]]) -> None:
        clock[0] += 2.0

    broken(world, "improve", tick)
    controller = Controller(manifest, world.spec, world.sessions, deadline=21.0)  # pyright: ignore[reportArgumentType]
    controller.set_goal(world.frames[0])
    actions = controller.act(world.frames[1])
    assert controller.last_look is not None
    assert controller.last_look.iterations == 10  # one more would have ended after 22 s
    assert controller.events.counts == {"late": 1}
    assert np.abs(actions).max() > 0


def test_a_stalled_look_is_answered_and_forgotten() -> None:
    world, go_on = World(CASES["continuous"]), threading.Event()
    go_on.set()
    broken(world, "improve", lambda _: go_on.wait(60))
    controller = world.controller(deadline=60)
    looked(world, controller, 1)
    go_on.clear()
    controller.deadline = 0.05
    assert (controller.act(world.frames[2]) == 0).all()
    assert (controller.act(world.frames[3]) == 0).all()
    assert not go_on.is_set()  # both were answered while the planner hung
    assert controller.events.counts == {"stalled": 2}
    go_on.set()
    assert controller._running is not None
    controller._running.exception()  # the thread is free again
    assert controller._memory.count == 0  # what the stalled look found is not believed
    controller.deadline = 60
    controller.act(world.frames[4])
    assert controller._memory.count == 1
    assert controller.events.counts == {"stalled": 2}


def test_a_delay_is_planned_for() -> None:
    """The plan starts where the actions that are on their way will have led."""
    world = World(CASES["continuous"], fps=10.0)
    controller = world.controller(delay=0.2)
    controller.set_goal(world.frames[0])
    seen: list[NDArray[Any]] = []
    before = world.sessions["improve"]

    def watch(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        seen.append(given["states"].copy())
        return before(given)

    world.sessions["improve"] = watch  # pyright: ignore[reportArgumentType]
    issued = [controller.act(frame) for frame in world.frames[1:5]]
    tokens = [world.sessions["encode"]({"frame": frame[None]})["tokens"] for frame in world.frames[1:5]]
    looks = seen[:: world.config.plan.iterations]
    np.testing.assert_allclose(looks[0][:, 0], tokens[0], rtol=1e-5)
    for look, flying in ((1, issued[:1]), (2, issued[:2]), (3, issued[1:3])):
        actions = torch.from_numpy(np.stack(flying, axis=1))  # (1, m, 2)
        states = torch.from_numpy(tokens[look])[:, None]
        expected = world.model.rollout(states, actions[:, :0], actions)[:, -1]
        np.testing.assert_allclose(looks[look][:, 0], expected.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"delay=9.0: is beyond the horizon of a plan; give less, or export a longer"):
        world.controller(delay=9.0)
    with pytest.raises(ValueError, match=r"delay=-1: must be seconds, at least 0; use 0 for none"):
        world.controller(delay=-1)
