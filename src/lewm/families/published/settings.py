"""Settings of the published family: LeWM of arXiv 2603.19312, as released."""

from dataclasses import dataclass
from typing import Literal

from lewm.config import FamilySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSettings(FamilySettings):
    """The published LeWM: one vector a frame, from the class token of a vision transformer. Defaults are the released.

    B clips of a batch give L = |g(z, a) - z_next|^2 + `regulariser_weight` * `reference_batch` / B * T. The sketched
    Gaussian T of the release is multiplied by the number of its samples, B, so that its share of the loss would change
    with the batch. The quotient takes that factor out: any batch trains at the balance of the released one, which is
    0.09 * 128 = 11.5 a unit of T / B. With a batch of `reference_batch`, the loss is the released one.
    """

    family: Literal["published"] = "published"
    image_size: int = 224
    patch_size: int = 14
    """Side of a patch in pixels."""
    width: int = 192
    """D: width of the encoder, of the predictor and of a representation."""
    depth: int = 12
    """Transformer layers of the encoder."""
    num_heads: int = 3
    """Attention heads of the encoder."""
    mlp_ratio: int = 4
    """Hidden width of the encoder's MLPs and of the action embedding, as a multiple of `width`."""
    projector_width: int = 2048
    """Hidden width of the two projectors, after the encoder and after the predictor."""
    history: int = 3
    """Frames that the predictor sees, at most; a training clip has one more."""
    predictor_depth: int = 6
    """Transformer layers of the predictor."""
    predictor_heads: int = 16
    """Attention heads of the predictor."""
    predictor_head_width: int = 64
    """Width of each of those heads; together they may be wider than `width`."""
    predictor_mlp_width: int = 2048
    """Hidden width of the predictor's MLPs."""
    dropout: float = 0.1
    """Share of the predictor's attention and hidden values that a training step leaves out."""
    input_dropout: float = 0.0
    """Share of the predictor's inputs that a training step leaves out."""
    action_channels: int = 10
    """Width to which a model action is mixed before the action embedding's MLP."""
    regulariser_weight: float = 0.09
    """lambda: weight of the sketched Gaussian, as of a batch of `reference_batch` clips."""
    reference_batch: int = 128
    """Clips of the batch that `regulariser_weight` was chosen for; other batches keep its balance."""
    num_directions: int = 1024
    """Random directions along which the representations of a batch are tested."""
    knots: int = 17
    """Points from 0 to 3 at which the sketched Gaussian compares characteristic functions."""

    @property
    def num_patches(self) -> int:
        """Patches of a frame."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def token_width(self) -> int:
        """D: numbers of a representation."""
        return self.width

    def validate(self) -> None:
        """Check that a model can be made of the settings.

        Raises:
            ValueError: If it cannot.
        """
        counts = [name for name in self.__dataclass_fields__ if isinstance(getattr(self, name), int)]
        for name in counts:
            least, usual = 2 if name == "knots" else 1, self.__dataclass_fields__[name].default
            self._require(getattr(self, name) >= least, name, f"must be at least {least}", f"use {usual}")
        patch, below = self.patch_size, self.image_size // self.patch_size * self.patch_size
        self._require(
            below == self.image_size,
            "image_size",
            f"must be divisible by the patch of {patch}",
            f"use {below} or {below + patch}" if below else f"use {patch}",
        )
        heads = self.num_heads
        nearest = max(1, round(self.width / heads)) * heads
        self._require(self.width % heads == 0, "width", f"must be divisible by its {heads} heads", f"use {nearest}")
        for name in ("dropout", "input_dropout"):
            self._require(0 <= getattr(self, name) < 1, name, "must be in [0, 1)", "use 0 for none")
        weight = self.regulariser_weight
        self._require(0 <= weight < float("inf"), "regulariser_weight", "must not be negative", "use 0.09")

    def _require(self, ok: bool, name: str, constraint: str, remedy: str) -> None:
        if not ok:
            raise ValueError(f"model.{name}={getattr(self, name)}: {constraint}; {remedy}")
