"""The training run: its curve, stopping and going on at any moment, and what makes it refuse or stop."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lewm.config import Config, DataConfig
from lewm.data import ClipSampler, Store, StoreMeta, StoreWriter, split_episodes
from lewm.families.compact import model as compact
from lewm.families.family import Batch
from lewm.families.jepa import ema_momentum
from lewm.families.presets import preset
from lewm.run_spec import SPEC
from lewm.train import NonFiniteLossError, load_run, loop, resume, train
from lewm.train.checkpoint import CONFIG, COST, DIVERGED, LOCK, METRICS, STATE, WEIGHTS
from lewm.train.loop import training_part
from lewm.train.schedule import learning_rate
from tiny import IMAGE, labelled_images, make_fused_optimizer, moving_dot, override, tiny, tiny_article

GOLDEN = Path(__file__).parent / "golden" / "loss_curve.json"
CONFIG_A = tiny()
# everything random at once: directions, masks or full frames, the number of context frames
CONFIG_B = tiny_article(
    action__kind="discrete",
    data__frame_skip=2,
    model__history=3,
    model__rollout_steps=2,
    model__full_context_prob=0.5,
    model__regulariser="gaussian",
    model__apply_to="frame",
    model__regulariser_weight=0.02,
)
# several frames and steps, as far as images have them
CONFIG_IMAGES = tiny_article(model__history=2, model__rollout_steps=2, model__slowness=0.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_dot(tmp_path_factory.mktemp("data") / "store").path


@pytest.fixture(scope="module")
def discrete_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_dot(tmp_path_factory.mktemp("data") / "discrete", discrete=True).path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A run of 12 steps that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "reference"
    train(CONFIG_A, store, run, progress=False)
    return run


@pytest.fixture(scope="module")
def discrete_reference(tmp_path_factory: pytest.TempPathFactory, discrete_store: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "discrete"
    train(CONFIG_B, discrete_store, run, progress=False)
    return run


@pytest.fixture(scope="module")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_images(tmp_path_factory.mktemp("data") / "images").path


@pytest.fixture(scope="module")
def image_reference(tmp_path_factory: pytest.TempPathFactory, image_store: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "images"
    train(CONFIG_IMAGES, image_store, run, progress=False)
    return run


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def checkpoint_step(run: Path) -> int:
    if not (run / STATE).is_file():
        return 0
    with safe_open(run / STATE, framework="pt") as file:
        return int(file.metadata()["step"])


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Do something in the middle of a step (from 1)."""
    real, calls = loop.train_step, []

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        calls.append(0)
        if len(calls) == step:
            action()
        return real(*arguments, **keywords)

    monkeypatch.setattr(loop, "train_step", wrapped)


def assert_same_run(one: Path, two: Path) -> None:
    """Bit for bit: metrics, weights and everything that a resumed run needs."""
    assert (one / METRICS).read_text() == (two / METRICS).read_text()
    for name in (WEIGHTS, STATE):
        a, b = load_file(one / name), load_file(two / name)
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert torch.equal(value, b[key]), key


def test_metrics(reference: Path) -> None:
    written = rows(reference)
    assert [row["step"] for row in written] == list(range(1, 13))
    for row in written:
        assert row["loss"] == pytest.approx(row["loss_pred"] + 0.02 * row["loss_reg"] + row["loss_slow"], rel=1e-5)
        assert row["learning_rate"] == learning_rate(row["step"] - 1, CONFIG_A.train)
        assert row["ema_momentum"] == pytest.approx(ema_momentum((row["step"] - 1) / 11, 0.9, 1.0))
        assert row["grad_norm"] > 0
        assert 1 <= row["effective_rank"] <= 16
        assert 0 <= row["content_share"] <= 1
        assert row["feature_std"] > 0
        assert row["condition_number"] >= 1


def test_golden_loss_curve(reference: Path) -> None:
    """The curve is a property of the code: when it changes on purpose, run this file as a script."""
    golden = json.loads(GOLDEN.read_text())
    for name in ("loss_pred", "loss_reg", "grad_norm"):
        assert [row[name] for row in rows(reference)] == pytest.approx(golden[name], rel=1e-3), name


def test_run_folder(reference: Path, store: Path) -> None:
    assert sorted(os.listdir(reference)) == sorted([CONFIG, LOCK, METRICS, SPEC, WEIGHTS, "state", "tensorboard"])
    assert checkpoint_step(reference) == 12
    run = load_run(reference)
    assert run.data == store
    state = load_file(reference / STATE)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, state[f"model.{name}"])
    mean, std = loop.action_moments(Store(store), split_episodes(10, held_out=0.2, seed=0)[0])
    assert torch.equal(run.model.action_embed.mean, mean)
    assert torch.equal(run.model.action_embed.std, std)


def test_tensorboard(reference: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(reference / "tensorboard"))
    events.Reload()
    got = [(event.step, event.value) for event in events.Scalars("loss")]
    assert got == [(row["step"], pytest.approx(row["loss"])) for row in rows(reference)]


@pytest.mark.parametrize("wanted", [True, False])
def test_progress_is_shown_when_wanted(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: bool
) -> None:
    train(tiny(train__steps=1), store, tmp_path / "run", progress=wanted)
    out, shown = capsys.readouterr()
    assert out == ""  # results alone are written there
    for text in ("train", "1/1", f"loss {rows(tmp_path / 'run')[0]['loss']:.4f}"):
        assert (text in shown) == wanted


def test_seed_decides(reference: Path, store: Path, tmp_path: Path) -> None:
    train(CONFIG_A, store, tmp_path / "same", progress=False)
    assert_same_run(reference, tmp_path / "same")
    train(tiny(seed=1, train__steps=1), store, tmp_path / "other", progress=False)
    assert rows(tmp_path / "other")[0]["loss"] != rows(reference)[0]["loss"]


def test_batches_are_those_of_the_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training sees training episodes alone."""
    seen: list[Batch] = []
    real = loop.train_step

    def record(model: Any, optimizer: Any, batch: Batch, *rest: Any, **named: Any) -> Any:
        seen.append(batch)
        return real(model, optimizer, batch, *rest, **named)

    monkeypatch.setattr(loop, "train_step", record)
    store = moving_dot(tmp_path / "store", discrete=True)
    actions = np.lib.format.open_memmap(store.path / "actions.npy", mode="r+")
    actions[:] = np.random.default_rng(0).integers(0, 4, len(actions))  # so that each is known by its place
    train(CONFIG_B, store.path, tmp_path / "run", progress=False)
    episodes, _ = split_episodes(10, held_out=0.2, seed=0)
    sampler = ClipSampler(Store(store.path), episodes, clip_frames=5, frame_skip=2, batch_size=8, seed=0)
    assert len(seen) == 12
    for step, batch in enumerate(seen):
        clips = sampler.batch(step)
        assert np.array_equal(batch.frames.numpy(), clips.frames)
        assert np.array_equal(batch.actions.numpy(), clips.actions)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["continuous", "discrete", "images"])
@pytest.mark.parametrize("step", [1, 6, 11])
def test_sigterm_then_resume(
    kind: str, step: int, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data, whole = {
        "continuous": (CONFIG_A, "store", "reference"),
        "discrete": (CONFIG_B, "discrete_store", "discrete_reference"),
        "images": (CONFIG_IMAGES, "image_store", "image_reference"),
    }[kind]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        before_step(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit, match=f"stopped at step {step}; go on with `lewm train --resume {run}`"):
            train(config, request.getfixturevalue(data), run, progress=False)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert checkpoint_step(run) == len(rows(run)) == step
    assert load_run(run)  # the weights are there as well
    resume(run, progress=False)
    assert_same_run(run, request.getfixturevalue(whole))


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_a_checkpoint(store: Path, reference: Path, tmp_path: Path, monkeypatch) -> None:
    run, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        before_step(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step 3; go on with `lewm train --resume {run}`"):
            train(CONFIG_A, store, run, progress=False)
    assert signal.getsignal(signal.SIGINT) == before
    assert checkpoint_step(run) == 3
    resume(run, progress=False)
    assert_same_run(run, reference)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_does_not_wait(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before_step(monkeypatch, 3, twice)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG_A, store, tmp_path / "run", progress=False)
    assert checkpoint_step(tmp_path / "run") == 0


@pytest.mark.usefixtures("ctrl_c")
def test_a_program_that_ignores_ctrl_c_goes_on_doing_so(
    store: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a shell's background do
    before_step(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGINT))
    train(CONFIG_A, store, tmp_path / "run", progress=False)
    assert_same_run(tmp_path / "run", reference)


def test_a_second_sigterm_waits(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    before_step(monkeypatch, 3, twice)
    with pytest.raises(SystemExit, match="stopped at step 3"):
        train(CONFIG_A, store, tmp_path / "run", progress=False)
    assert checkpoint_step(tmp_path / "run") == 3


def test_training_outside_of_the_main_thread(store: Path, reference: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, CONFIG_A, store, tmp_path / "run", progress=False).result()
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.slow
def test_one_process_trains_a_run(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, refused = tmp_path / "run", []

    def meanwhile() -> None:
        code = "import sys; from lewm.train import resume; resume(sys.argv[1], progress=False)"
        other = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False)
        refused.append(other.stderr.splitlines()[-1])

    before_step(monkeypatch, 6, meanwhile)
    train(CONFIG_A, store, run, progress=False)
    assert refused == [f"ValueError: run={run}: another process is training it; wait for it, or stop it"]
    assert len(rows(run)) == 12


def test_a_moved_store_is_given_anew(
    store: Path, discrete_store: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, run = tmp_path / "old", tmp_path / "run"
    shutil.copytree(store, old)
    interrupted(run, old, monkeypatch)
    old.rename(tmp_path / "new")
    with pytest.raises(ValueError, match=r"is not there; if it was moved, give its new place, --data DIR$"):
        resume(run, progress=False)
    with pytest.raises(ValueError, match=r"^action=continuous of size 2: the actions of .* are discrete"):
        resume(run, data=discrete_store, progress=False)
    other = shutil.copytree(tmp_path / "new", tmp_path / "other")
    np.load(other / "actions.npy", mmap_mode="r+")[:] *= 2
    with pytest.raises(ValueError, match=rf"^data={other}: its actions are not those that {run} was started with"):
        resume(run, data=other, progress=False)
    resume(run, data=tmp_path / "new", progress=False)
    assert load_run(run).data == tmp_path / "new"
    assert rows(run) == rows(reference)


def test_sigterm_in_the_last_step_is_the_end(store: Path, reference: Path, tmp_path: Path, monkeypatch) -> None:
    before_step(monkeypatch, 12, lambda: signal.raise_signal(signal.SIGTERM))
    train(CONFIG_A, store, tmp_path / "run", progress=False)
    assert_same_run(tmp_path / "run", reference)


def interrupted(run: Path, store: Path, monkeypatch: pytest.MonkeyPatch, step: int = 8) -> None:
    """Break off a run in the middle of a step, without a checkpoint."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_step(patch, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG_A, store, run, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["", '{"step": 8, "lo', '{"step": 8, "loss": 1.0}\n{"st'])
def test_resume_drops_rows_beyond_the_checkpoint(
    store: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    run = tmp_path / "run"
    interrupted(run, store, monkeypatch)
    assert checkpoint_step(run) == 5
    assert len(rows(run)) == 7
    with (run / METRICS).open("a") as file:
        file.write(tail)  # as a kill in the middle of a write leaves it
    resume(run, progress=False)
    assert_same_run(run, reference)


def test_resume_before_the_first_checkpoint(store: Path, reference: Path, tmp_path: Path, monkeypatch) -> None:
    interrupted(tmp_path / "run", store, monkeypatch, step=3)
    assert checkpoint_step(tmp_path / "run") == 0
    resume(tmp_path / "run", progress=False)
    assert_same_run(tmp_path / "run", reference)


def test_resume_of_a_finished_run_changes_nothing(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    resume(tmp_path / "run", progress=False)
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("cut", [1, 40])
def test_resume_refuses_metrics_that_are_behind(reference: Path, tmp_path: Path, cut: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    content = (run / METRICS).read_bytes()
    (run / METRICS).write_bytes(content[:-cut])
    with pytest.raises(ValueError, match=r"metrics\.jsonl: has 11 rows and the checkpoint 12 steps; restore the file$"):
        resume(run, progress=False)
    assert (run / METRICS).read_bytes() == content[:-cut]


def test_full_disk_while_metrics_are_written(
    store: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fsync = tmp_path / "run", os.fsync

    def full(descriptor: int) -> None:
        if (run / STATE).is_file() and os.fstat(descriptor).st_ino == (run / METRICS).stat().st_ino:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="disk full") as error:
            train(CONFIG_A, store, run, progress=False)
    assert str(error.value) == (
        f"[Errno {errno.ENOSPC}] {run / METRICS}: disk full; the run goes on from its last checkpoint, "
        "free some space and run again to go on"
    )
    assert checkpoint_step(run) == 5
    resume(run, progress=False)
    assert_same_run(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_loss_that_is_not_finite(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bool, late: bool
) -> None:
    if late:  # as on a GPU: later steps are taken before anyone looks
        monkeypatch.setattr(loop, "make_optimizer", make_fused_optimizer)
        monkeypatch.setattr(loop, "DIAGNOSTICS", 1)
    run, bad = tmp_path / "run", 7 if checkpoint else 3
    real, calls = compact.make_regulariser, []

    def make(*arguments: Any) -> Any:
        regulariser = real(*arguments)

        def diverging(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            calls.append(0)
            return regulariser(tokens, positions) * (math.inf if len(calls) == bad else 1.0)

        return diverging

    with monkeypatch.context() as patch:
        patch.setattr(compact, "make_regulariser", make)
        with pytest.raises(NonFiniteLossError) as error:
            train(CONFIG_A, store, run, progress=False)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"loss=inf: not finite at step {bad} ")
    assert f"with learning rate {learning_rate(bad - 1, CONFIG_A.train):.3g} and " in text
    episodes, _ = split_episodes(10, held_out=0.2, seed=0)
    index = ClipSampler(Store(store), episodes, batch_size=8).batch(bad - 1).index
    assert f"clips at frames {', '.join(map(str, index[:4].tolist()))}..." in text
    assert "lower train.learning_rate" in text
    assert text.endswith(f"the run is now {run / DIVERGED}, and run is free")
    kept = run / DIVERGED
    assert len(rows(kept)) == bad - 1
    assert checkpoint_step(kept) == (5 if checkpoint else 0)
    train(CONFIG_A, store, run, progress=False)  # into the same folder
    assert len(rows(run)) == 12
    resume(kept, progress=False)  # the checkpoint is good
    assert len(rows(kept)) == 12


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the scalars of a few steps at once, and have the optimiser told on the device whether to step."""
    monkeypatch.setattr(loop, "make_optimizer", make_fused_optimizer)
    monkeypatch.setattr(loop, "FETCH_EVERY", 4)
    monkeypatch.setattr(loop, "DIAGNOSTICS", 3)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_late_looks_lose_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, real = [], loop._fetch

    def look(steps: list[Any], *rest: Any) -> Any:
        looks.append([step.number + 1 for step in steps])
        return real(steps, *rest)

    monkeypatch.setattr(loop, "_fetch", look)
    train(CONFIG_A, store, tmp_path / "late", progress=False)
    # as many as there may be, or as few as a checkpoint or a diagnosis leaves
    assert looks == [[1, 2, 3, 4], [5], [6, 7, 8], [9, 10], [11, 12]]
    assert [row["step"] for row in rows(tmp_path / "late") if "effective_rank" in row] == [4, 8, 12]
    monkeypatch.setattr(loop, "FETCH_EVERY", 1)
    train(CONFIG_A, store, tmp_path / "at once", progress=False)
    assert_same_run(tmp_path / "late", tmp_path / "at once")
    golden = json.loads(GOLDEN.read_text())
    assert [row["loss_pred"] for row in rows(tmp_path / "late")] == pytest.approx(golden["loss_pred"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("as_on_a_gpu")
def test_stop_and_resume_with_late_looks(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    train(CONFIG_A, store, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        before_step(patch, 6, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit, match="stopped at step 8;"):  # at the next look
            train(CONFIG_A, store, run, progress=False)
    assert checkpoint_step(run) == len(rows(run)) == 8
    resume(run, progress=False)
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.gpu
def test_on_a_gpu(store: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve of the CPU, about; a resumed run goes on as if never stopped, from frames that live on the device."""
    monkeypatch.setattr(loop, "FETCH_EVERY", 4)
    config, run = tiny(device="cuda"), tmp_path / "run"
    train(config, store, tmp_path / "whole", progress=False)
    for ours, on_cpu in zip(rows(tmp_path / "whole"), rows(reference), strict=True):
        assert ours["loss"] == pytest.approx(on_cpu["loss"], rel=0.02)
    with monkeypatch.context() as patch:
        before_step(patch, 6, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit):
            train(config, store, run, progress=False)
    resume(run, progress=False)
    for ours, whole in zip(rows(run), rows(tmp_path / "whole"), strict=True):
        assert ours["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_run_folder_in_use(store: Path, reference: Path) -> None:
    before = (reference / METRICS).read_bytes()
    with pytest.raises(ValueError, match=r"^run=.*: is a run already; use `lewm train --resume .*` or another --out$"):
        train(CONFIG_A, store, reference, progress=False)
    assert (reference / METRICS).read_bytes() == before


def write_store(path: Path, *, image: int = IMAGE, lengths: tuple[int, ...] = (9, 9), action: float = 0.0) -> Path:
    meta = StoreMeta(task="blank", image_size=image, action_kind="continuous", action_size=2)
    with StoreWriter(path, meta) as writer:
        for length in lengths:
            writer.append(np.zeros((length, image, image, 3), np.uint8), np.full((length, 2), action, np.float32))
    return path


@pytest.mark.parametrize(
    ("settings", "store_settings", "message"),
    [
        (
            {},
            {"image": 40},
            r"^model\.image_size=32: the frames of .* are 40 px; use --model\.image-size 40, or .* --image-size 32$",
        ),
        (
            {},
            {"action": math.nan},
            r"actions\.npy: actions not finite in 2 of 2 episodes, .*; repair or leave out episodes$",
        ),
        ({}, {"lengths": ()}, r"is not a store \(no meta\.json\); collect or import data into it first$"),
        ({}, {"lengths": (9,)}, r"^num_episodes=1: a split needs at least 2; collect more episodes$"),
        ({"data.frame_skip": 9}, {}, r"^clip_frames=2: with frame_skip=9 .*; use shorter clips, a smaller frame-skip"),
    ],
)
def test_refuses_data_that_does_not_fit(
    tmp_path: Path, settings: dict[str, Any], store_settings: dict[str, Any], message: str
) -> None:
    data = write_store(tmp_path / "store", **store_settings)
    with pytest.raises(ValueError, match=message) as error:
        train(tiny(**{n.replace(".", "__"): v for n, v in settings.items()}), data, tmp_path / "run", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()  # the folder is free for the next attempt


def test_a_size_that_the_patches_do_not_divide_is_no_remedy(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"are 32 px; collect or import them with --image-size 70$"):
        train(preset("published-small"), store, tmp_path / "run", progress=False)


def test_refuses_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a store"):
        train(CONFIG_A, tmp_path, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_resume_refuses_another_store(reference: Path, discrete_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    config = json.loads((run / CONFIG).read_text())
    for path, message in (
        (discrete_store, r"^action=continuous of size 2: the actions of .* are discrete of size 4; use the store that"),
        (tmp_path / "gone", r"^data\.path=.*gone: the store that .* was started with is not there; if it was moved, "),
        ("", r"^data\.path=: the store that "),
    ):
        config["data"]["path"] = str(path)
        (run / CONFIG).write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            resume(run, progress=False)
    with pytest.raises(ValueError, match="no such folder"):
        resume(tmp_path / "none", progress=False)


def test_images_are_learnt_from_masked_contexts(
    image_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = loop.train_step, []

    def look(model: Any, optimizer: Any, batch: Batch, *rest: Any, **named: Any) -> Any:
        seen.append(batch)
        frames = batch.frames
        assert torch.equal(frames, frames[:, :1].expand_as(frames))  # the next frame is the same image
        assert batch.actions.shape == (8, frames.shape[1] - 1, 0)
        return real(model, optimizer, batch, *rest, **named)

    monkeypatch.setattr(loop, "train_step", look)
    train(CONFIG_IMAGES, image_store, tmp_path / "run", progress=False)
    assert len(seen) == 12
    config = load_run(tmp_path / "run").config
    assert (config.action.kind, config.action.size) == ("none", 0)
    assert not [name for name in load_file(tmp_path / "run" / WEIGHTS) if name.startswith("action_embed")]


@pytest.mark.parametrize("conditioning", ["film", "token"])
def test_images_train_with_any_conditioning(image_store: Path, tmp_path: Path, conditioning: str) -> None:
    config = tiny_article(model__action_conditioning=conditioning, train__steps=2)
    train(config, image_store, tmp_path / "run", progress=False)
    assert math.isfinite(rows(tmp_path / "run")[-1]["loss"])


@pytest.mark.parametrize("config", [tiny(), tiny_article(model__full_context_prob=1.0)], ids=["compact", "article"])
def test_images_are_refused_by_what_needs_actions(image_store: Path, tmp_path: Path, config: Config) -> None:
    with pytest.raises(ValueError, match=r"^model\.family=.*, which images do not have; use --preset literal"):
        train(config, image_store, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_images_need_no_settings_of_their_own(image_store: Path, tmp_path: Path) -> None:
    """What they cannot have, frame-skip, a learnt cost and decoded actions, is left out by itself."""
    config = tiny_article(data__frame_skip=3, train__cost_steps=5, plan__cost="steps_to_go", train__steps=1)
    train(config, image_store, tmp_path / "run", progress=False)
    trained = load_run(tmp_path / "run")
    assert (trained.config.data.frame_skip, trained.config.train.cost_steps, trained.cost) == (1, 0, None)


def encoders_at_first_step(patch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Have the weights of both encoders noted before the first step."""
    noted: list[dict[str, torch.Tensor]] = []
    real = loop.train_step

    def note(model: Any, *rest: Any, **named: Any) -> Any:
        if not noted:
            noted.extend(
                {name: value.clone() for name, value in encoder.state_dict().items()}
                for encoder in (model.encoder, model.target_encoder)
            )
        return real(model, *rest, **named)

    patch.setattr(loop, "train_step", note)
    return noted


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["online", "target"])
def test_a_run_starts_from_the_encoder_of_another(
    store: Path, image_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inference: str
) -> None:
    first, second = tmp_path / "images", tmp_path / "robot"
    train(tiny_article(model__inference_encoder=inference, train__steps=3), image_store, first, progress=False)
    weights = load_file(first / WEIGHTS)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        noted = encoders_at_first_step(patch)
        before_step(patch, 7, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit):
            train(tiny_article(train__encoder_from="images"), store, second, progress=False)
    prefix = "encoder." if inference == "online" else "target_encoder."
    for encoder in noted:
        for name, value in encoder.items():
            assert torch.equal(value, weights[prefix + name]), name
    shutil.rmtree(first)  # nothing is needed of it from the first checkpoint on
    resume(second, progress=False)
    assert load_run(second).config.train.encoder_from == str(first)
    assert rows(second)[-1]["step"] == 12


def test_an_encoder_of_another_form_is_refused(
    store: Path, image_reference: Path, reference: Path, tmp_path: Path
) -> None:
    for settings, message in (
        (
            {"model__width": 8, "model__stem_channels": (4, 4), "model__final_norm": "layer"},
            r": its encoder has model\.stem_channels=\(4, 8\), model\.width=16, model\.final_norm=unit, and this run "
            r"another; use --model\.stem-channels 4 8 --model\.width 16 --model\.final-norm unit$",
        ),
        ({"train__encoder_from": str(tmp_path / "none")}, r"none: run=.*none: no such folder; give"),
    ):
        config = tiny_article(**{"train__encoder_from": str(image_reference), **settings})
        with pytest.raises(ValueError, match=r"^train\.encoder_from=.*" + message) as error:
            train(config, store, tmp_path / "run", progress=False)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
    # another predictor, history and family do not matter
    config = tiny(train__encoder_from=str(image_reference), model__predictor_width=24, model__history=2, train__steps=1)
    train(config, store, tmp_path / "run", progress=False)
    own, given = load_run(tmp_path / "run").model.target_encoder, load_run(image_reference).model.encoder
    assert set(own.state_dict()) - set(given.state_dict()) == {
        name for name in own.state_dict() if name.startswith("project.")
    }
    config = override(preset("tdmpc2"), {"model.image_size": IMAGE, "train.encoder_from": str(reference)})
    with pytest.raises(ValueError, match=r": the encoders of the families compact and tdmpc2 are of different kinds; "):
        train(config, store, tmp_path / "rival", progress=False)


def test_action_moments(store: Path) -> None:
    data, episodes = Store(store), np.array([0, 3, 4])
    actions = np.concatenate([data.actions[data.episode(int(episode))] for episode in episodes])
    mean, std = loop.action_moments(data, episodes)
    np.testing.assert_allclose(mean, actions.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, actions.std(0), rtol=1e-6)


WITH_COST = tiny(train__steps=2, train__cost_steps=6, plan__cost="steps_to_go")


def test_cost_is_fitted_last(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(WITH_COST, store, tmp_path / "run", progress=False)
    weights, state = load_file(tmp_path / "run" / WEIGHTS), load_file(tmp_path / "run" / STATE)
    for name, value in weights.items():
        assert torch.equal(value, state[f"model.{name}"]), name
    cost = load_run(tmp_path / "run").cost
    assert cost is not None
    assert cost.embed(torch.zeros(1, 1, 16)).shape == (1, 32)

    # a stop while it is fitted, which starts it over
    real = loop.fit_steps_to_go

    def stopped(when: str) -> Callable[..., Any]:
        def fit(*given: Any, **calls: Callable[..., None]) -> Any:
            def stop(*numbers: int) -> None:
                signal.raise_signal(signal.SIGTERM)
                calls[when](*numbers)

            return real(*given, **calls | {when: stop})

        return fit

    def begin_or_resume() -> None:
        if (tmp_path / "stopped").exists():
            resume(tmp_path / "stopped", progress=False)
        else:
            train(WITH_COST, store, tmp_path / "stopped", progress=False)

    for when in ("on_frames", "on_step"):  # while frames are encoded, and while the head learns
        with monkeypatch.context() as patch:
            patch.setattr(loop, "fit_steps_to_go", stopped(when))
            with pytest.raises(SystemExit, match="stopped before the cost was learnt; go on with `lewm train --resume"):
                begin_or_resume()
    resume(tmp_path / "stopped", progress=False)
    assert_same_run(tmp_path / "stopped", tmp_path / "run")
    for name, value in load_file(tmp_path / "stopped" / COST).items():
        assert torch.equal(value, load_file(tmp_path / "run" / COST)[name]), name


KILLED = """
import mmap, os, random, signal, struct, sys, time
from pathlib import Path
import torch._dynamo  # once, and not in every child: the optimiser imports it
from safetensors import safe_open
from lewm.train import loop, resume, train
from lewm.train.checkpoint import STATE
from tiny import tiny

store, run = map(Path, sys.argv[1:])
config = tiny(train__steps=130, train__checkpoint_every=4)
counter, real = mmap.mmap(-1, 8), loop.train_step


def counted(*arguments, **settings):
    out = real(*arguments, **settings)
    counter[:8] = struct.pack("q", struct.unpack("q", counter[:8])[0] + 1)
    return out


def taken():
    return struct.unpack("q", counter[:8])[0]


def saved():
    if not (run / STATE).is_file():
        return 0
    with safe_open(run / STATE, framework="pt") as file:
        return int(file.metadata()["step"])


loop.train_step = counted
loop.DIAGNOSTICS = 5
random.seed(0)
for kill in range(10):
    done, goal = saved(), random.randint(0, 11)
    counter[:8] = bytes(8)
    child = os.fork()
    if child == 0:
        resume(run, progress=False) if (run / "config.json").is_file() else train(config, store, run, progress=False)
        os._exit(0)
    while taken() < goal:
        time.sleep(0.001)
    time.sleep(random.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), f"kill {kill}: the run ended by itself with {status}"
    assert done + taken() - saved() <= 4, f"kill {kill}: {done} + {taken()} steps, and {saved()} saved"
resume(run, progress=False)
train(config, store, run.with_name("whole"), progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kill_9_ten_times_in_a_row(store: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(store), str(tmp_path / "run")],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "run")) == 130
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    left = [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".") and path.name != LOCK]
    assert not left


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler for torch.compile")
@pytest.mark.filterwarnings("ignore")  # of torch.compile itself
def test_compile_changes_no_loss(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, real = [], torch.nn.Module.compile

    def compile_with(module: torch.nn.Module) -> None:
        compiled.append(type(module).__name__)
        # all are traced, forward and backward; making code takes long where nothing is cached, so it is made once
        real(module, backend="inductor" if len(compiled) == 3 else "aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_with)
    monkeypatch.setattr(loop, "_diagnose", lambda model, frames: {})  # its graphs are those of evaluation
    for name, switch in (("run", True), ("eager", False)):
        train(tiny(train__compile=switch, train__steps=2), store, tmp_path / name, progress=False)
    assert compiled == ["Encoder", "Encoder", "Predictor"]
    for ours, eager in zip(rows(tmp_path / "run"), rows(tmp_path / "eager"), strict=True):
        for name in ("loss_pred", "loss_reg", "grad_norm"):
            assert ours[name] == pytest.approx(eager[name], rel=1e-3), name
    assert load_run(tmp_path / "run")  # the weights have their usual names


if __name__ == "__main__":  # writes the golden curve
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        train(CONFIG_A, moving_dot(Path(folder) / "store").path, Path(folder) / "run", progress=False)
        curve = {
            name: [row[name] for row in rows(Path(folder) / "run")] for name in ("loss_pred", "loss_reg", "grad_norm")
        }
    GOLDEN.write_text(json.dumps(curve, indent=1) + "\n")


def test_share_of_the_training_episodes() -> None:
    episodes = np.arange(3, 43)
    assert training_part(episodes, DataConfig()).tolist() == episodes.tolist()
    half = training_part(episodes, DataConfig(train_share=0.5))
    eighth = training_part(episodes, DataConfig(train_share=0.125))
    assert (len(half), len(eighth), len(training_part(episodes, DataConfig(train_share=0.001)))) == (20, 5, 1)
    assert set(eighth) < set(half) < set(episodes)  # more data is more of the same
    assert training_part(episodes, DataConfig(train_share=0.5, split_seed=1)).tolist() != half.tolist()


def test_a_run_that_cannot_be_written_is_refused_first(
    store: Path,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_space: Callable[[float], None],
    unwritable: Callable[[Path, int], None],
) -> None:
    monkeypatch.setattr(loop, "train_step", lambda *_, **__: pytest.fail("training was begun"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^run=[^\n]*: [^\n]*file is no folder; give another path$"):
        train(CONFIG_A, store, tmp_path / "file" / "run", progress=False)
    interrupted = shutil.copytree(reference, tmp_path / "run")
    unwritable(interrupted, errno.EROFS)
    before = (interrupted / METRICS).read_bytes()
    with pytest.raises(ValueError, match=r"^run=[^\n]*: cannot be written \(Read-only file system\); [^\n]*$"):
        resume(interrupted, progress=False)
    assert (interrupted / METRICS).read_bytes() == before
    free_space(1000)
    with pytest.raises(ValueError, match=r"^run=[^\n]*: needs about [^\n]* are free; [^\n]*$"):
        train(CONFIG_A, store, tmp_path / "new" / "run", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]
