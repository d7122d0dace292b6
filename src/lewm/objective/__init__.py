"""The objective: prediction loss, regularisers behind one signature, and collapse diagnostics."""

from collections.abc import Callable

import torch
from torch import Tensor

from lewm.config import LossConfig
from lewm.objective.barlow import barlow_twins
from lewm.objective.gaussian import gaussian_sigreg
from lewm.objective.moments import at_least_float32
from lewm.objective.prediction import prediction_loss
from lewm.objective.spectral import spectral_sigreg
from lewm.objective.spectrum import SpectrumReport, spectrum_report
from lewm.objective.vicreg import vicreg

__all__ = [
    "Regulariser",
    "SpectrumReport",
    "barlow_twins",
    "gaussian_sigreg",
    "make_regulariser",
    "prediction_loss",
    "spectral_sigreg",
    "spectrum_report",
    "vicreg",
]

Regulariser = Callable[[Tensor, Tensor], Tensor]

_TERMS = {"spectral": spectral_sigreg, "gaussian": gaussian_sigreg, "vicreg": vicreg, "barlow": barlow_twins}


def make_regulariser(loss: LossConfig, num_positions: int) -> Regulariser:
    """Build the regulariser that the configuration names.

    Args:
        loss: which term, what it is applied to and which mean is removed. Its weight is left to the caller.
        num_positions: N, grid positions of a full frame.

    Returns:
        Function of tokens (B, Nc, D) and positions (B, Nc) int64 to a scalar, float32 or better. In data-parallel
        training it gives the value of the global batch on every rank, and communicates: all ranks must call it.
    """
    if loss.regulariser == "none":
        return _zero
    term, centre = _TERMS[loss.regulariser], loss.centre

    def on_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
        _check(tokens, positions)
        return term(tokens, positions, centre=centre, num_positions=num_positions)

    def on_frames(tokens: Tensor, positions: Tensor) -> Tensor:
        _check(tokens, positions)
        frames = at_least_float32(tokens).mean(dim=1, keepdim=True)  # (B, 1, D)
        # One vector a frame is one position: both ways of centring are the same.
        return term(frames, torch.zeros_like(positions[:, :1]), centre="batch", num_positions=1)

    return on_frames if loss.apply_to == "frame" else on_tokens


def _zero(tokens: Tensor, positions: Tensor) -> Tensor:
    return at_least_float32(tokens.new_zeros(()))


def _check(tokens: Tensor, positions: Tensor) -> None:
    if tokens.ndim != 3 or positions.shape != tokens.shape[:2]:
        raise ValueError(
            f"tokens={tuple(tokens.shape)}, positions={tuple(positions.shape)}: must be (B, Nc, D) and (B, Nc); "
            "pass the grid index of every context token"
        )
