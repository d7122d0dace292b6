"""Run folders: what is saved comes back, and what is missing, damaged or of another run is named in one line."""

import copy
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lewm import files
from lewm.config import ActionConfig, Config
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.families.compact.model import Compact
from lewm.families.family import make_model
from lewm.run_spec import SPEC, save_spec
from lewm.train.checkpoint import (
    CONFIG,
    STATE,
    WEIGHTS,
    check_room,
    load_config,
    load_run,
    load_state,
    save_config,
    save_light,
    save_state,
    save_weights,
    with_data,
)
from lewm.train.schedule import make_optimizer
from tiny import TINY, plain_spec, tiny, tiny_article

META = StoreMeta(task="arm", image_size=64, action_kind="continuous", action_size=2, control_mode="position")


def make(config: Config = TINY, seed: int = 0) -> tuple[Compact, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = make_model(config)
    return model, make_optimizer(model, config.train)


def learn(model: Compact, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One step on some gradient."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    model.after_step(0.0)


def written(run: Path, config: Config = TINY) -> tuple[Compact, torch.optim.AdamW]:
    """A run folder after three steps."""
    run.mkdir(exist_ok=True)
    save_config(run, config)
    save_spec(run, plain_spec(config))
    model, optimizer = make(config)
    for step in range(3):
        learn(model, optimizer, step)
    save_state(run, model, optimizer, 3)
    return model, optimizer


def one_line(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    return text


def assert_equal(one: Compact, two: Compact) -> None:
    for (name, a), (other, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b), name


@pytest.mark.parametrize("settings", [{}, {"model__final_norm": "layer", "action__kind": "discrete"}])
def test_state_goes_on_exactly(tmp_path: Path, settings: dict[str, str]) -> None:
    config = tiny(**settings)
    model, optimizer = written(tmp_path, config)
    other, its_optimizer = make(config, seed=1)
    assert load_state(tmp_path, other, its_optimizer) == 3
    assert_equal(model, other)
    for m, o in ((model, optimizer), (other, its_optimizer)):
        learn(m, o, 7)
    assert_equal(model, other)
    assert sorted(os.listdir(tmp_path)) == sorted([CONFIG, SPEC, WEIGHTS, "state"])
    assert os.listdir(tmp_path / "state") == [Path(STATE).name]


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    model, optimizer = make()
    before = copy.deepcopy(model)
    assert load_state(tmp_path, model, optimizer) == 0
    assert_equal(before, model)
    assert not optimizer.state


def test_load_run(tmp_path: Path) -> None:
    config = with_data(TINY, stored(tmp_path / "store", META))
    model, _ = written(tmp_path / "run", config)
    loaded = load_run(tmp_path / "run")
    assert loaded.config == config
    assert loaded.data == tmp_path / "store"
    assert not loaded.model.training
    assert_equal(loaded.model, model)
    assert load_run(tmp_path / "run", "cpu").model.device.type == "cpu"


@pytest.mark.parametrize("settings", [{}, {"model__final_norm": "layer"}])
def test_a_model_to_give_away(tmp_path: Path, settings: dict[str, str]) -> None:
    model, _ = written(tmp_path / "run", tiny(**settings))
    light = tmp_path / "light"
    shutil.copytree(tmp_path / "run", light)
    save_light(light, model, None)
    assert (light / WEIGHTS).stat().st_size < 0.4 * (tmp_path / "run" / WEIGHTS).stat().st_size
    loaded = load_run(light).model
    for name, value in loaded.state_dict().items():
        online = dict(model.state_dict())[name.removeprefix("target_") if name.startswith("target_") else name]
        torch.testing.assert_close(value, online.half().to(value.dtype), msg=name)
    with torch.no_grad():
        model.encoder.pos_embed[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"weights.safetensors: encoder.pos_embed: is beyond the range of float16"):
        save_light(light, model, None)


def test_a_target_encoder_that_is_planned_with_is_not_left_out(tmp_path: Path) -> None:
    model, _ = make(tiny_article(model__inference_encoder="target"))
    with pytest.raises(ValueError, match=r"model\.inference_encoder=target: its target encoder is needed"):
        save_light(tmp_path, model, None)


def test_a_model_without_data(tmp_path: Path) -> None:
    written(tmp_path)
    assert load_run(tmp_path).data is None


def test_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    discrete = StoreMeta(task="", image_size=64, action_kind="discrete", action_size=5)
    config = with_data(TINY, stored(Path("store"), discrete))
    assert config.data.path == str(tmp_path / "store")  # the run is found from any folder
    assert config.action == ActionConfig(kind="discrete", size=5)
    assert config.model == TINY.model
    assert config.train == TINY.train
    named = with_data(tiny(train__encoder_from="images"), stored(Path("arm"), META))
    assert named.train.encoder_from == str(tmp_path / "images")
    assert named.action.control_mode == "position"
    # Rows count up by two numbers each; of three episodes one is held out.
    assert named.action.max_change == (2.0, 2.0)
    assert np.subtract(named.action.high, named.action.low).tolist() == [6.0, 6.0]


def stored(path: Path, meta: StoreMeta) -> Store:
    """Write a small store and open it."""
    with StoreWriter(path, meta) as writer:
        for _ in range(3):
            counted = np.arange(8.0).reshape(4, 2) if meta.action_kind == "continuous" else np.arange(4)
            writer.append(np.zeros((4, meta.image_size, meta.image_size, 3), np.uint8), counted)
    return Store(path)


def test_missing_folder_and_files(tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert one_line(lambda: load_run(none)) == f"run={none}: no such folder; give the --out folder of `lewm train`"
    assert (
        one_line(lambda: load_run(tmp_path))
        == f"run={tmp_path}: has no config.json; give the --out folder of `lewm train`"
    )
    save_config(tmp_path, TINY)
    assert one_line(lambda: load_run(tmp_path)) == (
        f"run={tmp_path}: has no weights.safetensors; go on with `lewm train --resume {tmp_path}`"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not JSON"), (b"{]", "not JSON"), (b"\xff\xfe\x00", "is no text"), (b"[]", "schema_version=None")],
)
def test_damaged_config(tmp_path: Path, content: bytes, message: str) -> None:
    written(tmp_path)
    (tmp_path / CONFIG).write_bytes(content)
    text = one_line(lambda: load_config(tmp_path))
    assert text.startswith(f"{tmp_path / CONFIG}: {message}")
    assert "train again" in text


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "noise": b"\x93" * 500}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "noise"])
def test_damaged_weights(tmp_path: Path, how: str) -> None:
    written(tmp_path)
    damage(tmp_path / WEIGHTS, how)
    assert one_line(lambda: load_run(tmp_path)).startswith(f"{tmp_path / WEIGHTS}: damaged (")


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_numbers_that_are_no_weights(tmp_path: Path, number: float) -> None:
    model, optimizer = written(tmp_path)
    weights = model.state_dict()
    weights["encoder.blocks.0.attention.proj.bias"][3] = number
    save_state(tmp_path, model, optimizer, 3)
    told = "encoder.blocks.0.attention.proj.bias: has numbers that are not finite; restore the file or train again"
    assert one_line(lambda: load_run(tmp_path)).startswith(f"{tmp_path / WEIGHTS}: {told}")
    assert one_line(lambda: load_state(tmp_path, *make())).startswith(f"{tmp_path / STATE}: {told}")


@pytest.mark.parametrize("how", ["empty", "cut", "noise"])
def test_damaged_state(tmp_path: Path, how: str) -> None:
    written(tmp_path)
    damage(tmp_path / STATE, how)
    model, optimizer = make()
    before = copy.deepcopy(model)
    assert one_line(lambda: load_state(tmp_path, model, optimizer)).startswith(f"{tmp_path / STATE}: damaged (")
    assert_equal(before, model)


def test_state_without_a_step(tmp_path: Path) -> None:
    written(tmp_path)
    save_file(load_file(tmp_path / STATE), tmp_path / STATE)
    assert one_line(lambda: load_state(tmp_path, *make())) == (
        f"{tmp_path / STATE}: has no step; restore the file or train again"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__width": 24}, r"encoder.blocks.0.attention.proj.bias=(16,): config.json makes it (24,)"),
        ({"model__depth": 2}, r"encoder.blocks.1.attention.proj.bias=absent: config.json makes it (16,)"),
        ({"action__kind": "discrete"}, r"action_embed.mean=(2,): config.json makes it absent"),
    ],
)
def test_weights_of_another_configuration(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    written(tmp_path)
    other = tiny(**settings)
    save_config(tmp_path, other)
    text = one_line(lambda: load_run(tmp_path))
    assert text == f"{tmp_path / WEIGHTS}: {message}; use the configuration that the weights came with"
    assert one_line(lambda: load_state(tmp_path, *make(other))).startswith(f"{tmp_path / STATE}: {message}")


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[list[str]]:
    """Let the at-th write, flush or rename find the disk full, a write after half its bytes; yield the calls made."""
    calls: list[str] = []
    write, fsync, replace = Path.write_bytes, os.fsync, os.replace

    def step(name: str) -> None:
        calls.append(name)
        if len(calls) - 1 == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_bytes(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        step("write")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        patch.setattr(files.os, "fsync", lambda descriptor: (step("fsync"), fsync(descriptor)))
        patch.setattr(files.os, "replace", lambda a, b: (step("replace"), replace(a, b)))
        yield calls


@pytest.mark.parametrize("at", range(6))
def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    model, optimizer = written(tmp_path)
    before = copy.deepcopy(model)
    learn(model, optimizer, 9)
    with full_disk(monkeypatch, at) as calls:
        text = one_line(lambda: save_state(tmp_path, model, optimizer, 4), OSError)
    assert len(calls) == at + 1
    path = tmp_path / (STATE if at < 3 else WEIGHTS)
    assert f"{path}: disk full; the file is as it was, free some space" in text
    assert sorted(os.listdir(tmp_path)) == sorted([CONFIG, SPEC, WEIGHTS, "state"])
    assert os.listdir(tmp_path / "state") == [Path(STATE).name]
    assert_equal(load_run(tmp_path).model, before)  # the weights for inference are the old ones
    other, its_optimizer = make(seed=1)
    assert load_state(tmp_path, other, its_optimizer) == (3 if at < 3 else 4)
    assert_equal(other, before if at < 3 else model)
    save_state(tmp_path, model, optimizer, 4)  # with space again it works
    assert_equal(load_run(tmp_path).model, model)


def test_six_calls_write_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above fails each of them."""
    model, optimizer = written(tmp_path)
    with full_disk(monkeypatch, -1) as calls:
        save_state(tmp_path, model, optimizer, 4)
    assert calls == ["write", "fsync", "replace"] * 2


def test_a_real_write_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    model, optimizer = written(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        text = one_line(lambda: save_state(tmp_path, model, optimizer, 4), OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path / STATE}: cannot be written (File too large); the file is as it was" in text
    assert load_state(tmp_path, *make()) == 3


def test_saved_tensors_are_plain(tmp_path: Path) -> None:
    """Tensors that are views, or not contiguous, are saved by value."""
    model, _ = make()
    with torch.no_grad():
        weight = model.encoder.patch.weight
        weight.set_(weight.detach().clone().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))  # pyright: ignore
    save_weights(tmp_path, model)
    saved: dict[str, Tensor] = load_file(tmp_path / WEIGHTS)
    assert torch.equal(saved["encoder.patch.weight"], model.encoder.patch.weight)
    assert saved["encoder.patch.weight"].is_contiguous()


def test_room_for_two_checkpoints_at_once(tmp_path: Path, free_space: Callable[[float], None]) -> None:
    run, (model, _) = tmp_path / "run", make()
    written(run)
    state, weights = (run / STATE).stat().st_size, (run / WEIGHTS).stat().st_size
    for folder, needed in ((tmp_path / "new", 2 * state + weights), (run, state)):  # what is there is counted off
        free_space(1.5 * needed)
        check_room(folder, model)
        free_space(0.5 * needed)
        told = one_line(lambda folder=folder: check_room(folder, model))
        assert told.startswith(f"run={folder}: needs about ")
        assert told.endswith("; give a folder on another disk, or free some space")
    assert not (tmp_path / "new").exists()
