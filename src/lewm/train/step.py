"""Algorithm 1 of the article: one training step."""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lewm.config import Config
from lewm.distributed import world_size
from lewm.model import WorldModel
from lewm.objective.prediction import prediction_loss


def compute_loss(
    model: WorldModel,
    frames: Tensor,
    actions: Tensor,
    context_idx: Tensor | None,
    regulariser: Callable[[Tensor, Tensor], Tensor],
    config: Config,
    *,
    weight: float | None = None,
) -> dict[str, Tensor]:
    """Compute the objective L = L_pred + lambda L_reg of a batch of clips (Algorithm 1, lines 5-23).

    Beyond the article, `loss.slowness` adds mu L_slow, the Smooth-L1 distance between the present frame's tokens and
    the next frame's. Without it the representation can settle for where things are *within* a patch: that is easy to
    predict and satisfies the regulariser, and two places one patch apart look the same to a planner. What changes
    slowly along a trajectory is where things are in the scene. And `loss.inverse` adds nu L_inv, the squared error of
    decoding the action from the change of the tokens: what the action moves stays in the representation.
    `loss.straightening` adds kappa L_straight, 1 - cos of two changes in a row (arXiv 2603.12231).
    `loss.target_gradient` is the published model's form: no target encoder, and gradients through both frames.

    Args:
        model: The world model, in training mode.
        frames: (B, T+R, height, width, 3) uint8: T context frames, oldest first, and the R frames to predict.
        actions: (B, T+R-1, f*A) float or (B, T+R-1, f) int64.
        context_idx: (B, Nc) positions that the online encoder sees, or None for whole frames.
        regulariser: (tokens (B*T, Nc, D), positions (B*T, Nc)) to a scalar.
        config: R is `train.rollout_steps`; beyond the first step predictions are fed back.
        weight: lambda of this step; `loss.weight` if None.

    Returns:
        Scalars: the total `loss` and its parts before their weights, `loss_pred`, `loss_reg`, `loss_slow` and, where
        they have a weight, `loss_inv` and `loss_straight`.
    """
    steps, cfg = config.train.rollout_steps, config.loss
    past = frames.shape[1] - steps
    grid = torch.arange(config.model.num_tokens, device=frames.device).expand(len(frames), -1)
    positions = grid if context_idx is None else context_idx
    repeated = None if context_idx is None else context_idx.repeat_interleave(past, 0)

    z_c = model.encoder(frames[:, :past].flatten(0, 1), repeated)  # l.6-7   (B*T, Nc, D)
    with torch.set_grad_enabled(cfg.target_gradient):
        target_encoder = model.encoder if cfg.target_gradient else model.target_encoder
        s_next = target_encoder(frames[:, past:].flatten(0, 1))  # l.9-10  (B*R, N, D)
    regularised = torch.cat([z_c, s_next]) if cfg.target_gradient else z_c
    s_next = s_next.unflatten(0, (-1, steps))  # (B, R, N, D)

    context = [(z, context_idx) for z in z_c.unflatten(0, (-1, past)).unbind(1)]
    loss_pred = torch.zeros((), device=frames.device)
    for k in range(steps):
        seen = slice(max(0, past + k - config.model.history), past + k)
        s_hat = model.step(context[seen], actions[:, seen])  # l.12-13 (B, N, D)
        target = s_next[:, k]
        if config.mask.targets == "blocks" and context_idx is not None:
            s_hat_scored, target = outside(s_hat, context_idx), outside(target, context_idx)
        else:
            s_hat_scored = s_hat
        term = prediction_loss(s_hat_scored, target, beta=cfg.beta, reduction=cfg.reduction, form=cfg.form)  # l.15
        loss_pred = loss_pred + term / steps
        context.append((s_hat, None))

    repeats = len(regularised) // len(frames)
    loss_reg = regulariser(regularised, positions.repeat_interleave(repeats, 0))  # l.17-21
    now, soon = context[past - 1][0], s_next[:, 0]
    if context_idx is not None:
        soon = soon.gather(1, context_idx[..., None].expand_as(now))  # (B, Nc, D)
    loss_slow = prediction_loss(now, soon, beta=cfg.beta, reduction=cfg.reduction, form=cfg.form)

    weight = cfg.weight if weight is None else weight
    loss = loss_pred + weight * loss_reg + cfg.slowness * loss_slow  # l.23
    losses = {"loss_pred": loss_pred, "loss_reg": loss_reg, "loss_slow": loss_slow}
    if model.inverse is not None:
        done = model.action_embed.summed(actions[:, past - 1])  # (B, A)
        losses["loss_inv"] = F.mse_loss(model.inverse(now, s_next[:, 0]), done)
        loss = loss + cfg.inverse * losses["loss_inv"]
    if cfg.straightening:
        first, second = (s_next[:, 0] - now).flatten(1), (s_next[:, 1] - s_next[:, 0]).flatten(1)
        losses["loss_straight"] = 1 - F.cosine_similarity(first, second).mean()
        loss = loss + cfg.straightening * losses["loss_straight"]
    return {"loss": loss} | losses


def outside(tokens: Tensor, context_idx: Tensor) -> Tensor:
    """Keep the tokens (B, N, D) at positions not in `context_idx` (B, Nc), as (B, N - Nc, D)."""
    batch, count, width = tokens.shape
    kept = torch.ones(batch, count, dtype=torch.bool, device=tokens.device).scatter(1, context_idx, False)
    return tokens[kept].view(batch, count - context_idx.shape[1], width)


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
    model: WorldModel,
    optimizer: torch.optim.Optimizer,
    frames: Tensor,
    actions: Tensor,
    context_idx: Tensor | None,
    regulariser: Callable[[Tensor, Tensor], Tensor],
    config: Config,
    *,
    learning_rate: float,
    momentum: float,
    weight: float | None = None,
) -> dict[str, Tensor]:
    """Take one gradient step and move the target encoder (Algorithm 1, lines 5-26).

    Args:
        model, frames, actions, context_idx, regulariser, config: As in `compute_loss`.
        optimizer: AdamW over the online parameters.
        learning_rate: Of this step.
        momentum: tau of this step.
        weight: lambda of this step; `loss.weight` if None.

    Returns:
        The scalars of `compute_loss` and `grad_norm`, averaged over ranks. If the loss or the gradient is not finite,
        no weight has changed.
    """
    bfloat16 = config.train.precision == "bfloat16"
    with torch.autocast(frames.device.type, torch.bfloat16, enabled=bfloat16):
        losses = compute_loss(model, frames, actions, context_idx, regulariser, config, weight=weight)

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    average_gradients(parameters)
    metrics = torch.stack(list(losses.values())).detach().float()  # the total first
    if world_size() > 1:
        dist.all_reduce(metrics)
        metrics /= world_size()
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.train.clip_norm)
    finite = torch.isfinite(metrics[0]) & torch.isfinite(grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if optimizer.defaults["fused"]:  # told on the device whether to step, as a gradient scaler tells it: no wait
        optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()  # l.24
        model.ema_update(momentum, only_if=finite)  # l.26
    elif finite:
        optimizer.step()
        model.ema_update(momentum)
    return dict(zip(losses, metrics, strict=True)) | {"grad_norm": grad_norm}
