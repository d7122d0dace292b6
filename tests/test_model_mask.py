"""Masks: static shapes, every cell within reach, and a context that is the blocks' complement."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lewm.model.mask import sample_context

GRID = 8
MASK: dict[str, Any] = {
    "blocks": 4, "scale": (0.15, 0.2), "aspect": (0.75, 1.5), "context_ratio": 0.25, "full_context_prob": 0.0,
}  # fmt: skip


def draw(mask: dict[str, Any], batch: int, seed: int, grid: int = GRID) -> Tensor:
    context_idx = sample_context(grid=grid, batch_size=batch, generator=torch.Generator().manual_seed(seed), **mask)
    assert context_idx is not None
    return context_idx


@pytest.mark.parametrize(
    ("grid", "ratio", "count"), [(8, 0.25, 16), (14, 0.25, 49), (4, 0.1, 2), (4, 0.01, 1), (4, 1.0, 16)]
)
def test_context_has_exactly_its_size(grid: int, ratio: float, count: int) -> None:
    for seed in range(3):
        context_idx = draw(MASK | {"context_ratio": ratio}, 50, seed, grid)
        assert context_idx.shape == (50, count)
        assert context_idx.dtype == torch.int64
        assert (context_idx.diff(dim=1) > 0).all()  # sorted, so no position comes twice
        assert context_idx.min() >= 0
        assert context_idx.max() < grid * grid


def test_every_cell_is_reached_by_context_and_by_blocks() -> None:
    counts = torch.zeros(GRID * GRID)
    context_idx = draw(MASK, 4000, 0)
    counts.index_add_(0, context_idx.flatten(), torch.ones(context_idx.numel()))
    share = counts / 4000
    assert share.mean().item() == pytest.approx(0.25, abs=1e-6)
    assert share.min() > 0.07  # the middle is covered by blocks, and so no context, more often than the corners
    assert share.max() < 0.48
    # without trimming, what is missing is what blocks cover: every row and column, the last ones too
    complement = draw(MASK | {"blocks": 1, "context_ratio": None}, 4000, 0)
    counts = torch.zeros(GRID * GRID).index_add_(0, complement.flatten(), torch.ones(complement.numel()))
    assert (counts < 0.9 * 4000).all()
    assert counts.sum() == complement.numel() == 4000 * 48  # 16 of 64 are the largest block


def test_context_is_the_complement_of_one_block() -> None:
    """With a fixed scale and aspect, what is missing is a rectangle of the size that they say."""
    mask = MASK | {"blocks": 1, "scale": (0.19, 0.19), "aspect": (0.75, 0.75), "context_ratio": None}
    height, width = round(GRID * math.sqrt(0.19 * 0.75)), round(GRID * math.sqrt(0.19 / 0.75))
    assert (height, width) == (3, 4)
    context_idx = draw(mask, 200, 1)
    assert context_idx.shape == (200, GRID * GRID - height * width)
    tops, lefts = set(), set()
    for row in context_idx:
        missing = torch.ones(GRID * GRID, dtype=torch.bool)
        missing[row] = False
        rows, columns = missing.view(GRID, GRID).nonzero(as_tuple=True)
        assert rows.max() - rows.min() + 1 == height
        assert columns.max() - columns.min() + 1 == width
        tops.add(rows.min().item())
        lefts.add(columns.min().item())
    assert tops == set(range(GRID - height + 1))
    assert lefts == set(range(GRID - width + 1))


def test_scale_and_aspect_are_drawn_independently() -> None:
    """Fixed area, free shape: with a wide range both lying and standing blocks occur, equally often."""
    mask = MASK | {"blocks": 1, "scale": (0.14, 0.14), "aspect": (0.25, 4.0), "context_ratio": None}
    heights, widths = [], []
    for seed in range(200):
        missing = torch.ones(GRID * GRID, dtype=torch.bool)
        missing[draw(mask, 1, seed)[0]] = False
        rows, columns = missing.view(GRID, GRID).nonzero(as_tuple=True)
        heights.append(len(rows.unique()))
        widths.append(len(columns.unique()))
    standing = sum(h > w for h, w in zip(heights, widths, strict=True))
    lying = sum(h < w for h, w in zip(heights, widths, strict=True))
    assert 60 < standing < 140
    assert 60 < lying < 140
    assert {2, 6} <= set(heights)


def test_raw_complement_is_trimmed_to_the_smallest_of_the_batch() -> None:
    raw = MASK | {"context_ratio": None}
    alone = [draw(raw, 1, seed).shape[1] for seed in range(60)]
    assert 0.45 < sum(alone) / len(alone) / GRID**2 < 0.65  # four blocks leave about half, not a quarter
    together = draw(raw, 60, 0)
    # The least of 60 is below nine of ten others, and no sample of the batch has fewer.
    assert min(alone) - 5 < together.shape[1] < sorted(alone)[6]
    assert all(len(row.unique()) == together.shape[1] for row in together)


def test_covered_cells_fill_a_context_that_the_blocks_leave_too_small() -> None:
    mask = MASK | {"blocks": 4, "scale": (1.0, 1.0), "aspect": (1.0, 1.0)}
    context_idx = draw(mask, 500, 0)
    assert context_idx.shape == (500, 16)
    assert len(context_idx.unique()) == GRID * GRID
    assert draw(mask | {"context_ratio": None}, 3, 0).shape == (3, 1)


def test_uncovered_cells_come_first() -> None:
    """A context larger than the complement contains all of it."""
    mask = MASK | {"blocks": 1, "scale": (0.25, 0.25), "aspect": (1.0, 1.0)}
    left = draw(mask | {"context_ratio": None}, 20, 3)
    filled = draw(mask | {"context_ratio": 0.9}, 20, 3)
    assert filled.shape[1] > left.shape[1] == 48
    for small, large in zip(left, filled, strict=True):
        assert torch.isin(small, large).all()


def test_is_a_function_of_the_generator() -> None:
    assert torch.equal(draw(MASK, 30, 5), draw(MASK, 30, 5))
    assert not torch.equal(draw(MASK, 30, 5), draw(MASK, 30, 6))


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_share_of_full_frames(prob: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mask: dict[str, Any] = MASK | {"full_context_prob": prob}
    full = [sample_context(grid=GRID, batch_size=2, generator=generator, **mask) is None for _ in range(400)]
    assert abs(sum(full) / 400 - prob) < (0.08 if 0 < prob < 1 else 1e-9)


def test_a_full_frame_uses_as_many_random_numbers() -> None:
    states: list[Any] = []
    for prob in (0.0, 1.0):
        generator = torch.Generator().manual_seed(0)
        changed: dict[str, Any] = MASK | {"full_context_prob": prob}
        sample_context(grid=GRID, batch_size=7, generator=generator, **changed)
        states.append(generator.get_state())
    assert torch.equal(*states)
