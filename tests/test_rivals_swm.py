"""The published model's own classes: an error that says what is missing, and, where they are installed, a training."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.rivals import run_rival
from lewm.rivals.run import train_rival
from lewm.rivals.swm import SWMLeWM
from tiny import moving_dot, tiny

installed = pytest.mark.skipif(find_spec("stable_worldmodel") is None, reason="stable-worldmodel is not installed")


def test_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_worldmodel", None)
    store = moving_dot(tmp_path / "store")
    with pytest.raises(ValueError, match=r"^rival=swm-lewm: stable_worldmodel.* install stable-worldmodel, "):
        run_rival("swm-lewm", tiny(), store.path)


@installed
def test_trains_and_rolls_out(tmp_path: Path) -> None:
    store = moving_dot(tmp_path / "store")
    torch.manual_seed(0)
    model = SWMLeWM(tiny(train__steps=12))
    curve = train_rival(model, store, np.arange(8))
    assert np.mean(curve[-3:]) < 0.9 * np.mean(curve[:3])
    frames, actions = torch.from_numpy(store.frames[:4].copy()), torch.from_numpy(store.actions[:4].copy())[None]
    with torch.no_grad():
        tokens = model.encode(frames)[None]  # (1, T, 1, D)
        ahead = model.rollout(tokens, torch.cat([actions, actions], dim=1))
        last = model.published.predict(tokens[:, 1:, 0], model._embed(actions)[:, 1:])[:, -1]
    assert ahead.shape == (1, 5, 1, 192)
    torch.testing.assert_close(ahead[:, 0, 0], last)  # of the four frames, the newest three
