"""What is kept of closed-loop episodes for the report and the video: frames, costs, plans, places on the frame."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.envs import PushT, TwoRoom, make_task
from lewm.evaluate.closed_loop import Loop
from lewm.evaluate.recording import episode_places, record_episodes
from lewm.evaluate.starts import Starts
from lewm.plan import tokens_cost

SIZE, END, BUDGET = 32, 3, 10


def mean_colour(frames: Tensor) -> Tensor:
    """Represent frames (M, height, width, 3) by their mean colour, (M, 1, 3)."""
    return frames.float().mean((1, 2))[:, None]


MODEL: Any = SimpleNamespace(encode=mean_colour, device=torch.device("cpu"))


def episodes(task: TwoRoom) -> tuple[Starts, Loop]:
    """Return two episodes along a line: the first reaches its goal after three steps, the second never."""
    states = np.linspace((0.1, 0.1), (0.4, 0.9), 22, dtype=np.float32).reshape(2, 11, 2)
    states[0, END + 1 :] = states[0, END]
    goals = np.stack([states[0, END], np.array([0.9, 0.9], np.float32)])
    starts = Starts(np.arange(2), states[:, 0], goals, task.render_states(goals))
    return starts, Loop(np.array([END, -1]), states)


def test_episodes_are_drawn_and_judged_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    task, drawn = TwoRoom(SIZE), []
    starts, loop = episodes(task)
    render = task.render_states
    monkeypatch.setattr(task, "render_states", lambda states: drawn.append(len(states)) or render(states))
    library = mean_colour(torch.from_numpy(render(loop.states[1])))  # (11, 1, 3)
    imagined = library[torch.tensor([[[4, 5], [6, 7], [8, 9]], [[0, 1], [2, 3], [10, 0]]])]  # (n, p, H, N, D)
    recording = record_episodes(MODEL, task, starts, loop, imagined, library, tokens_cost, stride=4)
    assert drawn == [END + 1, BUDGET + 1]
    np.testing.assert_array_equal(recording.frames, render(loop.states.reshape(22, 2)).reshape(recording.frames.shape))
    assert recording.plan_row.tolist() == [[[4, 5], [6, 7], [8, 9]], [[0, 1], [2, 3], [10, 0]]]
    assert recording.plan_step.tolist() == [0, 4, 8]
    assert recording.solved_at.tolist() == [END, -1]
    goal = mean_colour(torch.from_numpy(starts.goal_frame))
    for way, cost, wanted in zip(recording.frames, recording.cost, goal, strict=True):
        expected = (mean_colour(torch.from_numpy(way)) - wanted).square().mean((1, 2))
        np.testing.assert_allclose(cost, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert recording.cost[0, END] == recording.cost[0, -1] == 0.0


def test_places_are_pixels_of_the_frame() -> None:
    task = TwoRoom(SIZE)
    starts, loop = episodes(task)
    read = torch.tensor([0.25, 0.75]).expand(2, 3, 4, 2)
    places = episode_places(task, starts, loop, read, ["x", "y"])
    np.testing.assert_allclose(places["episode_place"], loop.states * SIZE, rtol=1e-6)
    np.testing.assert_allclose(places["episode_goal_place"], starts.goal_state * SIZE, rtol=1e-6)
    assert places["episode_imagined_place"].shape == (2, 3, 4, 2)
    assert places["episode_imagined_place"][1, 2, 3].tolist() == [8.0, 24.0]
    # What no probe reads is as at the start.
    one = episode_places(task, starts, loop, read[..., :1], ["x"])["episode_imagined_place"]
    np.testing.assert_allclose(one[1], np.broadcast_to((8.0, SIZE * loop.states[1, 0, 1]), (3, 4, 2)), rtol=1e-6)
    assert episode_places(task, starts, loop, None, []) == {}


def test_a_task_that_tells_no_places_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TwoRoom(SIZE)
    starts, loop = episodes(task)
    monkeypatch.setattr(task, "place", lambda states: None)
    assert episode_places(task, starts, loop, torch.zeros(2, 1, 1, 2), ["x", "y"]) == {}


def test_angles_are_put_together_from_sine_and_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("push-t", SIZE)
    assert isinstance(task, PushT)
    state = np.tile(task.state, (1, 1))
    seen = []
    monkeypatch.setattr(task, "place", lambda states: seen.append(states) or np.asarray(states)[..., :2])
    frame = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    starts, loop = Starts(np.arange(1), state, state, frame), Loop(np.array([-1]), np.tile(state[:, None], (1, 2, 1)))
    read = torch.tensor([5.0, 6.0, np.sin(2.5), np.cos(2.5)]).expand(1, 1, 1, 4)
    labels = ["agent_x", "agent_y", "block_angle (sine)", "block_angle (cosine)"]
    episode_places(task, starts, loop, read, labels)
    np.testing.assert_allclose(seen[-1][0, 0, 0], [5, 6, *state[0, 2:4], 2.5, *state[0, 5:]], rtol=1e-5)
