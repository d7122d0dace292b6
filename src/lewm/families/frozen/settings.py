"""Settings of a pretrained encoder under a predictor."""

from dataclasses import dataclass
from typing import Literal

from lewm.config.checks import at_least, require
from lewm.config.family_settings import LONGEST_CLIP, FamilySettings, check_width


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenSettings(FamilySettings):
    """A pretrained encoder from an ONNX file, which training leaves as it is, and our predictor on its tokens."""

    family: Literal["frozen"] = "frozen"
    encoder_file: str = ""
    """ONNX file of the encoder: one input (B, 3, height, width), the first output or `encoder_output`."""
    encoder_sha256: str = ""
    """SHA-256 of that file. Filled in when training starts; another file is refused afterwards."""
    encoder_output: str = ""
    """Name of the output that is taken; empty for the first. It is (B, N, D), (B, D, rows, columns) or (B, D)."""
    encoder_size: int = 224
    """Height and width in pixels that frames are brought to for the encoder."""
    encoder_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, of 0 to 1, that is taken off; ImageNet's by default."""
    encoder_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue that they are divided by; ImageNet's by default."""
    skip_tokens: int = 0
    """Tokens at the beginning of (B, N, D) that stand for no place, such as a class token, and are left out."""
    pool: int = 4
    """Average the tokens to a grid of so many rows and columns; 0 leaves them as they are."""
    tokens: int = 0
    """N: tokens of a frame. Filled in when training starts."""
    width: int = 0
    """D: width of a token. Filled in when training starts."""
    predictor_width: int = 96
    """P: width of the predictor."""
    predictor_depth: int = 3
    """Transformer layers of the predictor."""
    predictor_heads: int = 3
    """Attention heads of the predictor."""
    mlp_ratio: int = 4
    """Hidden width of the predictor's MLPs, as a multiple of its width."""
    action_conditioning: Literal["add", "film", "token"] = "add"
    """How the action enters the predictor: added to every token, FiLM on the norms, or a token of its own."""
    residual: bool = True
    """Predict the change from the present frame's representation."""
    history: int = 1
    """Frames that the predictor sees, 1 to 4."""
    rollout_steps: int = 1
    """Prediction steps in the loss; beyond one, predictions are fed back."""

    @property
    def final_norm(self) -> Literal["unit"]:
        """Tokens are brought to mean 0 and variance 1 each."""
        return "unit"

    @property
    def clip_frames(self) -> int:
        """T: frames of a training clip."""
        return self.history + self.rollout_steps

    @property
    def num_tokens(self) -> int:
        """N: representation tokens of a frame."""
        return self.tokens

    @property
    def token_width(self) -> int:
        """D: numbers of a representation token."""
        return self.width

    @property
    def grid(self) -> int:
        """Tokens along one side of a frame, where they are a square; else 0."""
        side = round(self.tokens**0.5)
        return side if side**2 == self.tokens else 0

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "model", 1, "image_size", "encoder_size", "predictor_depth", "mlp_ratio", "rollout_steps")
        at_least(self, "model", 0, "skip_tokens", "pool", "tokens", "width")
        check_width(self, "predictor_width", "predictor_heads")
        past, clip = self.history, self.clip_frames
        require(1 <= past <= 4, "model.history", past, "must be 1 to 4 frames", "use 1 or 3")
        constraint = f"makes clips of {clip} frames, and the longest has {LONGEST_CLIP}"
        remedy = f"use {LONGEST_CLIP - past} or fewer, or a smaller model.history"
        require(clip <= LONGEST_CLIP, "model.rollout_steps", self.rollout_steps, constraint, remedy)
        std = self.encoder_std
        require(min(std) > 0, "model.encoder_std", std, "must be positive", "use 0.229 0.224 0.225")
