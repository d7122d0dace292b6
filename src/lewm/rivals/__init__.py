"""Rivals: other models and a policy, trained on the same clips and measured in the same way."""

from lewm.rivals.run import RIVALS, run_rival

__all__ = ["RIVALS", "run_rival"]
