"""What rivals share: sizes, and actions as vectors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lewm.config import Config, preset
from lewm.model import WorldModel
from lewm.rivals import RIVALS
from lewm.rivals.rival import ActionVector, RivalWorldModel, halvings
from tiny import tiny

SELF_WRITTEN = ("tdmpc2", "dreamer", "gcbc")


def trained_weights(config: Config) -> int:
    """Count what training moves in the package's own model."""
    model = WorldModel(config)
    return sum(
        p.numel() for name, p in model.named_parameters() if p.requires_grad and not name.startswith("steps_to_go.")
    )


@pytest.mark.parametrize("name", SELF_WRITTEN)
@pytest.mark.parametrize(("base", "image_size"), [("tiny", 32), ("tiny", 64), ("tiny", 128), ("base", 128)])
def test_is_as_large_as_the_packages_model(name: str, base: str, image_size: int) -> None:
    config = preset(base)
    config = replace(config, model=replace(config.model, image_size=image_size))
    assert RIVALS[name](config).num_parameters == pytest.approx(trained_weights(config), rel=0.2)


def test_counts() -> None:
    config = preset("tiny")
    counts = {name: RIVALS[name](config).num_parameters for name in SELF_WRITTEN}
    assert (trained_weights(config), counts) == (746_600, {"tdmpc2": 722_512, "dreamer": 646_763, "gcbc": 737_300})


@pytest.mark.parametrize("name", ["tdmpc2", "dreamer"])
@pytest.mark.parametrize("image_size", [32, 48, 56, 96])
def test_any_image_size_and_history(name: str, image_size: int) -> None:
    config = tiny(model__image_size=image_size, data__frame_skip=2)
    torch.manual_seed(0)
    model = RIVALS[name](config).eval()
    assert isinstance(model, RivalWorldModel)
    frames = torch.randint(256, (2, 2, image_size, image_size, 3), dtype=torch.uint8)
    actions = torch.randn(2, 4, 4)
    with torch.no_grad():
        tokens = model.encode(frames.flatten(0, 1)).unflatten(0, (2, 2))
        ahead = model.rollout(tokens, actions)
        assert tokens.shape == (2, 2, 1, tokens.shape[-1])
        assert ahead.shape == (2, 3, 1, tokens.shape[-1])  # one of the four actions lies behind
        changed = actions.clone()
        changed[:, 2] += 1
        differs = (model.rollout(tokens, changed) - ahead).abs().amax((0, 2, 3)) > 0
        assert differs.tolist() == [False, True, True]
        # what a frame is represented by does not depend on the frames beside it
        torch.testing.assert_close(model.encode(frames[:1, 1]), tokens[:1, 1])
        fresh = model.fresh_encoder()
        assert not torch.equal(fresh(frames[:, 0]), tokens[:, 0])


def test_action_vectors() -> None:
    config = tiny(data__frame_skip=2)
    vector = ActionVector(config)
    vector.standardise(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
    action = torch.tensor([[3.0, 5.0, -1.0, 2.0]])
    torch.testing.assert_close(vector(action), torch.tensor([[1.0, 3.0, -1.0, 0.0]]))  # a constant entry is shifted
    discrete = ActionVector(tiny(action__kind="discrete", action__size=3, data__frame_skip=2))
    np.testing.assert_array_equal(discrete(torch.tensor([[2, 0]])), [[0, 0, 1, 1, 0, 0]])


def test_halvings_end_at_four_or_less() -> None:
    assert halvings(64) == [64, 32, 16, 8, 4]
    assert halvings(112) == [112, 56, 28, 14, 7, 3]
