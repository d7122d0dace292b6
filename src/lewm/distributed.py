"""Sums over data-parallel ranks, with gradients."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of data-parallel processes, 1 without `torchrun`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, 0 without `torchrun`."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks; the identity in a single process.

    The gradient is summed as well. Every rank's loss therefore sees the whole batch, and the *mean* of the ranks'
    parameter gradients, which is what DistributedDataParallel forms, is the gradient of one process on that batch:
    a loss that is the same on every rank arrives world-size times and is divided by it, and a loss that is a rank's
    own share arrives once from each.
    """
    return _SumOverRanks.apply(x) if world_size() > 1 else x  # pyright: ignore[reportReturnType]
