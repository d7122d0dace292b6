"""Two gloo processes against one on the same global batch: batch norm, training steps, and a whole run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from lewm.config import Config
from lewm.distributed import any_rank, rank, sum_over_ranks, world_size
from lewm.families.family import make_model
from lewm.model.layers import BatchNorm2d
from lewm.train import train
from lewm.train.checkpoint import METRICS, WEIGHTS
from lewm.train.schedule import make_optimizer
from lewm.train.step import train_step
from tiny import IMAGE, batch_of, moving_dot, tiny, tiny_article

pytestmark = pytest.mark.slow  # all are about one training in two processes

CASES = {
    "spectral": tiny_article(model__regulariser="spectral", model__targets="blocks"),
    "spectral by position": tiny_article(model__regulariser="spectral", model__centre="position"),
    "gaussian": tiny_article(
        model__regulariser="gaussian", model__apply_to="frame", model__history=2, model__rollout_steps=2
    ),
    "raw complement": tiny_article(model__regulariser="none", model__context_ratio=None),
    "compact": tiny(model__inverse=0.5),
    "compact, gradient through the target": tiny(model__target_gradient=True),
}
RUN = tiny(train__steps=4, train__checkpoint_every=3, train__eps=1e-4)  # AdamW then enlarges no rounding error


def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    x[3:] = 3 * x[3:] + 2  # the halves differ in mean and scale
    return x


def batch_norm(x: Tensor) -> dict[str, Tensor]:
    """Output, statistics and gradients of a batch norm on x."""
    norm = BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    x = x.requires_grad_()
    y = norm(x)
    (y**3).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    eval_y = norm.eval()(x)
    return {
        "y": y,
        "x.grad": x.grad,
        "weight.grad": norm.weight.grad,
        "bias.grad": norm.bias.grad,
        "eval": eval_y,
    } | dict(norm.named_buffers())


def two_steps(config: Config) -> dict[str, Tensor]:
    """Losses of two steps, the gradients of the second, and all weights and statistics after it."""
    torch.manual_seed(0)
    model = make_model(config).double().train()  # exact enough that AdamW cannot enlarge rounding errors
    optimizer = make_optimizer(model, config.train)
    part = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    length = config.model.clip_frames
    results: dict[str, Tensor] = {}
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        frames = torch.randint(0, 256, (8, length, IMAGE, IMAGE, 3), generator=generator, dtype=torch.uint8)
        frames[4:] //= 3
        actions = torch.randn(8, length - 1, 2, generator=generator, dtype=torch.float64)
        torch.manual_seed(step)
        out, _ = train_step(
            model, optimizer, batch_of(frames[part], actions[part]), config.train,
            generator=torch.Generator().manual_seed(step), learning_rate=0.02, share_done=0.0,
        )  # fmt: skip
        results |= {f"{step} {name}": value for name, value in out.items()}
    results |= {f"gradient {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return results | {name: value.detach() for name, value in model.state_dict().items()}


def run_rank(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=number, world_size=2)
    cpu = torch.device("cpu")
    results: dict[str, Any] = {
        "place": (rank(), world_size()),
        "any": [any_rank(flag == number, cpu) for flag in (0, 1, 2)],
        "strided": sum_over_ranks((torch.arange(6.0).view(2, 3) + number).T),
        "batch_norm": {name: value.detach() for name, value in batch_norm(inputs().chunk(2)[number]).items()},
        **{name: two_steps(config) for name, config in CASES.items()},
    }
    torch.save(results, folder / f"{number}.pt")
    train(RUN, folder / "store", folder / "run", progress=False)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    moving_dot(folder / "store")
    spawn(run_rank, args=(folder,), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{number}.pt") for number in (0, 1)]


def test_places(ranks: list[dict[str, Any]]) -> None:
    assert [results["place"] for results in ranks] == [(0, 2), (1, 2)]
    assert (rank(), world_size()) == (0, 1)


def test_any_rank(ranks: list[dict[str, Any]]) -> None:
    for results in ranks:
        assert results["any"] == [True, True, False]
    assert any_rank(True, torch.device("cpu"))
    assert not any_rank(False, torch.device("cpu"))


def test_sum_of_a_strided_tensor(ranks: list[dict[str, Any]]) -> None:
    for results in ranks:
        assert torch.equal(results["strided"], (2 * torch.arange(6.0).view(2, 3) + 1).T)


def test_batch_norm(ranks: list[dict[str, Any]]) -> None:
    expected = batch_norm(inputs())
    for number, results in enumerate(ranks):
        for name, value in results["batch_norm"].items():
            want = expected[name].detach()
            if name in ("y", "x.grad", "eval"):
                want = want.chunk(2)[number]
            if name in ("weight.grad", "bias.grad"):  # each rank holds its share; training sums them
                value = sum(r["batch_norm"][name] for r in ranks)
            torch.testing.assert_close(value, want, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_two_steps(ranks: list[dict[str, Any]], case: str) -> None:
    expected = two_steps(CASES[case])
    assert any(name.startswith("gradient encoder.stem") for name in expected)
    torch.manual_seed(0)
    start = make_model(CASES[case]).state_dict()
    assert (expected["encoder.patch.weight"] - start["encoder.patch.weight"]).abs().max() > 0.01
    for results in ranks:
        assert results[case].keys() == expected.keys()
        for name, value in expected.items():
            # statistics of batch norm and reported losses are float32
            torch.testing.assert_close(
                results[case][name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_run(folder: Path, tmp_path: Path) -> None:
    """The whole run: sampler, masks and random directions are those of one process, and rank 0 writes the folder."""
    train(RUN, folder / "store", tmp_path / "run", progress=False)
    one, two = (
        [json.loads(line) for line in (path / METRICS).read_text().splitlines()]
        for path in (tmp_path / "run", folder / "run")
    )
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=2e-3), name
    weights, others = (load_file(path / WEIGHTS) for path in (tmp_path / "run", folder / "run"))
    for name, value in weights.items():
        torch.testing.assert_close(
            others[name], value, rtol=1e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
