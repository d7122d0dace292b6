"""Data: the clip store and the sampler that reads it. NumPy and PyArrow only."""

from lewm.data.sampler import Clips, ClipSampler
from lewm.data.store import Episodes, Store, StoreMeta, StoreWriter, split_episodes

__all__ = ["ClipSampler", "Clips", "Episodes", "Store", "StoreMeta", "StoreWriter", "split_episodes"]
