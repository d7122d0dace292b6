"""Layers against their formulas, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.model.layers import Attention, BatchNorm2d, Block, init_weights, position_embedding


def naive_attention(layer: Attention, x: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, one sample and one head at a time."""
    width = x.shape[-1]
    size = width // layer.num_heads
    query, key, value = (
        F.linear(x, w, b) for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
    )
    out = torch.zeros_like(x)
    for sample in range(len(x)):
        for head in range(layer.num_heads):
            part = slice(head * size, (head + 1) * size)
            weights = torch.softmax(query[sample, :, part] @ key[sample, :, part].T / math.sqrt(size), dim=-1)
            out[sample, :, part] = weights @ value[sample, :, part]
    return F.linear(out, layer.proj.weight, layer.proj.bias)


def naive_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def randomised(module: nn.Module) -> nn.Module:
    """Give every parameter a value that matters: zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.double()


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attention() -> None:
    layer = randomised(Attention(12, 3))
    assert isinstance(layer, Attention)
    x = inputs(2, 5, 12)
    torch.testing.assert_close(layer(x), naive_attention(layer, x))


@pytest.mark.parametrize("film", [False, True])
def test_block(film: bool) -> None:
    block = randomised(Block(12, 3, 2, film=film))
    assert isinstance(block, Block)
    weights = dict(block.named_parameters())
    assert weights["mlp.0.weight"].shape == (24, 12)
    x, condition = inputs(2, 5, 12), inputs(2, 5, 12, seed=2)
    scale1, shift1, scale2, shift2 = (torch.zeros(()),) * 4
    if block.film is not None:
        scale1, shift1, scale2, shift2 = F.linear(condition, block.film.weight, block.film.bias).split(12, dim=-1)
    h = x + naive_attention(block.attention, naive_norm(block.norm1, x) * (1 + scale1) + shift1)
    hidden = F.linear(
        naive_norm(block.norm2, h) * (1 + scale2) + shift2, weights["mlp.0.weight"], weights["mlp.0.bias"]
    )
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))  # GELU
    expected = h + F.linear(hidden, weights["mlp.2.weight"], weights["mlp.2.bias"])
    torch.testing.assert_close(block(x, condition), expected)


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("read", [1, 3, 5])
def test_tokens_that_nobody_reads_are_left_out(film: bool, read: int) -> None:
    block = Block(12, 3, 2, film=film)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, condition = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    wanted = block(x, condition)[:, -read:]
    torch.testing.assert_close(block(x, condition, read=read), wanted)
    calls: list[int] = []
    block.mlp.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[1]))
    block(x, condition, read=read)
    assert calls == [read]


def test_film_starts_as_the_plain_block() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 2, film=True)
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(x, torch.randn(2, 3, 8)), block(x, torch.zeros(2, 3, 8)))


def test_position_embedding() -> None:
    grid, width = 5, 16
    table = position_embedding(grid, width)
    assert table.shape == (25, 16)
    for row in range(grid):
        for column in range(grid):
            expected = []
            for place in (row, column):
                angles = [place / 10_000 ** (i / 4) for i in range(4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(table[row * grid + column], torch.tensor(expected))
    assert len(table.unique(dim=0)) == 25


def test_batch_norm_in_one_process_is_that_of_torch() -> None:
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5)
    for _ in range(2):
        assert torch.equal(ours(x), theirs(x))
    ours.eval()
    theirs.eval()
    assert torch.equal(ours(x), theirs(x))


def test_init_weights_has_unit_gain() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(200, 300)
    init_weights(layer)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (200 + 300)), rel=0.02)
    assert not layer.bias.any()
    init_weights(nn.Linear(2, 3, bias=False))  # has no bias to zero
