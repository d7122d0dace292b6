"""The regularisers behind their one signature, in one process and in two."""

from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from lewm.config import LossConfig
from lewm.objective import make_regulariser, spectral_sigreg, vicreg

Name = Literal["none", "spectral", "gaussian", "vicreg", "barlow"]
NAMES: list[Name] = ["spectral", "gaussian", "vicreg", "barlow"]
GRID = 6
CASES = [
    case
    for name in NAMES
    for case in (
        LossConfig(regulariser=name),
        LossConfig(regulariser=name, centre="position"),
        LossConfig(regulariser=name, apply_to="frame"),
    )
]


def make_batch() -> tuple[Tensor, Tensor]:
    """Inputs (8, 4, 3) and positions; the two halves of the batch differ in mean and scale."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 4, 3, generator=generator, dtype=torch.float64)
    inputs[4:] = 2 * inputs[4:] + 1
    positions = torch.stack([torch.randperm(GRID, generator=generator)[:4] for _ in range(8)])
    return inputs, positions


def make_encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh()).double()


def loss_and_gradients(encoder: torch.nn.Module, case: LossConfig, inputs: Tensor, positions: Tensor) -> list[Tensor]:
    loss = make_regulariser(case, GRID)(encoder(inputs), positions)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in encoder.parameters() if parameter.grad is not None)]


def run_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    inputs, positions = (part.chunk(2)[rank] for part in make_batch())
    results = []
    for case in CASES:
        encoder = DistributedDataParallel(make_encoder())
        torch.manual_seed(7 + rank)  # only rank 0's directions count
        results.append(loss_and_gradients(encoder, case, inputs, positions))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    spawn(run_rank, args=(tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for case, first, second in zip(CASES, *ranks, strict=True):
        encoder = make_encoder()
        torch.manual_seed(7)
        expected = loss_and_gradients(encoder, case, *make_batch())
        assert len(expected) == 3
        assert all(gradient.abs().max() > 1e-4 for gradient in expected[1:]), case
        for got in (first, second):
            torch.testing.assert_close(
                got, expected, rtol=1e-9, atol=1e-12, msg=lambda text, case=case: f"{case}: {text}"
            )


def test_none_is_zero_without_a_gradient() -> None:
    tokens = torch.randn(2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    value = make_regulariser(LossConfig(regulariser="none"), GRID)(tokens, torch.zeros(2, 3, dtype=torch.long))
    assert value.item() == 0
    assert value.dtype == torch.float32
    assert not value.requires_grad


def test_frame_is_the_mean_token() -> None:
    inputs, positions = make_batch()
    value = make_regulariser(LossConfig(apply_to="frame", centre="position"), GRID)(inputs, positions)
    expected = spectral_sigreg(inputs.mean(1, keepdim=True), positions[:, :1], centre="batch", num_positions=GRID)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_centre_is_passed_on() -> None:
    inputs, positions = make_batch()
    value = make_regulariser(LossConfig(regulariser="vicreg", centre="position"), GRID)(inputs, positions)
    assert value == vicreg(inputs, positions, centre="position", num_positions=GRID)
    assert value != vicreg(inputs, positions, centre="batch", num_positions=GRID)


@pytest.mark.parametrize("name", ["none", *NAMES])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
def test_compiles_without_a_graph_break(name: Name) -> None:
    inputs, positions = make_batch()
    regulariser = make_regulariser(LossConfig(regulariser=name, centre="position"), GRID)
    compiled = torch.compile(regulariser, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = regulariser(inputs, positions)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(inputs, positions), expected)


def test_refuses_positions_of_another_shape() -> None:
    regulariser = make_regulariser(LossConfig(), GRID)
    with pytest.raises(ValueError, match=r"positions=\(2, 4\): must be \(B, Nc, D\) and \(B, Nc\)"):
        regulariser(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
