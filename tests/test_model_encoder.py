"""The encoder against its parts put together by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import EncoderSettings, FamilySettings
from lewm.model.encoder import Encoder, normalise
from tiny import ARTICLE, IMAGE, TINY

MODEL: Any = replace(ARTICLE.model, depth=2)


def make(config: FamilySettings, *, project: bool = False) -> Encoder:
    torch.manual_seed(0)
    assert isinstance(config, EncoderSettings)
    return Encoder(config, project=project)


def frames(count: int, size: int = IMAGE) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def patches_by_hand(encoder: Encoder, frame: Tensor) -> Tensor:
    """Two 3x3 convolutions of stride 2 with batch normalisation and GELU, then one linear map a patch."""
    x = (frame.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    weights = dict(encoder.named_parameters())
    for name in ("stem.0.weight", "stem.3.weight"):
        x = F.conv2d(x, weights[name], stride=2, padding=1)
        centred = x - x.mean((0, 2, 3), keepdim=True)
        x = F.gelu(centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt())
    weight, bias = weights["patch.weight"], weights["patch.bias"]
    side = weight.shape[-1]
    tokens = [
        F.linear(x[:, :, r : r + side, c : c + side].flatten(1), weight.flatten(1), bias)
        for r in range(0, x.shape[2], side)
        for c in range(0, x.shape[3], side)
    ]
    return torch.stack(tokens, dim=1)


def test_context_enters_the_transformer_alone() -> None:
    encoder, frame = make(MODEL), frames(3)
    context_idx = torch.tensor([[0, 3, 15], [1, 2, 4], [7, 8, 9]])
    x = patches_by_hand(encoder, frame) + encoder.pos_embed
    x = torch.stack([x[b, context_idx[b]] for b in range(3)])
    for block in encoder.blocks:
        x = block(x)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    got = encoder(frame, context_idx)
    assert got.shape == (3, 3, 16)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_all_positions_in_order_are_the_full_frame() -> None:
    encoder, frame = make(MODEL).eval(), frames(2)
    full = encoder(frame)
    assert full.shape == (2, 16, 16)
    torch.testing.assert_close(encoder(frame, torch.arange(16).expand(2, -1)), full)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder(frame, order.expand(2, -1)), full[:, order], rtol=1e-4, atol=1e-5)


def test_a_token_does_not_see_what_the_context_leaves_out() -> None:
    """Beyond the stem's few pixels of overlap, a change outside of the context changes nothing."""
    encoder, frame = make(MODEL).eval(), frames(1)
    context_idx = torch.tensor([[0, 1]])
    changed = frame.clone()
    changed[:, 16:] = 255 - changed[:, 16:]
    assert torch.equal(encoder(frame, context_idx), encoder(changed, context_idx))
    assert not torch.equal(encoder(frame), encoder(changed))


def test_position_matters() -> None:
    encoder = make(replace(MODEL, stem="linear")).eval()
    tokens = encoder(torch.full((1, IMAGE, IMAGE, 3), 90, dtype=torch.uint8))
    assert (tokens[0, 0] - tokens[0, 1]).abs().max() > 1e-3
    with torch.no_grad():
        encoder.pos_embed.zero_()
    tokens = encoder(torch.full((1, IMAGE, IMAGE, 3), 90, dtype=torch.uint8))
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens))


@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize(("size", "count"), [(128, 64), (224, 196)])
def test_token_count_follows_the_image(stem, size: int, count: int) -> None:
    encoder = make(replace(MODEL, stem=stem, image_size=size, patch_size=4, depth=1)).eval()
    with torch.no_grad():
        assert encoder(frames(1, size)).shape == (1, count, 16)


def test_linear_stem_is_one_linear_map_a_patch() -> None:
    encoder, frame = make(replace(MODEL, stem="linear")), frames(2)
    weights, pixels = dict(encoder.named_parameters()), (frame.float() - 127.5) / 127.5
    expected = torch.stack(
        [
            torch.einsum("bhwc,dchw->bd", pixels[:, r : r + 8, c : c + 8], weights["patch.weight"])
            + weights["patch.bias"]
            for r in range(0, IMAGE, 8)
            for c in range(0, IMAGE, 8)
        ],
        dim=1,
    )
    encoder.blocks = nn.ModuleList()
    encoder.final_norm = "none"
    with torch.no_grad():
        encoder.pos_embed.zero_()
    torch.testing.assert_close(encoder(frame), expected, rtol=1e-4, atol=1e-5)


def test_final_norms() -> None:
    frame = frames(2)
    plain = make(replace(MODEL, final_norm="none"))(frame)
    unit = make(replace(MODEL, final_norm="unit"))(frame)
    rms = make(replace(MODEL, final_norm="rms"))(frame)
    layer = make(replace(MODEL, final_norm="layer"))
    std = plain.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(unit, (plain - plain.mean(-1, keepdim=True)) / std, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(rms, plain / plain.square().mean(-1, keepdim=True).sqrt(), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(layer(frame), unit)
    names = [name for name, _ in layer.named_parameters() if name.startswith("norm")]
    assert names == ["norm.weight", "norm.bias"]
    with torch.no_grad():
        weights = dict(layer.named_parameters())
        weights["norm.weight"].fill_(2.0)
        weights["norm.bias"].fill_(0.5)
    torch.testing.assert_close(layer(frame), 2 * unit + 0.5)


def test_normalise_brings_any_scale_to_that_of_representations() -> None:
    tokens = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(normalise(tokens, "none"), tokens)
    assert torch.equal(normalise(tokens, "layer"), tokens)
    for norm in ("unit", "rms"):
        once = normalise(100 * tokens + 3, norm)
        assert once.square().mean(-1).allclose(torch.ones(2, 3), atol=1e-4)
        torch.testing.assert_close(normalise(once, norm), once, rtol=1e-4, atol=1e-4)


def test_one_token_a_frame_is_projected_from_all_patches() -> None:
    whole = make(MODEL)
    encoder = make(replace(MODEL, final_norm="none"), project=True)
    encoder.load_state_dict(whole.state_dict(), strict=False)  # the same but for the projector
    x = frames(6)
    project = encoder.project
    assert project is not None
    with torch.no_grad():
        tokens = make(replace(MODEL, final_norm="none"))
        tokens.load_state_dict(whole.state_dict())
        z = tokens(x)  # (6, N, D), before any norm
        hidden = F.linear(F.linear(z, project.narrow.weight, project.narrow.bias).reshape(6, -1), project.fc1.weight)
        hidden = hidden + project.fc1.bias
        centred = hidden - hidden.mean(0)
        hidden = F.gelu(centred / (centred.square().mean(0) + 1e-5).sqrt())
        expected = F.linear(hidden, project.fc2.weight, project.fc2.bias)
        out = encoder(x)
    assert out.shape == (6, 1, MODEL.width)
    torch.testing.assert_close(out[:, 0], expected, rtol=1e-3, atol=1e-4)
    assert (MODEL.num_tokens, TINY.model.num_tokens) == (16, 1)
