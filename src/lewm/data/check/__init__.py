"""What is wrong with a store, and what to do about it."""

from lewm.data.check.store_check import check_store

__all__ = ["check_store"]
