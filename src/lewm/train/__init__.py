"""Training: Algorithm 1, its schedules, checkpoints and the loop around it."""

from lewm.train.checkpoint import LoadedRun, load_run
from lewm.train.distill import distill_run
from lewm.train.loop import NonFiniteLossError, resume, train

__all__ = ["LoadedRun", "NonFiniteLossError", "distill_run", "load_run", "resume", "train"]
