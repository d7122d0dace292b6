"""Families of models: each owns its settings, its model and its loss; everything else knows `Family` alone.

The names here need no torch; `lewm.families.family.make_model` builds a model.
"""

from lewm.families.presets import FAMILIES, PRESETS, from_json, preset, to_json

__all__ = ["FAMILIES", "PRESETS", "from_json", "preset", "to_json"]
