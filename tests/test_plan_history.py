"""The controller's window: fixed shapes, the newest last, and a count of what is there."""

import pytest
import torch

from lewm.plan.history import History

B, N, D, A = 2, 3, 4, 2


def frame(number: int) -> torch.Tensor:
    return torch.full((B, N, D), float(number))


def action(number: int) -> torch.Tensor:
    return torch.full((B, A), float(number))


def numbers(history: History) -> tuple[list[float], list[float]]:
    return history.states[0, :, 0, 0].tolist(), history.actions[0, :, 0].tolist()


def test_the_window_fills_and_then_moves_on() -> None:
    history = History.begin(frame(1), length=3, action=action(0))
    assert (numbers(history), history.count) == (([0, 0, 1], [0, 0]), 1)
    history = history.after(action(10)[:, None], frame(2)[:, None])
    assert (numbers(history), history.count) == (([0, 1, 2], [0, 10]), 2)
    states, actions = history.seen()
    assert (states.shape, actions.shape) == ((B, 2, N, D), (B, 1, A))
    assert (states[0, :, 0, 0].tolist(), actions[0, :, 0].tolist()) == ([1, 2], [10])
    history = history.after(action(20)[:, None], frame(3)[:, None])
    history = history.after(action(30)[:, None], frame(4)[:, None])
    assert (numbers(history), history.count) == (([2, 3, 4], [20, 30]), 3)
    assert torch.equal(history.seen()[0], history.states)


def test_more_steps_at_once_than_the_window_holds() -> None:
    history = History.begin(frame(1), length=2, action=action(0))
    steps = torch.stack([action(number) for number in (1, 2, 3)], dim=1)
    history = history.after(steps, torch.stack([frame(3), frame(4)], dim=1))  # frame 2 is older than the window
    assert (numbers(history), history.count) == (([3, 4], [3]), 2)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_one_frame_needs_no_actions_and_keeps_their_type(kind: torch.dtype) -> None:
    history = History.begin(frame(1), length=1, action=action(0).to(kind))
    history = history.after(action(5).to(kind)[:, None], frame(2)[:, None])
    assert (history.actions.shape, history.actions.dtype) == ((B, 0, A), kind)
    assert (history.states[0, :, 0, 0].tolist(), history.count) == ([2], 1)
    assert [part.shape[1] for part in history.seen()] == [1, 0]


def test_rows() -> None:
    history = History.begin(torch.arange(B * N * D).view(B, N, D).float(), length=2, action=action(0))
    kept = history.rows(torch.tensor([1]))
    assert (kept.states.shape, kept.actions.shape, kept.count) == ((1, 2, N, D), (1, 1, A), 1)
    assert torch.equal(kept.states[0], history.states[1])
