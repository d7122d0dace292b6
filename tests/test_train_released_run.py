"""A released model as a run folder: moments from the data, and everything that a run can do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lewm
from lewm.cli import main
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.families.presets import preset
from lewm.families.published.model import Published
from lewm.families.published.released import write_released
from lewm.families.published.settings import PublishedSettings
from lewm.run_spec import load_spec
from lewm.train import resume
from lewm.train.checkpoint import load_config, save_config
from lewm.train.released_run import import_model
from tiny import labelled_images

SIZE = 28


def a_store(path: Path, *, size: int = SIZE, actions: int = 2) -> Store:
    rng = np.random.default_rng(0)
    meta = StoreMeta(task="dot", image_size=size, action_kind="continuous", action_size=actions, state_names=("x",))
    with StoreWriter(path, meta) as writer:
        for _ in range(10):
            frames = rng.integers(0, 256, (24, size, size, 3), np.uint8)
            writer.append(frames, rng.normal(3, 2, (24, actions)).astype(np.float32), rng.random((24, 1), np.float32))
    return Store(path)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a released folder as small as one can be: its encoder is of one of four sizes."""
    torch.manual_seed(0)
    settings = PublishedSettings(image_size=SIZE, projector_width=8, predictor_depth=1, predictor_mlp_width=16)
    config = preset("published", {"data.frame_skip": 3})
    folder = tmp_path_factory.mktemp("released")
    write_released(folder, Published(replace(config, model=settings)))
    return folder


def test_a_released_model_is_a_run(released: Path, tmp_path: Path) -> None:
    store, run = a_store(tmp_path / "store"), tmp_path / "run"
    config = import_model(released, run, store.path)
    assert (config.preset, config.data.frame_skip, config.model.image_size) == ("published", 3, SIZE)
    assert load_config(run) == config
    assert load_spec(run).frame_skip == 3

    model = lewm.load_run(run).model
    weights = torch.load(released / "weights.pt", weights_only=True)
    assert torch.equal(model.encoder.class_token, weights["encoder.embeddings.cls_token"])
    train, _ = lewm.data.split_episodes(10, held_out=0.1, seed=0)
    rows = np.concatenate([store.actions[store.episode(k)] for k in train.tolist()])
    np.testing.assert_allclose(model.action_embed.mean, np.tile(rows.mean(0), 3), rtol=1e-4)
    np.testing.assert_allclose(model.action_embed.std, np.tile(rows.std(0), 3), rtol=1e-4)

    with pytest.raises(ValueError, match=r"^out=.*run: is a run already; give a new folder$"):
        import_model(released, run, store.path)


@pytest.mark.slow
def test_resuming_it_goes_on_from_the_released_weights(released: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = import_model(released, run, a_store(tmp_path / "store").path)
    before = lewm.load_run(run).model.encoder.patch.weight
    save_config(run, replace(config, train=replace(config.train, steps=1, batch_size=4, precision="float32")))
    resume(run, progress=False)
    after = lewm.load_run(run).model.encoder.patch.weight
    assert 0 < (after - before).abs().max() < 1e-3  # a step of the learning rate


def test_data_that_do_not_fit_are_refused(released: Path, tmp_path: Path) -> None:
    cases = [
        (a_store(tmp_path / "large", size=42), r"^data=.*: has frames of 42 px, .* takes 28 px; .*--image-size 28$"),
        (a_store(tmp_path / "arm", actions=4), r"^data=.*: an action has 4 numbers, and the model takes 6 "),
        (labelled_images(tmp_path / "images"), r"^data=.*: has images without actions; "),
    ]
    for store, message in cases:
        with pytest.raises(ValueError, match=message):
            import_model(released, tmp_path / "run", store.path)
    assert not (tmp_path / "run").exists()


def test_command(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, run = a_store(tmp_path / "store"), tmp_path / "run"
    line = ["import-model", str(released), "--data", str(store.path), "--out", str(run), "--json"]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(run), "image_size": SIZE, "frame_skip": 3}
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "published"
    assert main(line) == 1
    assert "is a run already" in json.loads(capsys.readouterr().out)["error"]
