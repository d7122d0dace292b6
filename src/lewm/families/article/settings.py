"""Settings of the article's system, its several readings among them."""

from dataclasses import dataclass
from typing import Literal

from lewm.config.checks import at_least, positive_range, require
from lewm.config.family_settings import JepaSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ArticleSettings(JepaSettings):
    """The article's system: a token a patch, masked contexts, a spectral regulariser. Defaults are the article's."""

    family: Literal["article"] = "article"
    final_norm: Literal["unit", "rms", "layer", "none"] = "layer"
    mask_tokens: bool = True
    """Predict at mask tokens beside the context (article), or in place, which needs whole context frames."""
    mask_blocks: int = 4
    """Target blocks that are cut out of the context (article, section 4.4)."""
    mask_scale: tuple[float, float] = (0.15, 0.2)
    """Smallest and largest share of the grid that a block covers."""
    mask_aspect: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest height / width of a block."""
    context_ratio: float | None = 0.25
    """Share of tokens kept as context; None keeps the whole complement, trimmed to the batch's minimum."""
    full_context_prob: float = 0.0
    """Probability that a training batch sees the full frame, as inference does."""
    targets: Literal["all", "blocks"] = "all"
    """Positions of frame t+1 in the loss: all N, or those outside the context."""
    loss_form: Literal["smooth_l1", "mse"] = "smooth_l1"
    """Prediction loss: Smooth-L1 (article), or half the squared error, which is what it is at a large `beta`."""
    beta: float = 1.0
    """Smooth-L1 threshold."""
    reduction: Literal["mean", "sum"] = "mean"
    """Average over the D dimensions (article, section 7), or sum (section 4.5)."""
    apply_to: Literal["tokens", "frame"] = "tokens"
    """Regularise every context token, or the mean token of each frame."""
    centre: Literal["batch", "position"] = "batch"
    """Mean that is removed first: over all tokens, or over the tokens at the same position."""
    inference_encoder: Literal["online", "target"] = "online"
    """Which network encodes the present and the goal frame at inference."""

    @property
    def learns_from_images(self) -> bool:
        """Whether a context is masked, from which the same image is predicted."""
        return self.mask_tokens and self.full_context_prob < 1 and (self.context_ratio or 0) < 1

    @property
    def num_tokens(self) -> int:
        """N: representation tokens of a frame, one a patch."""
        return self.num_patches

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        super(ArticleSettings, self).validate()
        at_least(self, "model", 1, "mask_blocks", remedy="use 4")
        for name in ("mask_scale", "mask_aspect"):
            positive_range(self, "model", name)
        require(self.mask_scale[1] <= 1, "model.mask_scale", self.mask_scale, "must not exceed 1", "use 0.15 0.2")
        ratio, whole = self.context_ratio, self.full_context_prob
        require(ratio is None or 0 < ratio <= 1, "model.context_ratio", ratio, "must be in (0, 1]", "use 0.25 or None")
        require(0 <= whole <= 1, "model.full_context_prob", whole, "must be between 0 and 1", "use 0")
        require(self.beta > 0, "model.beta", self.beta, "must be positive", "use 1.0")
        require(
            self.targets == "all" or ratio is None or round(ratio * self.num_patches) < self.num_patches,
            "model.targets",
            self.targets,
            "no position is outside the context at context_ratio 1",
            "use all",
        )
        for name, used, otherwise in (
            ("residual", self.residual, "model.residual False"),
            ("mask_tokens=False", not self.mask_tokens, "model.mask_tokens True"),
            ("inverse", self.inverse > 0, "model.inverse 0"),
        ):
            constraint = f"model.{name} needs whole context frames"
            require(not used or whole == 1, "model.full_context_prob", whole, constraint, f"use 1, or {otherwise}")
