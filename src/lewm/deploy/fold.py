"""Rewrite a model so that it computes the same with less: what an export does before it writes graphs."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_weights

from lewm.config import Config
from lewm.families.family import WorldModel
from lewm.families.published.modules import Projector as PublishedProjector
from lewm.model.encoder import Projector
from lewm.model.layers import Attention
from lewm.model.predictor import Predictor


def folded(model: WorldModel) -> WorldModel:
    """Return a copy for inference that gives the same numbers, but for rounding.

    Every BatchNorm becomes a part of the convolution or the linear layer before it. A token that can only attend to
    itself gets one linear layer in place of attention.

    Args:
        model: World model in evaluation mode.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            _fold_convolutions(module)
        elif isinstance(module, Projector | PublishedProjector):
            _fold_projector(module)
    if _predicts_from_one_token(model.config):
        for module in model.modules():
            if isinstance(module, Predictor):
                for block in module.blocks:
                    block.attention = _attention_of_one(block.attention)  # pyright: ignore[reportArgumentType]
    return model


def _fold_convolutions(layers: nn.Sequential) -> None:
    for k in range(len(layers) - 1):
        convolution, norm = layers[k], layers[k + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[k], layers[k + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()


def _fold_projector(module: Any) -> None:
    norm = module.norm
    module.fc1.weight, module.fc1.bias = fuse_linear_bn_weights(
        module.fc1.weight, module.fc1.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    module.norm = nn.Identity()


def _predicts_from_one_token(config: Config) -> bool:
    """Whether the predictor's sequence is one token long: one frame of one token, and no other."""
    settings: Any = config.model
    return (
        settings.num_tokens == 1
        and settings.history == 1
        and getattr(settings, "action_conditioning", "token") != "token"
        and not getattr(settings, "mask_tokens", False)
    )


def _attention_of_one(attention: Attention) -> "_OneToken":
    """Return what attention does to a single token: the value, projected."""
    width = attention.proj.in_features
    value, offset = attention.qkv.weight[2 * width :], attention.qkv.bias[2 * width :]
    linear = nn.Linear(width, width, device=value.device, dtype=value.dtype).requires_grad_(False)
    linear.weight.copy_(_product(attention.proj.weight, value))
    linear.bias.copy_(_product(attention.proj.weight, offset) + attention.proj.bias)
    return _OneToken(linear)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply in double precision: a rounding here is in every prediction."""
    return (a.double() @ b.double()).to(a.dtype)


class _OneToken(nn.Module):
    """A linear layer with the interface of attention."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor, read: int | None = None) -> Tensor:
        """Transform (B, 1, W)."""
        return self.linear(x)
