"""A whole evaluation of an untrained run: every file, every number, and what does not fit."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lewm.cli.numbers import number_rows
from lewm.config import ActionConfig, Config, DataConfig, EvalConfig, PlanConfig
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.envs import Task, make_task
from lewm.envs.two_room import SUCCESS_DISTANCE
from lewm.evaluate import evaluate_env
from lewm.evaluate import evaluation as run_module
from lewm.evaluate import probe as probe_module
from lewm.evaluate.closed_loop import Loop, Policy, run_closed_loop
from lewm.evaluate.doctor import planning_verdict
from lewm.evaluate.evaluation import _project, decisions, evaluate_run, finite, plan_run, show_progress
from lewm.evaluate.judge import Judge
from lewm.evaluate.open_loop import plan_once
from lewm.evaluate.starts import Starts
from lewm.families.article.settings import ArticleSettings
from lewm.families.compact.settings import CompactSettings
from lewm.families.family import make_model
from lewm.plan.steps_to_go import StepsToGo
from lewm.report.run_report import write_report
from lewm.run_spec import RunSpec, save_spec
from lewm.train.checkpoint import COST, load_config, save_config, save_cost, save_weights
from lewm.train.describe import spec_of
from tiny import labelled_images, plain_spec, rival, tiny_article

SIZE, SKIP, EPISODES, LENGTH = 32, 3, 8, 24


def write_store(path: Path, task_name: str, *, episodes: int = EPISODES, stored_name: str | None = None) -> Path:
    """Walk through the rooms."""
    task = make_task(task_name, SIZE)
    meta = StoreMeta(
        task=stored_name or task_name,
        image_size=SIZE,
        action_kind=task.action_kind,
        action_size=task.action_size,
        state_names=task.state_names,
    )
    with StoreWriter(path, meta) as writer:
        for seed in range(episodes):
            task.reset(seed=seed)
            policy = task.behaviour(seed)
            start, actions, states = task.state, [], []
            for _ in range(LENGTH):
                states.append(task.state)
                actions.append(policy.act(task))
                task.set_state(task.simulate(task.state[None], actions[-1][None, None])[0, 0])
            assert (start == states[0]).all()
            writer.append(task.render_states(np.stack(states)), np.stack(actions), np.stack(states), seed=seed)
    return path


def write_run(
    path: Path, store: Path | None, family: type[CompactSettings | ArticleSettings] = CompactSettings, **action: Any
) -> Path:
    config = Config(
        action=ActionConfig(**action),
        data=DataConfig(frame_skip=SKIP, held_out=0.3, path="" if store is None else str(store)),
        model=family(
            image_size=SIZE, stem_channels=(4, 4), width=8, depth=1, num_heads=2, predictor_width=8, predictor_depth=1,
            predictor_heads=2, history=2,
        ),
        plan=PlanConfig(horizon=2, candidates=8, iterations=1, elites=2, execute=2),
        eval=EvalConfig(episodes=5, split_episodes=3, goal_offset=8, budget=10, clips=20, probe_frames=90),
    )  # fmt: skip
    save_run(path, config, plain_spec(config) if store is None else spec_of(Store(store), config))
    save_cost(path, StepsToGo(config.model.num_tokens, config.model.token_width))
    return path


def save_run(path: Path, config: Config, spec: RunSpec) -> None:
    path.mkdir()
    torch.manual_seed(0)
    save_config(path, config)
    save_weights(path, make_model(config))
    save_spec(path, spec)


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MLP_STEPS", 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task", "action"),
    [
        (CompactSettings, "two-room", {"kind": "continuous", "size": 2}),
        (ArticleSettings, "two-room", {"kind": "continuous", "size": 2}),
        (ArticleSettings, "two-room-discrete", {"kind": "discrete", "size": 5}),
    ],
)
def test_evaluation_is_complete_and_reproducible(
    tmp_path: Path, family: type[CompactSettings | ArticleSettings], task: str, action: dict[str, Any]
) -> None:
    store = write_store(tmp_path / "store", task)
    run = write_run(tmp_path / "run", store, family, **action)
    results = evaluate_run(run, device="cpu", progress=False)
    # strict JSON: no NaN
    stored = json.loads(
        (run / "eval.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in eval.json")
    )
    assert stored == results
    assert not list(run.glob(".*"))

    horizon = results["prediction"]["horizon"]
    assert horizon == [1, 2, 4]  # (2 - 1 + 8) * 3 frames are longer than an episode
    for name in ("cosine", "centred_cosine", "copy_cosine", "copy_centred_cosine", "error_ratio"):
        assert len(results["prediction"][name]) == len(horizon)
    assert {"effective_rank", "condition_number", "content_share", "feature_std"} <= set(results["spectrum"])
    assert results["probe"]["r2"] == results["probe"]["linear_flattened"]["r2"] <= 1
    assert set(results["probe"]["r2_by_state"]) == {"x", "y"}
    assert -1 <= results["cost"]["rank_correlation"] <= 1
    assert -1 <= results["cost"]["rank_correlation_distance"] <= 1
    planning = results["planning"]
    assert (planning["planner"], planning["episodes"], planning["plans"]) == ("cem", 5, 2)
    assert planning["seconds_per_plan"] > 0
    for rate, interval in (("success_rate", "ci95"), ("random_success_rate", "random_ci95")):
        assert 0 <= planning[interval][0] <= planning[rate] <= planning[interval][1] <= 1
    classes = planning["by_start"]
    assert list(classes) == ["nothing", "straight", "hard"]
    assert sum(part["count"] for part in classes.values()) == 5
    assert classes["nothing"]["count"] == pytest.approx(5 * planning["solved_at_start"])
    for policy in ("", "random_"):
        solved = [(part["count"], part[f"{policy}success_rate"]) for part in classes.values() if part["count"]]
        mean = sum(count * rate for count, rate in solved) / 5
        assert mean == pytest.approx(planning[f"{policy}success_rate"])
    assert results["cost"]["split_episodes"] == 3
    for part in ("planner_alone", "cost_alone", "model"):
        low, high = results["cost"][f"{part}_ci95"]
        assert 0 <= low <= results["cost"][f"{part}_success"] <= high <= 1
    if family is ArticleSettings:
        assert results["learnt"] is False
        assert results["verdict"].startswith("The model learnt nothing")
    else:  # the errors of one vector a frame differ by so much that two episodes leave all open
        assert results["learnt"] is None
        assert results["verdict"].startswith("2 held-out episodes are too few to tell whether the model learnt")

    starts = (run / "starts.json").read_bytes()
    assert planning["starts_sha256"] == hashlib.sha256(starts).hexdigest()
    assert len(json.loads(starts)["starts"]) == 5
    assert (results["protocol"], planning["protocol"], planning["presolved"]) == ("standard", "standard", 0)
    pose = results["pose_sensitivity"]
    assert [part["name"] for part in pose["parts"]] == ["the disc's position"]
    assert len(pose["parts"][0]["latent"]) == len(pose["parts"][0]["pixels"]) == len(pose["times"])
    assert pose["verdict"].startswith("The distance sees the pose")

    with np.load(run / "eval.npz") as file:
        arrays = dict(file)
    frame = (SIZE, SIZE, 3)
    shapes = {
        "spectrum": (8,), "projection_share": (2,), "state_names": (2,),
        "rollout_start": (6, *frame), "rollout_horizon": (3,), "rollout_real": (6, 3, *frame),
        "rollout_nearest": (6, 3, *frame),
        "episode_frames": (5, 11, *frame), "episode_states": (5, 11, 2), "episode_goal_frame": (5, *frame),
        "episode_goal_state": (5, 2), "episode_solved_at": (5,), "episode_plan_step": (2,),
        "episode_imagined_nearest": (5, 2, 2), "episode_imagined_states": (5, 2, 2, 2),
        "episode_cost": (5, 11), "episode_place": (5, 11, 2), "episode_goal_place": (5, 2),
        "episode_imagined_place": (5, 2, 2, 2),
    }  # fmt: skip
    assert {name: arrays[name].shape for name in shapes} == shapes
    held_out_frames = 2 * LENGTH  # 30% of 8 episodes
    assert arrays["projection"].shape == arrays["projection_states"].shape == (held_out_frames, 2)
    assert arrays["episode_imagined_nearest"].max() == len(arrays["episode_library"]) - 1
    assert {array.dtype for name, array in arrays.items() if array.shape[-3:] == frame} == {np.dtype(np.uint8)}
    np.testing.assert_allclose(arrays["episode_place"], arrays["episode_states"] * SIZE, rtol=1e-6)
    for name in ("cost_tokens", "cost_pooled", "cost_steps_to_go", "cost_distance"):
        assert arrays[name].shape == arrays["cost_gap"].shape

    again = evaluate_run(run, device="cpu", progress=False)
    for part in (results, again):
        del part["planning"]["seconds_per_plan"]
    assert again == results


@pytest.mark.slow
def test_settings_can_be_overridden(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", "two-room")
    run = write_run(tmp_path / "run", None)
    save_spec(run, spec_of(Store(store), load_config(run)))
    with pytest.raises(ValueError, match=r"^data: not given, and .* does not say .*; give a store by --data$"):
        plan_run(run, progress=False)
    config = Config(
        model=CompactSettings(),
        plan=PlanConfig(planner="mppi", cost="pooled", over="sum", horizon=3, candidates=4, iterations=1, elites=2),
        eval=EvalConfig(episodes=4, goal_offset=8, budget=6),
    )
    video = tmp_path / "plan.mp4"
    planning = plan_run(run, data=store, device="cpu", config=config, video=video, progress=False)
    assert (planning["planner"], planning["cost"], planning["episodes"], planning["plans"]) == ("mppi", "pooled", 4, 2)
    assert video.stat().st_size > 0
    assert not (run / "eval.json").exists()


def test_a_protocol_chooses_starts_and_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path / "store", "two-room")
    run, rules = write_run(tmp_path / "run", store), []

    def record(task: Task, starts: Starts, policy: Policy, judge: Judge, **options: Any) -> Loop:
        rules.append(judge.rule)
        return run_closed_loop(task, starts, policy, judge, **options)

    monkeypatch.setattr(run_module, "run_closed_loop", record)
    base = load_config(run)

    def settings(protocol: Any) -> Config:
        return dataclasses.replace(base, eval=dataclasses.replace(base.eval, protocol=protocol, goal_offset=20))

    hashes = set()
    for protocol in ("standard", "moderate", "strict"):
        rules.clear()
        config = settings(protocol)
        planning = plan_run(run, device="cpu", config=config, progress=False)
        assert planning["protocol"] == protocol
        assert {rule.legal is not None for rule in rules} == {protocol == "strict"}  # of rivals, too
        kept = planning["start_candidates"] - planning["presolved"] - planning["starts_left_out"]
        assert planning["start_episodes"] <= planning["episodes"] <= kept
        if protocol == "standard":
            assert kept == planning["start_candidates"]
        else:
            assert planning["solved_at_start"] == planning["by_start"]["nothing"]["count"] == 0
            assert planning["presolved"] + planning["starts_left_out"] > 0
        again = plan_run(run, device="cpu", config=config, progress=False)
        assert again["starts_sha256"] == planning["starts_sha256"]
        hashes.add(planning["starts_sha256"])
    assert len(hashes) == 3
    results = evaluate_run(run, device="cpu", config=settings("strict"), progress=False)
    assert results["protocol"] == results["planning"]["protocol"] == "strict"
    assert results["planning"]["starts_sha256"] == planning["starts_sha256"]
    assert json.loads((run / "starts.json").read_text())["protocol"] == "strict"
    assert "by the strict protocol" in planning_verdict(planning)
    assert any("success, strict, " in title for title, *_ in number_rows(results))


def test_without_a_known_task_there_is_no_closed_loop(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", "two-room", stored_name="my-robot")
    run = write_run(tmp_path / "run", store)
    (run / "starts.json").touch()
    results = evaluate_run(run, device="cpu", progress=False)
    assert results["planning"] is None
    assert results["cost"]["rank_correlation_distance"] is None
    assert "planner_alone_success" not in results["cost"]
    assert results["probe"] is not None
    assert results["pose_sensitivity"] is None
    assert not (run / "starts.json").exists()  # nor one of an earlier evaluation
    with np.load(run / "eval.npz") as file:
        assert not [name for name in file.files if name.startswith("episode_")]
    with pytest.raises(
        ValueError,
        match=r"task=my-robot: planning in closed loop needs a known task.* by lewm.evaluate_env, or give --goal to",
    ):
        plan_run(run, device="cpu", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("goal", "kind"), [("frame:1:5", "frame"), ("state:x=0.75,y=0.2", "state"), ("region:x=0.6..,y=..0.9", "region")]
)
def test_all_episodes_can_go_to_one_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: str, kind: str) -> None:
    store = write_store(tmp_path / "store", "two-room")
    run = write_run(tmp_path / "run", store)
    loops: list[tuple[Starts, Loop, NDArray[np.bool_]]] = []

    def record(task: Task, starts: Starts, policy: Policy, judge: Judge, **options: Any) -> Loop:
        loop = run_closed_loop(task, starts, policy, judge, **options)
        loops.append((starts, loop, judge(loop.states)))
        return loop

    monkeypatch.setattr(run_module, "run_closed_loop", record)
    usual = plan_run(run, device="cpu", progress=False)
    assert "goal" not in usual
    video = tmp_path / "plan.mp4"
    planning = plan_run(run, device="cpu", goal=goal, video=video, progress=False)
    assert video.stat().st_size > 0
    assert planning["goal"]["text"] == goal
    assert planning["goal"]["kind"] == kind
    assert list(planning["goal"].get("r2", {})) == ([] if kind == "frame" else ["x", "y"])
    assert planning["cost"] == ("steps_to_go" if kind == "frame" else "region")
    assert planning.keys() - usual.keys() == {"goal"}

    (before, *_), _, _, (starts, loop, reached), (rival_starts, rival, rival_reached), *straight = loops
    np.testing.assert_array_equal(starts.state, before.state)  # the usual starts, for the random policy as well
    assert rival_starts is starts
    assert (starts.region is None) == (kind == "frame")
    states = Store(store).states
    assert states is not None
    match kind:
        case "frame":
            inside = np.linalg.norm(loop.states - states[LENGTH + 5], axis=-1) < SUCCESS_DISTANCE
        case "state":
            inside = np.linalg.norm(loop.states - np.array([0.75, 0.2]), axis=-1) < SUCCESS_DISTANCE
        case _:
            inside = (loop.states[..., 0] >= 0.6) & (loop.states[..., 1] <= 0.9)
    np.testing.assert_array_equal(reached, inside)
    np.testing.assert_array_equal(loop.success, inside[:, 1:].any(axis=1))
    assert planning["success_rate"] == loop.success.mean()
    assert planning["random_success_rate"] == rival_reached[:, 1:].any(axis=1).mean() == rival.success.mean()
    assert planning["solved_at_start"] == inside[:, 0].mean()
    if kind == "region":  # to which nothing is straight
        assert straight == []
        assert [planning[name] for name in ("straight_success_rate", "straight_ci95", "by_start")] == [None] * 3
    else:
        ((_, straight_loop, _),) = straight
        assert planning["straight_success_rate"] == straight_loop.success.mean()
        assert planning["by_start"]["nothing"]["count"] == inside[:, 0].sum()
    if kind == "region":
        assert 0 < planning["solved_at_start"] < 1


def test_starts_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One start at the goal, one before it, one behind the wall; the model solves the last two, chance the first."""
    run = write_run(tmp_path / "run", write_store(tmp_path / "store", "two-room"))
    task = make_task("two-room", SIZE)
    state = np.array([(0.2, 0.2), (0.1, 0.8), (0.3, 0.2)], dtype=np.float32)
    goal = np.array([(0.22, 0.22), (0.3, 0.9), (0.7, 0.2)], dtype=np.float32)
    starts = Starts(np.arange(3), state, goal, task.render_states(goal))
    monkeypatch.setattr(run_module, "make_starts", lambda *_, **__: starts)

    def solve(task: Task, starts: Starts, policy: Policy, judge: Judge, **options: Any) -> Loop:
        loop = run_closed_loop(task, starts, policy, judge, **options)
        if options["frame_skip"] == 1:
            return loop
        solved_at = [-1, 4, 4] if isinstance(policy, run_module.ModelPolicy) else [2, -1, -1]
        return dataclasses.replace(loop, solved_at=np.array(solved_at[: len(loop.solved_at)]))

    monkeypatch.setattr(run_module, "run_closed_loop", solve)
    planning = plan_run(run, device="cpu", progress=False)
    assert planning["straight_success_rate"] == pytest.approx(2 / 3)
    low, high = planning["straight_ci95"]
    assert low < 2 / 3 < high
    none, all_ = [0.0, pytest.approx(0.7935, abs=1e-4)], [pytest.approx(0.2065, abs=1e-4), 1.0]
    rates = {"success_rate": (0.0, 1.0, 1.0), "random_success_rate": (1.0, 0.0, 0.0)}
    assert list(planning["by_start"]) == ["nothing", "straight", "hard"]
    for k, numbers in enumerate(planning["by_start"].values()):
        assert numbers["count"] == 1
        for name, of_kind in rates.items():
            assert numbers[name] == of_kind[k]
            assert numbers[name.replace("success_rate", "ci95")] == (all_ if of_kind[k] else none)
    # a kind that there is none of has no rate
    starts = starts.first(2)
    hard = plan_run(run, device="cpu", progress=False)["by_start"]["hard"]
    assert hard == {"count": 0} | dict.fromkeys(("success_rate", "ci95", "random_success_rate", "random_ci95"))


def image_run(path: Path, store: Path) -> Path:
    config = tiny_article(data__path=str(store), action__kind="none", action__size=0, eval=EvalConfig(probe_frames=60))
    save_run(path, config, spec_of(Store(store), config))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("labelled", "classes"), [(True, 2), (True, 1), (False, 2)])
def test_images_are_measured_by_what_they_have(tmp_path: Path, labelled: bool, classes: int) -> None:
    store = labelled_images(tmp_path / "store", labelled=labelled, classes=classes)
    run = image_run(tmp_path / "run", store.path)
    results = evaluate_run(run, device="cpu", progress=False)
    assert json.loads((run / "eval.json").read_text()) == results
    assert [results[part] for part in ("prediction", "probe", "cost", "planning")] == [None] * 4
    assert results["spectrum"]["effective_rank"] > 1
    told = results["class_probe"]
    if labelled and classes > 1:
        assert (told["classes"], told["train_images"], told["images"]) == (2, 60, 16)
        assert told["ci95"][0] <= told["accuracy"] <= told["ci95"][1]
        assert 0 <= told["random_accuracy"] <= 1
        assert store.states is not None
        assert 0 < told["largest_class"] < 1
    else:
        assert told is None
        assert "cannot be told" in results["verdict"]
        assert results["learnt"] is None
    with np.load(run / "eval.npz") as file:
        wanted = {"spectrum", "projection", "projection_share"}
        assert set(file.files) == wanted | ({"projection_states", "state_names"} if labelled else set())
    page = write_report(run).read_text(encoding="utf-8")
    assert ("Class told by a linear probe" in page) == (told is not None)
    assert ("Coloured by label" in page) == labelled
    number_rows(results)  # of the command line


def test_images_have_nothing_to_plan(tmp_path: Path) -> None:
    run = image_run(tmp_path / "run", labelled_images(tmp_path / "store").path)
    with pytest.raises(ValueError, match=rf"^run={run}: was trained on images, .*by --train\.encoder-from {run}$"):
        plan_run(run, device="cpu", progress=False)


def test_data_of_another_kind_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", None)
    discrete = write_store(tmp_path / "discrete", "two-room-discrete", episodes=2)
    with pytest.raises(ValueError, match=r"action_kind=discrete: .* does not fit .* continuous; give the data of"):
        evaluate_run(run, data=discrete, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"nowhere: is not a store"):
        evaluate_run(run, data=tmp_path / "nowhere", device="cpu", progress=False)


def test_data_of_another_task_are_refused(tmp_path: Path) -> None:
    own = write_store(tmp_path / "own", "two-room")
    other = write_store(tmp_path / "other", "two-room", stored_name="push-t")
    robot = write_store(tmp_path / "robot", "two-room", stored_name="my-robot")
    run = write_run(tmp_path / "run", own)
    told = rf"^data={other}: is of task push-t, and the model of two-room; give a store of two-room$"
    with pytest.raises(ValueError, match=told):
        plan_run(run, data=other, device="cpu", progress=False)
    with pytest.raises(ValueError, match=told):
        plan_once(run, goal="frame:0:3", data=other, device="cpu", progress=False)
    assert plan_once(run, goal="frame:0:3", data=robot, device="cpu", progress=False)["actions"]
    # A name that an import gave says nothing of the task; nor does a store that is gone.
    config = load_config(run)
    for path in (robot, tmp_path / "gone"):
        save_config(run, dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(path))))
        assert plan_run(run, data=own, device="cpu", progress=False)["episodes"] == 5


def test_progress_tells_the_time_taken_from_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(True) as stage, stage("planning", 2) as tick:
        tick()
    assert re.search(r"planning 2/2 in 0:00:0\d \| 0:00:00 left", capsys.readouterr().err)


def test_numbers_that_json_cannot_hold_become_none() -> None:
    value = {"a": [1.0, float("nan")], "b": {"c": float("inf")}, "d": (1, "x", True, None)}
    assert finite(value) == {"a": [1.0, None], "b": {"c": None}, "d": [1, "x", True, None]}


def test_projection_equals_principal_components() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((30, 2, 3)) * np.array([5.0, 2.0, 0.1])
    points, share = _project(torch.from_numpy(tokens).float())
    x = tokens.reshape(30, 6) - tokens.reshape(30, 6).mean(0)
    values, axes = np.linalg.eigh(x.T @ x)
    expected = x @ axes[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-3)  # a component's sign is free
    np.testing.assert_allclose(share, values[::-1][:2] / values.sum(), rtol=1e-4)


@pytest.mark.parametrize(("budget", "execute", "count"), [(50, 1, 17), (50, 2, 9), (6, 2, 1)])
def test_decisions_cover_the_budget(budget: int, execute: int, count: int) -> None:
    config = Config(
        model=CompactSettings(),
        data=DataConfig(frame_skip=SKIP),
        plan=PlanConfig(execute=execute),
        eval=EvalConfig(budget=budget),
    )
    assert decisions(config) == count


@pytest.mark.slow
def test_a_cost_that_was_never_fitted_is_refused(tmp_path: Path) -> None:
    """A run that was stopped early has no such cost; other costs it does have."""
    store = write_store(tmp_path / "store", "two-room")
    run = write_run(tmp_path / "run", store, size=2)
    (run / COST).unlink()
    told = rf"^plan\.cost=steps_to_go: {run} stopped before .*finish it with `lewm train --resume {run}`, or use --plan"
    for measure in (evaluate_run, plan_run):
        with pytest.raises(ValueError, match=told):
            measure(run, progress=False)
    with pytest.raises(ValueError, match=told):
        plan_once(run, goal="frame:0:3", progress=False)
    own = load_config(run)
    config = dataclasses.replace(own, plan=dataclasses.replace(own.plan, cost="tokens"))
    cost = evaluate_run(run, device="cpu", config=config, progress=False)["cost"]
    assert cost["name"] == "tokens"
    assert cost["by_cost"].keys() == {"tokens", "pooled"}
    with np.load(run / "eval.npz") as file:
        assert {name for name in file.files if name.startswith("cost_")} == {
            "cost_gap", "cost_distance", "cost_tokens", "cost_pooled",
        }  # fmt: skip
    write_report(run)
    number_rows(json.loads((run / "eval.json").read_text()))


def test_a_cost_of_another_model_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_store(tmp_path / "store", "two-room"), size=2)
    save_cost(run, StepsToGo(1, 9))
    with pytest.raises(
        ValueError, match=rf"^{run / COST}: token\.weight=\(256, 9\): config\.json makes it \(256, 8\);"
    ):
        evaluate_run(run, progress=False)


@pytest.mark.parametrize("known", [True, False])
def test_of_a_policy_the_closed_loop_alone_is_measured(tmp_path: Path, known: bool) -> None:
    store = write_store(tmp_path / "store", "two-room", stored_name=None if known else "my-robot")
    small = EvalConfig(episodes=5, split_episodes=3, goal_offset=8, budget=10)
    config = dataclasses.replace(rival("gcbc"), data=DataConfig(frame_skip=SKIP, path=str(store)), eval=small)
    run = tmp_path / "run"
    save_run(run, config, spec_of(Store(store), config))
    results = evaluate_run(run, device="cpu", progress=False)
    assert json.loads((run / "eval.json").read_text()) == results
    assert [results[part] for part in ("spectrum", "prediction", "probe", "cost")] == [None] * 4
    planning = results["planning"]
    if known:
        assert (planning["planner"], planning["cost"], planning["episodes"]) == (None, None, 5)
        for rate, interval in (("success_rate", "ci95"), ("random_success_rate", "random_ci95")):
            assert 0 <= planning[interval][0] <= planning[rate] <= planning[interval][1] <= 1
        assert sum(part["count"] for part in planning["by_start"].values()) == 5
    else:
        assert planning is None
    with np.load(run / "eval.npz") as file:
        assert file.files == []
    page = write_report(run).read_text(encoding="utf-8")
    assert "this run is a policy, of which the closed loop alone is measured" in page
    assert ("there is no simulator of the task my-robot" in page) != known
    number_rows(results)  # of the command line
    told = rf"^run={run}: is a policy of the family gcbc, which makes no plans; measure it by `lewm eval {run}`$"
    with pytest.raises(ValueError, match=told):
        plan_run(run, device="cpu", progress=False)
    with pytest.raises(ValueError, match=told):
        plan_once(run, goal="frame:0:3", device="cpu", progress=False)
    with pytest.raises(ValueError, match=told):
        evaluate_env(run, lambda: None, success="reached", device="cpu", progress=False)  # type: ignore[arg-type,return-value]
