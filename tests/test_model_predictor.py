"""The predictor: its sequence put together by hand, and that every input matters."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from lewm.config import Config, JepaSettings
from lewm.model.predictor import Predictor
from tiny import tiny, tiny_article

Conditioning = Literal["add", "film", "token"]
CONDITIONINGS: list[Conditioning] = ["add", "film", "token"]
N, D, P = 16, 16, 12


def make(config: JepaSettings, *, mask_tokens: bool = True) -> Predictor:
    """A predictor whose zero and small parameters have values that matter."""
    torch.manual_seed(0)
    predictor = Predictor(config, mask_tokens=mask_tokens)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return predictor


def config(conditioning: Conditioning = "add", history: int = 1) -> JepaSettings:
    settings = {"model__action_conditioning": conditioning, "model__history": history}
    return jepa(tiny_article(**settings, model__final_norm="none"))


def jepa(config: Config) -> JepaSettings:
    assert isinstance(config.model, JepaSettings)
    return config.model


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_sequence(conditioning: Conditioning) -> None:
    """Two frames of context tokens, mask tokens for all positions, and the action where section 4.6 wants it."""
    predictor = make(config(conditioning, history=3))
    old, new = draw(2, 5, D), draw(2, 4, D, seed=1)
    old_idx = torch.tensor([[0, 1, 2, 3, 9], [4, 5, 6, 7, 8]])
    new_idx = torch.tensor([[0, 5, 10, 15], [3, 6, 9, 12]])
    e_a = draw(2, 2, P, seed=2)
    rows = []
    for b in range(2):
        sequence, condition = [], []
        for i, (z, position) in enumerate(((old, old_idx), (new, new_idx))):
            for token, place in zip(z[b], position[b], strict=True):
                age = 1 - i
                sequence.append(predictor.project_in(token) + predictor.pos_embed[place] + predictor.age_embed[age])
                condition.append(e_a[b, i])
        assert predictor.mask_token is not None
        for place in range(N):
            sequence.append(predictor.mask_token + predictor.pos_embed[place])
            condition.append(e_a[b, 1])
        x, e = torch.stack(sequence)[None], torch.stack(condition)[None]
        if conditioning == "add":
            x = x + e
        if conditioning == "token":
            actions = [e_a[b, 0] + predictor.age_embed[1], e_a[b, 1] + predictor.age_embed[0]]
            x = torch.cat([torch.stack(actions)[None], x], dim=1)
        for block in predictor.blocks:
            x = block(x, e)
        rows.append(predictor.project_out(predictor.norm(x[:, -N:])))
    got = predictor([(old, old_idx), (new, new_idx)], e_a)
    assert got.shape == (2, N, D)
    torch.testing.assert_close(got, torch.cat(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_input_matters(conditioning: Conditioning) -> None:
    predictor = make(config(conditioning, history=2))
    old, new, e_a = draw(1, N, D), draw(1, N, D, seed=1), draw(1, 2, P, seed=2)
    base = predictor([(old, None), (new, None)], e_a)
    other_past, other_now = e_a.clone(), e_a.clone()
    other_past[:, 0] += draw(P, seed=4)
    other_now[:, 1] += draw(P, seed=4)
    shuffled = torch.arange(N).flip(0)[None]
    others = {
        "latest action": predictor([(old, None), (new, None)], other_now),
        "past action": predictor([(old, None), (new, None)], other_past),
        "old frame": predictor([(old + draw(1, N, D, seed=3), None), (new, None)], e_a),
        "new frame": predictor([(old, None), (new + draw(1, N, D, seed=3), None)], e_a),
        "age": predictor([(new, None), (old, None)], e_a),
        "position": predictor([(old, None), (new, shuffled)], e_a),
        "history": predictor([(new, None)], e_a[:, 1:]),
    }
    for name, other in others.items():
        assert (other - base).abs().max() > 1e-2, name


def test_actions_do_not_mix_between_samples() -> None:
    predictor = make(config())
    z, e_a = draw(3, N, D), draw(3, 1, P, seed=1)
    base = predictor([(z, None)], e_a)
    for b in range(3):
        torch.testing.assert_close(
            predictor([(z[b : b + 1], None)], e_a[b : b + 1]), base[b : b + 1], rtol=1e-4, atol=1e-5
        )


def test_none_stands_for_all_positions_in_order() -> None:
    predictor = make(config())
    z, e_a = draw(2, N, D), draw(2, 1, P, seed=1)
    torch.testing.assert_close(predictor([(z, None)], e_a), predictor([(z, torch.arange(N).expand(2, -1))], e_a))


@pytest.mark.parametrize("norm", ["unit", "rms"])
def test_inputs_are_normalised_in_one_way(norm: Literal["unit", "rms"]) -> None:
    """A prediction fed back enters at the scale of encoded frames, whatever its own (decision: one way everywhere)."""
    predictor = make(jepa(tiny_article(model__final_norm=norm)))
    z, e_a = draw(2, N, D), draw(2, 1, P, seed=1)
    torch.testing.assert_close(predictor([(z, None)], e_a), predictor([(z * 50, None)], e_a), rtol=1e-3, atol=1e-3)


def test_film_starts_without_the_action_and_learns_it() -> None:
    torch.manual_seed(0)
    predictor = Predictor(config("film"), mask_tokens=True)
    z, e_a = draw(2, N, D), draw(2, 1, P, seed=1).requires_grad_()
    out = predictor([(z, None)], e_a)
    assert torch.equal(out, predictor([(z, None)], e_a + 1))
    out.square().sum().backward()
    gradient = dict(predictor.named_parameters())["blocks.0.film.weight"].grad
    assert gradient is not None
    assert gradient.abs().max() > 1e-4


def test_in_place_the_newest_frames_tokens_become_the_next_ones() -> None:
    """Half of the sequence: the tokens of both frames alone, and the output is where the newest frame was."""
    predictor = make(config(history=2), mask_tokens=False)
    assert predictor.mask_token is None
    old, new, e_a = draw(2, N, D), draw(2, N, D, seed=1), draw(2, 2, P, seed=2)
    with torch.no_grad():
        sequence = [
            predictor.project_in(z) + predictor.pos_embed + predictor.age_embed[1 - i] + e_a[:, i, None]
            for i, z in enumerate((old, new))
        ]
        x = torch.cat(sequence, dim=1)
        for block in predictor.blocks:
            x = block(x)
        expected = predictor.project_out(predictor.norm(x[:, N:]))
        out = predictor([(old, None), (new, None)], e_a)
    torch.testing.assert_close(out, expected)


def test_one_token_a_frame_has_no_positions_to_tell() -> None:
    predictor = make(jepa(tiny()), mask_tokens=False)
    assert predictor([(draw(3, 1, D), None)], draw(3, 1, P)).shape == (3, 1, D)
