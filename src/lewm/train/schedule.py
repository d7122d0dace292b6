"""Schedules as shares of the run, and the optimiser's parameter groups (article, section 5)."""

import math

import torch
from torch import nn

from lewm.config import TrainConfig


def learning_rate(step: int, train: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up to the peak, then cosine to the final value."""
    warmup = max(1, round(train.warmup * train.steps))
    if step < warmup:
        return train.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, train.steps - 1 - warmup)
    span = train.learning_rate - train.final_learning_rate
    return train.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW over all parameters that train.

    Matrices and convolution kernels decay; norms, biases, positions, ages and mask tokens do not.
    """
    decay, keep = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_weight = parameter.ndim >= 2 and not name.endswith(("pos_embed", "age_embed"))
        (decay if is_weight else keep).append(parameter)
    groups = [{"params": decay, "weight_decay": train.weight_decay}, {"params": keep, "weight_decay": 0.0}]
    fused = decay[0].is_cuda  # it can be told on the device not to step
    settings = {"lr": train.learning_rate, "betas": train.betas, "eps": train.eps}
    return torch.optim.AdamW(groups, **settings, fused=fused, foreach=not fused)
