"""Settings of the rivals. Their widths make them as large as the preset `tiny` of the compact family."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from lewm.config.checks import at_least, require
from lewm.config.family_settings import EncoderSettings, FamilySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TDMPC2Settings(FamilySettings):
    """The latent dynamics of TD-MPC2 (arXiv 2310.16828)."""

    family: Literal["tdmpc2"] = "tdmpc2"
    latent: int = 296
    """D: numbers of the latent, a multiple of 8: simplices have 8 entries each."""
    hidden: int = 480
    """Hidden width of the dynamics."""
    channels: int = 32
    """Channels of every convolution of the encoder."""
    horizon: int = 3
    """H: prediction steps in the loss."""
    rho: float = 0.5
    """Weight of a step in the loss over that of the step before."""

    @property
    def clip_frames(self) -> int:
        """T: frames of a training clip."""
        return self.horizon + 1

    @property
    def token_width(self) -> int:
        """D: numbers of the latent."""
        return self.latent

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "model", 4, "image_size")
        at_least(self, "model", 1, "latent", "hidden", "channels", "horizon")
        require(self.latent % 8 == 0, "model.latent", self.latent, "must be divisible by 8 (simplices)", "use 296")


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamerSettings(FamilySettings):
    """The world model of DreamerV3 (arXiv 2301.04104)."""

    family: Literal["dreamer"] = "dreamer"
    categoricals: int = 16
    """S: categorical variables of a latent."""
    classes: int = 16
    """C: classes of each."""
    deterministic: int = 152
    """Width of the recurrent state."""
    hidden: int = 160
    """Hidden width of the sequence model and the prior."""
    channels: tuple[int, ...] = (8, 16, 32, 32)
    """Channels of the encoder's convolutions; the last one is that of all further ones."""
    clip: int = 4
    """Frames of a training clip."""

    @property
    def clip_frames(self) -> int:
        """T: frames of a training clip."""
        return self.clip

    @property
    def token_width(self) -> int:
        """D = S * C."""
        return self.categoricals * self.classes

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "model", 4, "image_size")
        at_least(self, "model", 1, "categoricals", "deterministic", "hidden")
        at_least(self, "model", 2, "classes", "clip")
        positive = min(self.channels, default=0) >= 1
        require(positive, "model.channels", self.channels, "must be positive numbers", "use 8 16 32 32")


@dataclass(frozen=True, kw_only=True, slots=True)
class GCBCSettings(EncoderSettings):
    """Goal-conditioned behaviour cloning: a policy, and no world model."""

    plans: ClassVar[bool] = False

    family: Literal["gcbc"] = "gcbc"
    image_size: int = 64
    features: int = 192
    """Numbers that a frame's vector is projected to."""
    hidden: int = 224
    """Hidden width of the policy's head."""
    chunk: int = 2
    """L / f: model steps whose actions are decided on at once."""
    goal_offset: int = 25
    """Most environment steps from a frame to its goal in training."""

    @property
    def clip_frames(self) -> int:
        """T: frames of a training clip; the actions between them are those to be cloned."""
        return 1 + self.chunk

    @property
    def goal_within(self) -> int:
        """Most environment steps to the goal that a training clip is drawn with."""
        return self.goal_offset

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        super(GCBCSettings, self).validate()
        at_least(self, "model", 1, "features", "hidden", "chunk", "goal_offset")
