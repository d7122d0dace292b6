"""Ablations: studies of variants on equal data, steps, seeds and evaluation, as a table in Python."""

from lewm.research.table import Job, ModelOf, Study, Table, TaskData, load_table, select

__all__ = ["Job", "ModelOf", "Study", "Table", "TaskData", "load_table", "select"]
