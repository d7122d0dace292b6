"""The world model: encoder, EMA target encoder, predictor, and what is learnt on top of them."""

from lewm.model.frame_model import FrameModel
from lewm.model.world_model import WorldModel

__all__ = ["FrameModel", "WorldModel"]
