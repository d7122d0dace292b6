"""The regularisers behind their one signature, in one process and in two."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from lewm.config.choices import REGULARISERS
from lewm.objective import make_regulariser
from lewm.objective.moments import Centre
from lewm.objective.vicreg import vicreg

GRID = 6
Case = tuple[str, Centre]
CASES: list[Case] = [(name, centre) for name in REGULARISERS for centre in ("batch", "position")]


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


def loss_and_gradients(encoder: torch.nn.Module, case: Case, inputs: Tensor, positions: Tensor) -> list[Tensor]:
    name, centre = case
    loss = make_regulariser(name, centre=centre, num_positions=GRID)(encoder(inputs), positions)
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


@pytest.mark.slow
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
    value = make_regulariser("none")(tokens, torch.zeros(2, 3, dtype=torch.long))
    assert value.item() == 0
    assert value.dtype == torch.float32
    assert not value.requires_grad


def test_centre_is_passed_on() -> None:
    inputs, positions = make_batch()
    value = make_regulariser("vicreg", centre="position", num_positions=GRID)(inputs, positions)
    assert value == vicreg(inputs, positions, centre="position", num_positions=GRID)
    assert value != vicreg(inputs, positions, centre="batch", num_positions=GRID)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", *REGULARISERS])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
def test_compiles_without_a_graph_break(name: str) -> None:
    inputs, positions = make_batch()
    regulariser = make_regulariser(name, centre="position", num_positions=GRID)
    compiled = torch.compile(regulariser, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = regulariser(inputs, positions)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(inputs, positions), expected)


def test_refuses_positions_of_another_shape() -> None:
    regulariser = make_regulariser("spectral", num_positions=GRID)
    with pytest.raises(ValueError, match=r"positions=\(2, 4\): must be \(B, Nc, D\) and \(B, Nc\)"):
        regulariser(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
