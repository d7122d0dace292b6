"""Our published LeWM against stable-worldmodel's own classes, where that package is installed.

A torchvision that fits the CPU build of torch does not exist; `torchvision==0.28.0`, installed without its
dependencies, imports once the two operators are defined that it expects its own library to define.
"""

import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lewm.families.presets import preset
from lewm.families.published.model import Published
from lewm.families.published.released import read_released, write_released
from lewm.families.published.released_config import to_released
from lewm.families.published.settings import PublishedSettings
from tiny import batch_of

PEERS = ("stable_worldmodel", "transformers", "torchvision")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(find_spec, PEERS)),
        reason=f"not installed: {', '.join(name for name in PEERS if not find_spec(name))}",
    ),
]
SETTINGS = PublishedSettings(image_size=56, dropout=0.1)
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Peer:
    """The released classes, with random weights, as they were saved."""

    model: Any
    loss: Any
    folder: Path


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    operators = torch.library.Library("torchvision", "FRAGMENT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are not ours
        for name in ("nms", "qnms"):
            with suppress(RuntimeError):  # is there: torchvision brought its own library
                operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        published, module, loss, transformers = (
            importlib.import_module(name)
            for name in (
                "stable_worldmodel.wm.lewm",
                "stable_worldmodel.wm.lewm.module",
                "stable_worldmodel.wm.loss",
                "transformers",
            )
        )
        torch.manual_seed(0)
        model = build(published, module, transformers)
        folder = tmp_path_factory.mktemp("released")
        torch.save(model.state_dict(), folder / "weights.pt")
        (folder / "config.json").write_text(json.dumps(to_released(SETTINGS, 10)))
        yield Peer(model.eval(), loss.SIGReg(knots=17, num_proj=1024), folder)


def build(published: Any, module: Any, transformers: Any) -> Any:
    """Build the released model as its configuration says, and make every parameter matter."""
    width = 192
    vit = transformers.ViTConfig(
        image_size=SETTINGS.image_size,
        patch_size=14,
        hidden_size=width,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=4 * width,
    )
    sizes = {"input_dim": width, "output_dim": width, "hidden_dim": 2048}
    model = published.LeWM(
        encoder=transformers.ViTModel(vit, add_pooling_layer=False, use_mask_token=False),
        predictor=module.Predictor(
            **(sizes | {"hidden_dim": width}),
            num_frames=3,
            depth=6,
            heads=16,
            mlp_dim=2048,
            dim_head=64,
            dropout=0.1,
        ),
        action_encoder=module.Embedder(input_dim=10, emb_dim=width),
        projector=module.MLP(**sizes, norm_fn=nn.BatchNorm1d),
        pred_proj=module.MLP(**sizes, norm_fn=nn.BatchNorm1d),
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.dtype.is_floating_point:
                tensor.add_(0.05 * torch.randn_like(tensor))
    return model


@pytest.fixture
def ours(peer: Peer) -> Published:
    released = read_released(peer.folder)
    assert released.settings == SETTINGS
    config = replace(preset("published"), model=released.settings)
    model = Published(config)
    model.load_state_dict(released.weights, strict=False)
    return model.eval()


def frames(*shape: int) -> tuple[Tensor, Tensor]:
    """Return pictures, and as the release takes them: channels first, normalised by ImageNet's moments."""
    side = SETTINGS.image_size
    pictures = torch.randint(0, 256, (*shape, side, side, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return pictures, ((pictures / 255 - mean) / std).movedim(-1, -3)


def test_state_dict_has_every_released_tensor(peer: Peer, ours: Published) -> None:
    assert len(peer.model.state_dict()) == 303
    assert len(ours.state_dict()) == 305
    count = sum(p.numel() for p in peer.model.parameters())
    assert sum(p.numel() for p in ours.parameters()) == count


@torch.no_grad()
def test_encoder_and_projector(peer: Peer, ours: Published) -> None:
    pictures, pixels = frames(3)
    of_class_token = peer.model.encoder(pixels).last_hidden_state[:, 0]
    seen = []
    ours.encoder.projector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoded = ours.encode(pictures)[:, 0]
    close(seen[0], of_class_token)
    close(encoded, peer.model.encode({"pixels": pixels[:, None]})["emb"][:, 0])


@torch.no_grad()
def test_action_embedding_and_predictor(peer: Peer, ours: Published) -> None:
    z, actions = torch.randn(4, 3, 192), torch.randn(4, 3, 10)
    e_a = peer.model.action_encoder(actions)
    close(ours.action_embed(actions), e_a)
    for past in (1, 2, 3):
        expected = peer.model.predict(z[:, :past], e_a[:, :past])
        close(ours.predictor(z[:, :past], e_a[:, :past]), expected)


@torch.no_grad()
@pytest.mark.parametrize("past", [1, 3])
def test_rollout_and_cost(peer: Peer, ours: Published, past: int) -> None:
    pictures, pixels = frames(1, past)  # of one environment: the release's cost broadcasts no more
    goal_picture, goal_pixels = frames(1, 1)
    actions = torch.randn(1, 6, past - 1 + 5, 10)  # of 6 candidates
    info = {
        "pixels": pixels[:, None].expand(-1, 6, *pixels.shape[1:]),
        "goal": goal_pixels[:, None].expand(-1, 6, *goal_pixels.shape[1:]),
        "action": torch.zeros(1, 6, 1, 10),
    }
    cost = peer.model.get_cost(info, actions)  # (B, K)

    states = torch.stack([ours.encode(step) for step in pictures.unbind(1)], dim=1)  # (B, T, 1, D)
    rows = states.repeat_interleave(6, 0)
    flat = actions.flatten(0, 1)
    rolled = ours.rollout(rows, flat[:, : past - 1], flat[:, past - 1 :])  # (B*K, H, 1, D)
    close(rolled[:, :, 0], info["predicted_emb"][:, :, past:].flatten(0, 1))
    goal = ours.encode(goal_picture[:, 0])
    squared = (rolled[:, -1].view(1, 6, 1, -1) - goal[:, None]).square().sum((-2, -1))
    close(squared, cost)


def test_objective(peer: Peer, ours: Published) -> None:
    pictures, pixels = frames(5, 4)
    batch = batch_of(pictures, torch.randn(5, 3, 10))
    torch.manual_seed(3)
    losses = ours.losses(batch, torch.Generator())
    z = peer.model.encode({"pixels": pixels})["emb"]
    predicted = peer.model.predict(z[:, :3], peer.model.action_encoder(batch.actions))
    torch.manual_seed(3)
    statistic = peer.loss(z.transpose(0, 1))
    close(losses["loss_pred"], (predicted - z[:, 1:]).square().mean())
    close(losses["loss_reg"], statistic * 128 / 5)


def test_what_we_write_loads_there(peer: Peer, ours: Published, tmp_path: Path) -> None:
    write_released(tmp_path, ours)
    written = torch.load(tmp_path / "weights.pt", weights_only=True)
    if written.keys() != peer.model.state_dict().keys():
        pytest.skip("this release of transformers has other names; we write those of 4")
    peer.model.load_state_dict(written)
