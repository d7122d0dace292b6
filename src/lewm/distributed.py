"""Data-parallel processes: joining them, and sums over their ranks, with gradients."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


def any_rank(flag: bool, device: torch.device) -> bool:
    """Tell whether a flag is set on any rank; all ranks must call it, and all get the same answer."""
    if world_size() == 1:
        return flag
    count = torch.tensor(int(flag), device=device)
    dist.all_reduce(count)
    return bool(count)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` started, and leave them at the end; without `torchrun`, do nothing.

    Each process of a machine takes an accelerator of its own, where `device` is one.

    Args:
        device: Where this run computes; it decides how the processes talk (gloo on the CPU, NCCL on CUDA).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(dist.get_default_backend_for_device(device))
    try:
        yield
    finally:
        dist.destroy_process_group()


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grad.clone(memory_format=torch.contiguous_format)
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
