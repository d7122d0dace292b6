"""Settings of the compact family: today's recipe."""

from dataclasses import dataclass
from typing import Literal

from lewm.config.choices import RegulariserName
from lewm.config.family_settings import JepaSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactSettings(JepaSettings):
    """One vector a frame, kept from collapsing by a sketched Gaussian, and slow along a trajectory."""

    family: Literal["compact"] = "compact"
    regulariser: RegulariserName = "gaussian"
    regulariser_weight: float = 0.02
    slowness: float = 1.0
    target_gradient: bool = False
    """Encode the next frame by the online encoder and send gradients through it too (published model); no EMA then."""
    ema_start: float = 0.95
    ema_end: float = 0.995
