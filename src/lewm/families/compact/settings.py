"""Settings of the compact family: today's recipe."""

from dataclasses import dataclass
from typing import Literal

from lewm.config.choices import RegulariserName
from lewm.config.family_settings import JepaSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactSettings(JepaSettings):
    """One vector a frame, kept from collapsing by a sketched Gaussian, and slow along a trajectory."""

    family: Literal["compact"] = "compact"
    """Family of the model; the preset chooses it."""
    regulariser: RegulariserName = "gaussian"
    """What keeps the representation from collapsing; `none` for nothing."""
    regulariser_weight: float = 0.02
    """lambda: weight of the regulariser."""
    slowness: float = 1.0
    """Weight of the distance between a frame's representation and the next frame's; 0 is the article."""
    target_gradient: bool = False
    """Encode the next frame by the online encoder and send gradients through it too (published model); no EMA then."""
    ema_start: float = 0.95
    """EMA momentum (the share of the target that is kept) at the first step."""
    ema_end: float = 0.995
    """EMA momentum at the last step; cosine in between."""
