"""Settings of the compact family: today's recipe."""

from dataclasses import dataclass
from typing import Literal

from lewm.config.checks import require
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
    proprio: tuple[str, ...] = ()
    """State variables that the robot measures itself, such as where its hand is. As many numbers of the representation
    learn to read them from the frame; slowness and the regulariser then work on the others alone."""

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        super(CompactSettings, self).validate()
        names = self.proprio
        require(len(set(names)) == len(names), "model.proprio", names, "must name each variable once", "leave one out")
        most = self.width // 2
        require(len(names) <= most, "model.proprio", names, f"must be at most {most} names", "use a larger model.width")
        if names:
            told = "with model.proprio the numbers that are read must keep their scale"
            require(self.final_norm == "none", "model.final_norm", self.final_norm, told, "use none")
