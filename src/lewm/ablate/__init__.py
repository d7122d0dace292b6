"""Ablations: studies of variants on equal data, steps, seeds and evaluation, as a table in Python."""

from lewm.ablate.table import Job, Rival, Study, Table, TaskData, load_table, select

__all__ = ["Job", "Rival", "Study", "Table", "TaskData", "load_table", "select"]
