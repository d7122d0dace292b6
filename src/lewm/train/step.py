"""One training step of any family: its loss, a clipped gradient step, and what the family does after it."""

import torch
import torch.distributed as dist
from torch import Tensor

from lewm.config import TrainConfig
from lewm.distributed import world_size
from lewm.families.family import Batch, Family


def average_gradients(parameters: list[Tensor]) -> None:
    """Replace gradients by their mean over data-parallel ranks, in one transfer."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def train_step(
    model: Family,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    train: TrainConfig,
    *,
    generator: torch.Generator,
    learning_rate: float,
    share_done: float,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Take one gradient step and let the family follow it (Algorithm 1, lines 3-26).

    Args:
        model: In training mode.
        optimizer: AdamW over the parameters that train.
        batch: Clips of this rank.
        train: Precision, and the largest gradient norm.
        generator: CPU generator of what the loss draws.
        learning_rate: Of this step.
        share_done: 0 at the first step of the run, 1 at the last.

    Returns:
        The scalars of `Family.losses` and `grad_norm`, averaged over ranks, on the device; and numbers of
        `Family.after_step`. If the loss or the gradient is not finite, no weight has changed.
    """
    with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
        losses = model.losses(batch, generator)  # l.3-23

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    average_gradients(parameters)
    metrics = torch.stack(list(losses.values())).detach().float()  # the total first
    if world_size() > 1:
        dist.all_reduce(metrics)
        metrics /= world_size()
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, train.clip_norm)
    finite = torch.isfinite(metrics[0]) & torch.isfinite(grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    told: dict[str, float] = {}
    if optimizer.defaults["fused"]:  # told on the device whether to step, as a gradient scaler tells it: no wait
        optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()  # l.24
        told = model.after_step(share_done, only_if=finite)  # l.25-26
    elif finite:
        optimizer.step()
        told = model.after_step(share_done)
    return dict(zip(losses, metrics, strict=True)) | {"grad_norm": grad_norm}, told
