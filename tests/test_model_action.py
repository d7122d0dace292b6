"""The action embedding: table and MLP, and frame-skip in both."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lewm.config import ActionConfig
from lewm.model.action import ActionEmbed


def make(kind: Any = "continuous", size: int = 2, *, frame_skip: int = 1) -> ActionEmbed:
    return ActionEmbed(ActionConfig(kind=kind, size=size), frame_skip=frame_skip, width=12)


def test_discrete_is_a_table_with_rows_for_each_place() -> None:
    torch.manual_seed(0)
    embed = make("discrete", 5, frame_skip=3)
    assert embed.table.weight.shape == (15, 12)
    actions = torch.tensor([[4, 0, 2], [0, 0, 0], [2, 0, 4]])
    got = embed(actions)
    for row, (a, b, c) in zip(got, actions.tolist(), strict=True):
        torch.testing.assert_close(row, embed.table.weight[a] + embed.table.weight[5 + b] + embed.table.weight[10 + c])
    assert not torch.allclose(got[0], got[2])  # the order of sub-actions matters
    assert embed(actions.view(3, 1, 3)).shape == (3, 1, 12)
    assert "offset" not in embed.state_dict()


def test_discrete_without_frame_skip_is_a_lookup() -> None:
    embed = make("discrete", 4)
    assert torch.equal(embed(torch.tensor([[3], [1]])), embed.table.weight[[3, 1]])


def test_continuous_is_a_two_layer_mlp_of_standardised_actions() -> None:
    torch.manual_seed(0)
    embed = make(frame_skip=2)
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.0])
    embed.standardise(mean, std)
    actions = torch.randn(3, 2, 4)
    weights = dict(embed.named_parameters())
    hidden = F.gelu(
        F.linear((actions - torch.tensor([1.0, -2, 1, -2])) / torch.tensor([0.5, 1, 0.5, 1]), weights["mlp.0.weight"])
    )
    torch.testing.assert_close(embed(actions), F.linear(hidden, weights["mlp.2.weight"]))  # biases start at zero
    assert embed.mlp[0].in_features == 4


def test_statistics_are_saved_with_the_weights() -> None:
    embed = make()
    embed.standardise(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    other = make()
    other.load_state_dict(embed.state_dict())
    assert other.mean.tolist() == [1, 2]
    assert other.std.tolist() == [3, 4]


def test_no_action_is_zero_and_has_no_weights() -> None:
    embed = make("none", 0)
    assert not list(embed.parameters())
    assert not embed.state_dict()
    assert torch.equal(embed(torch.zeros(5, 2, 0)), torch.zeros(5, 2, 12))


def test_out_of_range_action_is_an_error() -> None:
    with pytest.raises(IndexError):
        make("discrete", 4)(torch.tensor([[4]]))


def test_summed_actions_are_of_unit_scale_whatever_the_frame_skip() -> None:
    embed = make(frame_skip=4)
    embed.standardise(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0]))
    actions = torch.tensor([1.0, -2.0]) + torch.tensor([0.5, 2.0]) * torch.randn(1000, 4, 2)
    summed = embed.summed(actions.flatten(1))
    torch.testing.assert_close(summed, (actions - embed.mean[:2]).sum(1) / embed.std[:2] / 2.0)
    assert summed.std(0).tolist() == pytest.approx([1.0, 1.0], rel=0.1)


def test_summed_discrete_actions_are_counts() -> None:
    embed = make("discrete", 3, frame_skip=4)
    assert embed.summed(torch.tensor([[[2, 0, 2, 2]]])).tolist() == [[[0.5, 0.0, 1.5]]]
