"""A model that comes with the package plans on episodes that are collected for it, and leaves nothing behind."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from lewm import pretrained
from lewm.config import DataConfig, EvalConfig, EvalProtocol, PlanConfig
from lewm.data import Store, split_episodes
from lewm.envs import PushT, collect
from lewm.envs.collector import task_meta
from lewm.envs.two_room import TwoRoom
from lewm.evaluate import evaluate_pretrained, plan_pretrained
from lewm.evaluate import pretrained as pretrained_module
from lewm.evaluate import probe as probe_module
from lewm.evaluate.evaluation import draw_starts
from lewm.evaluate.pretrained import EPISODE_LENGTH, FRESH_SEED, LISTED_OFFSET, open_pretrained
from lewm.evaluate.starts import digest, read_starts, starts_text
from lewm.train.describe import spec_of_meta
from tiny import IMAGE, moving_dot, tiny, untrained_run

CONFIG = dataclasses.replace(
    tiny(data__frame_skip=2),
    seed=3,
    plan=PlanConfig(horizon=2, candidates=4, elites=2, iterations=1, cost="tokens"),
    eval=EvalConfig(
        episodes=10, split_episodes=1, goal_offset=5, budget=6, horizons=(1, 2), clips=4, probe_frames=40
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the folder of the models, which has one, and that of temporary files."""
    models, temporary = tmp_path / "models", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(pretrained, "FOLDER", models)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(pretrained_module, "FIT_EPISODES", 4)
    monkeypatch.setattr(probe_module, "MLP_STEPS", 5)
    untrained_run(models / "two-room", CONFIG, spec_of_meta(task_meta(TwoRoom, image_size=IMAGE), CONFIG))
    return models, temporary


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def opened(**options: Any) -> Any:
    defaults: dict[str, Any] = {"data": None, "device": "cpu", "config": None, "fit": False, "progress": False}
    return open_pretrained("two-room", **(defaults | options))


def test_fresh_episodes_are_all_held_out(folders: tuple[Path, Path]) -> None:
    with opened() as of:
        assert (of.train.tolist(), of.held_out.tolist()) == ([], [0, 1, 2])  # four starts each
        assert of.store.episodes.length.tolist() == [EPISODE_LENGTH] * 3
        assert f"seed {3 + FRESH_SEED}," in of.store.meta.source
        assert of.task is not None
        first = np.array(of.store.states)
    assert not list(folders[1].glob("lewm-*"))
    with opened(fit=True) as of:
        assert (of.train.tolist(), of.held_out.tolist()) == ([0, 1, 2, 3], [4, 5, 6])
    settings = dataclasses.replace(CONFIG, seed=4, eval=EvalConfig(episodes=4, goal_offset=60))
    with opened(config=settings) as of:
        assert of.store.episodes.length.tolist() == [120]  # so that there are starts
        assert of.config.eval.episodes == 4
        assert not np.array_equal(np.array(of.store.states)[:100], first[:100])


def list_starts(folder: Path, protocol: str, rows: list[dict[str, Any]]) -> Path:
    """Put a list of starts beside the model of Two-Room."""
    path = folder / "two-room" / f"starts-{protocol}.json"
    head = {"protocol": protocol, "seed": 3, "state_names": ["x", "y"], "starts": rows}
    path.write_text(json.dumps(head), encoding="utf-8")
    return path


def start_row(episode: int, state: list[float], goal: list[float]) -> dict[str, Any]:
    return {"episode": episode, "row": 4, "goal_row": 29, "state": state, "goal_state": goal}


LISTED = [
    start_row(7, [0.2, 0.2], [0.3, 0.4]),
    start_row(9, [0.8, 0.2], [0.7, 0.4]),
    start_row(7, [0.2, 0.8], [0.2, 0.6]),
]


def test_starts_that_come_with_the_model_are_planned_from(folders: tuple[Path, Path]) -> None:
    list_starts(folders[0], "strict", LISTED)
    evaluation = dataclasses.replace(CONFIG.eval, protocol="strict", goal_offset=25)
    settings = dataclasses.replace(CONFIG, eval=evaluation)
    with opened(config=settings) as of:
        starts = draw_starts(of, of.task)
        np.testing.assert_array_equal(starts.state, np.array([row["state"] for row in LISTED], np.float32))
        np.testing.assert_array_equal(starts.goal_frame, of.task.render_states(starts.goal_state))
        assert starts.episodes(of.store).tolist() == [7, 9, 7]
    planning = plan_pretrained("two-room", device="cpu", config=settings, progress=False)
    assert (planning["episodes"], planning["start_episodes"], planning["start_candidates"]) == (3, 2, 3)
    assert planning["presolved"] == planning["starts_left_out"] == 0
    assert planning["straight_success_rate"] is not None
    few = dataclasses.replace(settings, eval=dataclasses.replace(evaluation, episodes=2))
    assert plan_pretrained("two-room", device="cpu", config=few, progress=False)["episodes"] == 2
    # Another protocol has no list here, and a goal and a store have starts of their own.
    with opened(config=dataclasses.replace(settings, eval=dataclasses.replace(evaluation, protocol="standard"))) as of:
        assert of.starts is None
    collect("two-room", folders[1] / "own", episodes=5, image_size=IMAGE, episode_length=40, workers=1, progress=False)
    with opened(config=settings, data=folders[1] / "own") as of:
        assert of.starts is None
    goal = plan_pretrained("two-room", device="cpu", config=settings, goal="frame:1:5", progress=False)
    assert goal["start_candidates"] > 3


def test_a_shipped_list_is_named_by_its_digest(folders: tuple[Path, Path]) -> None:
    path = list_starts(folders[0], "standard", LISTED)
    settings = dataclasses.replace(CONFIG, eval=dataclasses.replace(CONFIG.eval, goal_offset=25))
    with opened(config=settings) as of:
        text = starts_text(draw_starts(of, of.task), of.store, protocol="standard", seed=3)
    path.write_text(text, encoding="utf-8")
    planning = plan_pretrained("two-room", device="cpu", config=settings, progress=False)
    assert planning["starts_sha256"] == digest(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [start_row(0, [0.2], [0.3])],
        [start_row(0, [0.2, float("nan")], [0.3, 0.4])],
        [{"episode": 0}],
        [start_row(0, [0.2, 0.2], [0.3, 0.4]) | {"row": "x"}],
    ],
)
def test_a_damaged_list_is_refused_in_one_line(folders: tuple[Path, Path], rows: list[dict[str, Any]]) -> None:
    list_starts(folders[0], "standard", rows)
    settings = dataclasses.replace(CONFIG, eval=dataclasses.replace(CONFIG.eval, goal_offset=25))
    with pytest.raises(ValueError, match=r"starts-standard\.json: is no list of starts \([^\n]*\); install [^\n]*$"):
        plan_pretrained("two-room", device="cpu", config=settings, progress=False)


def test_goals_at_another_distance_are_refused_before_collecting(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    list_starts(folders[0], "standard", LISTED)
    monkeypatch.setattr(pretrained_module, "collect", lambda *_, **__: pytest.fail("episodes were collected"))
    with pytest.raises(ValueError, match=r"^eval\.goal_offset=5: the goals that come with two-room are 25 steps "):
        plan_pretrained("two-room", device="cpu", progress=False)


@pytest.mark.parametrize("protocol", get_args(EvalProtocol))
def test_the_lists_of_push_t_hold_what_their_protocol_counts(protocol: EvalProtocol) -> None:
    task = PushT(16)
    path = Path(pretrained.__file__).parent / "push-t" / f"starts-{protocol}.json"
    starts, rule = read_starts(path, task), task.rule(protocol)
    assert len(starts.state) == 200
    assert starts.goal_index is not None
    assert set((starts.goal_index - starts.index).tolist()) == {LISTED_OFFSET}
    assert starts.episode is not None
    _, held_out = split_episodes(206, held_out=DataConfig().held_out, seed=DataConfig().split_seed)
    assert set(starts.episode.tolist()) == set(held_out.tolist())  # of the demonstrations that training leaves out
    assert (starts.state[:, :4] > 0).all()
    assert (starts.state[:, :4] < 512).all()
    if protocol != "standard":
        assert not rule.inside(starts.state, starts.goal_state).any()
        assert np.bincount(starts.episode).max() <= 10
    assert json.loads(path.read_text(encoding="utf-8"))["protocol"] == protocol


def test_data_of_the_user_is_split_as_in_training(tmp_path: Path) -> None:
    collect("two-room", tmp_path / "store", episodes=5, image_size=IMAGE, episode_length=20, workers=1, progress=False)
    with opened(data=tmp_path / "store") as of:
        assert (len(of.train), len(of.held_out)) == (4, 1)


def test_data_of_another_task_are_refused(tmp_path: Path) -> None:
    store = moving_dot(tmp_path / "store").path
    with opened(data=store) as of:  # of a task that is not known here
        assert of.task is None
    meta = store / "meta.json"
    meta.write_text(meta.read_text(encoding="utf-8").replace('"dot"', '"push-t"'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is of task push-t, and the model of two-room; give a store of two-room$"):
        plan_pretrained("two-room", data=store, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"goal": "foo"}, r"^goal=foo: is no state, region or frame"),
        ({"goal": "state:x=0.3"}, r"^goal=state:x=0\.3: leaves y open"),
        ({"video": Path("x.txt")}, r"^video=x\.txt: must end in \.mp4"),
        ({"device": "nowhere"}, r"^device=nowhere: "),
    ],
)
def test_what_cannot_be_done_is_refused_before_collecting(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], told: str
) -> None:
    def resolve(name: str) -> torch.device:
        raise ValueError(f"device={name}: this machine has none; use cpu")

    if "device" in wrong:
        monkeypatch.setattr(pretrained_module, "resolve_device", resolve)
    monkeypatch.setattr(pretrained_module, "collect", lambda *_, **__: pytest.fail("episodes were collected"))
    with pytest.raises(ValueError, match=told):
        plan_pretrained("two-room", **{"device": "cpu", "progress": False} | wrong)
    if "device" in wrong:
        with pytest.raises(ValueError, match=told):
            evaluate_pretrained("two-room", device="nowhere", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("goal", [None, "frame:1:5", "state:x=0.75,y=0.2", "region:x=0.6.."])
def test_plans_without_a_run_and_without_a_store(folders: tuple[Path, Path], goal: str | None) -> None:
    before = files(folders[0])
    planning = plan_pretrained("two-room", device="cpu", goal=goal, progress=False)
    assert planning["episodes"] == 10
    assert planning.get("goal", {}).get("text") == goal
    again = plan_pretrained("two-room", device="cpu", goal=goal, progress=False)
    for part in (planning, again):
        del part["seconds_per_plan"]
    assert again == planning
    assert files(folders[0]) == before
    assert not list(folders[1].glob("lewm-*"))


def test_everything_is_measured_and_nothing_written(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = files(folders[0])
    results = evaluate_pretrained("two-room", device="cpu", progress=False)
    assert results["data"]["episodes"] == {"train": 4, "held_out": 3}
    assert results["probe"] is not None
    assert results["planning"]["by_start"] is not None
    assert ": one-step error is " in results["verdict"]
    store = collect(
        "two-room", tmp_path / "store", episodes=5, image_size=IMAGE, episode_length=30, workers=1, progress=False
    )
    own = evaluate_pretrained("two-room", data=store.path, device="cpu", progress=False)
    assert own["data"]["episodes"] == {"train": 4, "held_out": 1}
    assert Store(store.path).num_episodes == 5
    assert files(folders[0]) == before
    assert not list(folders[1].glob("lewm-*"))
