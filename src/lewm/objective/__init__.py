"""The objective: prediction loss, regularisers behind one signature, and collapse diagnostics."""

from collections.abc import Callable

from torch import Tensor

from lewm.config.choices import REGULARISERS, chosen
from lewm.objective.moments import Centre, at_least_float32
from lewm.objective.prediction_loss import prediction_loss
from lewm.objective.spectrum import SpectrumReport, spectrum_report

__all__ = ["Regulariser", "SpectrumReport", "make_regulariser", "prediction_loss", "spectrum_report"]

Regulariser = Callable[[Tensor, Tensor], Tensor]
"""Function of tokens (B, Nc, D) and their positions (B, Nc) int64 to a scalar."""


def make_regulariser(name: str, *, centre: Centre = "batch", num_positions: int = 1) -> Regulariser:
    """Return the regulariser of a name.

    Args:
        name: `none`, or one of `lewm.config.choices.REGULARISERS`.
        centre: mean that is removed first, over all tokens or over those at the same position.
        num_positions: N, grid positions of a full frame; 1 for one vector a frame.

    Returns:
        Function of tokens (B, Nc, D) and positions (B, Nc) int64 to a scalar, float32 or better. In data-parallel
        training it gives the value of the global batch on every rank, and communicates: all ranks must call it.
    """
    term = _nothing if name == "none" else chosen(REGULARISERS, name)

    def regularise(tokens: Tensor, positions: Tensor) -> Tensor:
        if tokens.ndim != 3 or positions.shape != tokens.shape[:2]:
            raise ValueError(
                f"tokens={tuple(tokens.shape)}, positions={tuple(positions.shape)}: must be (B, Nc, D) and (B, Nc); "
                "pass the grid index of every context token"
            )
        return term(tokens, positions, centre=centre, num_positions=num_positions)

    return regularise


def _nothing(tokens: Tensor, positions: Tensor, *, centre: Centre, num_positions: int) -> Tensor:
    return at_least_float32(tokens.new_zeros(()))
