"""What every family's settings have, and those that families on the conv-stem encoder share.

The docstring under a field is the help text of its option: that of `--model.image-size` stands under `image_size`. A
family that gives a field another value does not repeat its docstring.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from lewm.config.checks import at_least, require
from lewm.config.choices import RegulariserName

LONGEST_CLIP = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilySettings:
    """Settings of a family of models; each family has a subclass of its own."""

    plans: ClassVar[bool] = True
    """Whether the model predicts, so that a planner can search with it; a policy does not."""

    family: str = ""
    """Family of the model; the preset chooses it."""
    image_size: int = 64
    """Height and width of a frame in pixels."""
    history: int = 1
    """Frames that the predictor sees."""

    @property
    def clip_frames(self) -> int:
        """T: frames of a training clip."""
        return self.history + 1

    @property
    def learns_from_images(self) -> bool:
        """Whether there is something to learn from images alone, which have neither actions nor a next frame."""
        return False

    @property
    def goal_within(self) -> int:
        """Most environment steps to the goal that a training clip is drawn with; 0 for none."""
        return 0

    @property
    def num_tokens(self) -> int:
        """N: representation tokens of a frame."""
        return 1

    @property
    def token_width(self) -> int:
        """D: numbers of a representation token."""
        raise NotImplementedError

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSettings(FamilySettings):
    """Sizes of the conv-stem vision transformer (article, section 4.1)."""

    image_size: int = 128
    stem: Literal["conv", "linear"] = "conv"
    """Two strided convolutions before the patches, or one linear patch projection."""
    stem_channels: tuple[int, int] = (64, 128)
    """Output channels of the two stem convolutions."""
    patch_size: int = 4
    """Side of a patch on the stem's feature map, which is 4 times smaller than the image."""
    width: int = 384
    """D: width of the encoder and of a representation token."""
    depth: int = 6
    """Transformer layers of the encoder."""
    num_heads: int = 6
    """Attention heads of the encoder."""
    mlp_ratio: int = 4
    """Hidden width of every transformer MLP, as a multiple of its width."""
    final_norm: Literal["unit", "rms", "layer", "none"] = "unit"
    """Norm at the end of the encoder: LayerNorm without affine, RMS without affine, LayerNorm with affine, or none."""

    @property
    def effective_patch(self) -> int:
        """Side in pixels of the image region that one patch stands for."""
        return 4 * self.patch_size

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.effective_patch

    @property
    def num_patches(self) -> int:
        """Patches of a frame."""
        return self.grid**2

    @property
    def token_width(self) -> int:
        """D: numbers of a representation token."""
        return self.width

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "model", 1, "depth", "patch_size", "mlp_ratio")
        channels, size, patch = self.stem_channels, self.image_size, self.effective_patch
        require(min(channels) >= 1, "model.stem_channels", channels, "must be at least 1", "use 64 128")
        below = size // patch * patch
        require(
            size > 0 and size % patch == 0,
            "model.image_size",
            size,
            f"must be divisible by {patch} (stem stride 4 x patch {self.patch_size})",
            f"use {below} or {below + patch}" if below > 0 else f"use {patch}",
        )
        check_width(self, "width", "num_heads")


@dataclass(frozen=True, kw_only=True, slots=True)
class JepaSettings(EncoderSettings):
    """What families on that encoder share beside it: the narrow predictor, the EMA target, terms of the objective."""

    predictor_width: int = 192
    """P: width of the predictor."""
    predictor_depth: int = 4
    """Transformer layers of the predictor."""
    predictor_heads: int = 4
    """Attention heads of the predictor."""
    action_conditioning: Literal["add", "film", "token"] = "add"
    """How the action enters the predictor: added to every token, FiLM on the norms, or a token of its own."""
    residual: bool = False
    """Predict the change from the present frame's representation."""
    history: int = 1
    """Frames that the predictor sees, 1 to 4."""
    rollout_steps: int = 1
    """Prediction steps in the loss; beyond one, predictions are fed back."""
    regulariser: RegulariserName = "spectral"
    """What keeps the representation from collapsing; `none` for nothing."""
    regulariser_weight: float = 0.1
    """lambda: weight of the regulariser."""
    slowness: float = 0.0
    """Weight of the distance between a frame's representation and the next frame's; 0 is the article."""
    inverse: float = 0.0
    """Weight of decoding the action from the change of the representation; 0 is the article."""
    ema_start: float = 0.996
    """EMA momentum (the share of the target that is kept) at the first step."""
    ema_end: float = 1.0
    """EMA momentum at the last step; cosine in between."""

    @property
    def clip_frames(self) -> int:
        """T: frames of a training clip."""
        return self.history + self.rollout_steps

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        super(JepaSettings, self).validate()
        at_least(self, "model", 1, "predictor_depth")
        check_width(self, "predictor_width", "predictor_heads")
        past, ahead, clip = self.history, self.rollout_steps, self.clip_frames
        require(1 <= past <= 4, "model.history", past, "must be 1 to 4 frames", "use 1 or 3")
        at_least(self, "model", 1, "rollout_steps", remedy="use 1 to 4")
        require(
            clip <= LONGEST_CLIP,
            "model.rollout_steps",
            ahead,
            f"with model.history={past} a clip has {clip} frames and the longest is {LONGEST_CLIP}",
            f"use {LONGEST_CLIP - past} or fewer, or a smaller model.history",
        )
        at_least(self, "model", 0, "regulariser_weight", "slowness", "inverse", remedy="use 0 to leave it out")
        for name, example in (("ema_start", 0.996), ("ema_end", 1.0)):
            value = getattr(self, name)
            require(0 <= value <= 1, f"model.{name}", value, "must be between 0 and 1", f"use {example}")


def check_width(settings: FamilySettings, name: str, heads_name: str) -> None:
    """Raise ValueError unless a transformer's width fits its heads and its 2-D positions."""
    width, heads = getattr(settings, name), getattr(settings, heads_name)
    require(heads >= 1, f"model.{heads_name}", heads, "must be at least 1", f"use {_usual_heads(width)}")
    multiple = math.lcm(4, heads)
    require(
        width > 0 and width % multiple == 0,
        f"model.{name}",
        width,
        f"must be divisible by 4 (2-D positions) and by its {heads} heads",
        f"use {max(multiple, round(width / multiple) * multiple)}",
    )


def _usual_heads(width: int) -> int:
    """Return how many heads of about 64 numbers divide a width."""
    return next((heads for heads in range(width // 64, 0, -1) if width % heads == 0), 1)
