"""The published LeWM, built from stable-worldmodel's own classes, where that package is installed."""

import math
import warnings
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import Config, TrainConfig
from lewm.rivals.rival import RivalWorldModel, frame_planes

PATCH, WIDTH, HISTORY = 14, 192, 3
REGULARISER_WEIGHT = 0.09
LEARNING_RATE, WEIGHT_DECAY = 5e-5, 1e-3
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class SWMLeWM(RivalWorldModel):
    """LeWM of stable-worldmodel: ViT-tiny, class token, projector; causal predictor with AdaLN over 3 frames.

    L = |g(z_{t-2..t}, a_{t-2..t}) - z_{t+1}|^2 + 0.09 SIGReg(z), with gradients through both branches.

    Note:
        Sizes, weights of the objective, peak learning rate and weight decay are the published ones; steps, batches and
        the form of the schedule are those of the settings. Frames are enlarged to the next multiple of the patch of 14
        pixels, not to the published 224, which would cost ten times as much and show nothing more. A rollout starts
        from the `model.history` frames that it is given, and sees at most 3.
    """

    name = "swm-lewm"

    def __init__(self, config: Config) -> None:
        super().__init__(config, WIDTH)
        published, module, loss, transformers = (
            _imported(name)
            for name in (
                "stable_worldmodel.wm.lewm",
                "stable_worldmodel.wm.lewm.module",
                "stable_worldmodel.wm.loss",
                "transformers",
            )
        )
        self.side = math.ceil(config.model.image_size / PATCH) * PATCH
        vit = transformers.ViTConfig(
            image_size=self.side,
            patch_size=PATCH,
            hidden_size=WIDTH,
            num_hidden_layers=12,
            num_attention_heads=3,
            intermediate_size=4 * WIDTH,
        )
        sizes: dict[str, Any] = {"input_dim": WIDTH, "output_dim": WIDTH, "hidden_dim": 2048}
        self.published = published.LeWM(
            encoder=transformers.ViTModel(vit, add_pooling_layer=False, use_mask_token=False),
            predictor=module.Predictor(
                num_frames=HISTORY,
                depth=6,
                heads=16,
                mlp_dim=2048,
                dim_head=64,
                dropout=0.1,
                input_dim=WIDTH,
                hidden_dim=WIDTH,
                output_dim=WIDTH,
            ),
            action_encoder=module.Embedder(input_dim=self.action_vector.width, emb_dim=WIDTH),
            projector=module.MLP(**sizes, norm_fn=nn.BatchNorm1d),
            pred_proj=module.MLP(**sizes, norm_fn=nn.BatchNorm1d),
        )
        self.regulariser = loss.SIGReg()
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN)[:, None, None])
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD)[:, None, None])

    @property
    def train_config(self) -> TrainConfig:
        """The settings with the published peak learning rate and weight decay."""
        return replace(self.config.train, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    @property
    def clip_frames(self) -> int:
        """The predictor's frames and the one after them."""
        return HISTORY + 1

    def encode(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, 1, D)."""
        planes = (frame_planes(frame) - self.pixel_mean) / self.pixel_std
        planes = F.interpolate(planes, (self.side, self.side), mode="bilinear", antialias=True)
        return self.published.encode({"pixels": planes[:, None]})["emb"]

    def loss_of(self, frames: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Compute the published objective of clips."""
        z = self.encode(frames.flatten(0, 1)).view(*frames.shape[:2], -1)  # (B, T, D)
        predicted = self.published.predict(z[:, :-1], self._embed(actions))  # (B, T-1, D)
        loss_pred = (predicted - z[:, 1:]).square().mean()
        loss_reg = self.regulariser(z.transpose(0, 1))
        return {"loss": loss_pred + REGULARISER_WEIGHT * loss_reg, "loss_pred": loss_pred, "loss_reg": loss_reg}

    def rollout(self, tokens: Tensor, action: Tensor, /) -> Tensor:
        """Predict (B, H, 1, D), each frame from the 3 before it."""
        z, e_a = list(tokens[:, :, 0].unbind(1)), self._embed(action)
        past = len(z)
        for k in range(past, action.shape[1] + 1):
            seen = slice(max(0, k - HISTORY), k)
            z.append(self.published.predict(torch.stack(z[seen], dim=1), e_a[:, seen])[:, -1])
        return torch.stack(z[past:], dim=1)[:, :, None]

    def _embed(self, action: Tensor) -> Tensor:
        return self.published.action_encoder(self.action_vector(action))


def _imported(name: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its simulators, which are not used
            return import_module(name)
    except (ImportError, RuntimeError) as error:  # torchvision, which it imports, fails by a RuntimeError
        raise ValueError(
            f"rival=swm-lewm: {name} cannot be imported ({error}); install stable-worldmodel, transformers and a "
            "torchvision that fits torch"
        ) from None
