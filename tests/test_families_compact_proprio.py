"""Numbers of the compact family's vector that read what the robot measures of itself."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.data.store import Store
from lewm.families.compact.model import Compact
from lewm.families.family import Batch
from lewm.objective import prediction_loss
from lewm.train import train
from lewm.train.checkpoint import load_run
from tiny import IMAGE, moving_dot, tiny

BATCH, D = 6, 16
NAMES = ("hand_x", "other", "hand_y")
KNOWN = tiny(model__proprio=("hand_y", "hand_x"), model__final_norm="none")


def setup(config: Config, length: int = 2) -> tuple[Compact, Batch]:
    torch.manual_seed(0)
    model = Compact(config).train()
    model.standardise_states(NAMES, torch.tensor([1.0, 9.0, 2.0]), torch.tensor([2.0, 9.0, 0.0]))
    frames = torch.randint(0, 256, (BATCH, length, IMAGE, IMAGE, 3), dtype=torch.uint8)
    actions = torch.randn(BATCH, length - 1, config.model_action_size)
    return model, Batch(frames, actions, np.arange(BATCH), states=torch.randn(BATCH, length, 3))


def losses_of(model: Compact, batch: Batch) -> dict[str, Tensor]:
    return model.losses(batch, torch.Generator().manual_seed(0))


def test_the_last_numbers_read_the_named_variables_standardised() -> None:
    model, batch = setup(KNOWN)
    assert batch.states is not None
    known = model.known(batch.states)
    assert known is not None
    torch.testing.assert_close(known[..., 0], batch.states[..., 2] - 2)  # a constant is only shifted
    torch.testing.assert_close(known[..., 1], (batch.states[..., 0] - 1) / 2)
    with torch.no_grad():
        z = model.encoder(batch.frames[:, 0])
    free, read = model.halves(z)
    assert (free.shape, read.shape) == ((BATCH, 1, D - 2), (BATCH, 1, 2))
    torch.testing.assert_close(read * math.sqrt((D - 2) / 2), z[..., -2:])


@pytest.mark.parametrize("both", [False, True])
def test_what_is_read_is_no_part_of_the_other_terms(both: bool) -> None:
    model, batch = setup(tiny(model__proprio=("hand_x",), model__final_norm="none", model__target_gradient=both))
    model.eval()  # BatchNorm does not move
    with torch.no_grad():
        z, soon = (model.encoder if both else model.target_encoder)(batch.frames[:, 1]), None
        z, soon = model.encoder(batch.frames[:, 0]), z
        s_hat = model.predictor([(z, None)], model.action_embed(batch.actions))
    known = model.known(batch.states)
    assert known is not None
    losses = losses_of(model, batch)
    torch.testing.assert_close(losses["loss_slow"], prediction_loss(z[..., :-1], soon[..., :-1]))
    own = prediction_loss(s_hat[..., :-1], soon[..., :-1])
    read = prediction_loss(s_hat[..., -1:] / math.sqrt(D - 1), known[:, 1:])
    torch.testing.assert_close(losses["loss_pred"], own + read)
    seen = torch.cat([z, soon], 1) if both else z
    expected = prediction_loss(seen[..., -1:] / math.sqrt(D - 1), known[:, : seen.shape[1]])
    torch.testing.assert_close(losses["loss_read"], expected)
    settings = model.settings
    parts = losses["loss_pred"] + settings.regulariser_weight * losses["loss_reg"] + losses["loss_read"]
    torch.testing.assert_close(losses["loss"], parts + settings.slowness * losses["loss_slow"])


def test_without_names_nothing_changes() -> None:
    plain, batch = setup(tiny())
    assert plain.known(batch.states) is None
    assert plain.halves(torch.zeros(2, 1, D))[0].shape == (2, 1, D)
    assert "loss_read" not in losses_of(plain, batch)
    assert not any("known" in name for name in plain.state_dict())


def test_training_learns_to_read_and_a_loaded_run_reads_the_same(tmp_path: Path) -> None:
    store = Store(moving_dot(tmp_path / "store").path)
    names = store.meta.state_names
    config = tiny(
        model__proprio=(names[0],), model__final_norm="none", train__steps=150, train__batch_size=32,
        train__learning_rate=3e-3, train__cost_steps=0, plan__cost="tokens",
    )  # fmt: skip
    train(config, store.path, tmp_path / "run", progress=False)
    model = load_run(tmp_path / "run").model
    assert isinstance(model, Compact)
    assert store.states is not None
    index = np.arange(0, len(store.frames), 7)
    with torch.no_grad():
        read = model.halves(model.encode(store.frames[index]))[1][:, 0, 0]
    known = model.known(torch.from_numpy(store.states[index]))
    assert known is not None
    assert (read - known[:, 0]).square().mean() < 0.5 * known.var()


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for settings, told in (
        ({"model__proprio": ("x", "x"), "model__final_norm": "none"}, "must name each variable once"),
        ({"model__proprio": ("x",)}, r"model\.final_norm=unit: with model\.proprio .*; use none"),
        ({"model__proprio": tuple("abcdefghi"), "model__final_norm": "none"}, "must be at most 8 names"),
    ):
        with pytest.raises(ValueError, match=told):
            tiny(**settings)
    store = moving_dot(tmp_path / "store")
    wrong = tiny(model__proprio=("elbow",), model__final_norm="none")
    with pytest.raises(ValueError, match=r"model\.proprio=elbow: the store .* has .*; name some of these, or none"):
        train(wrong, store.path, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
