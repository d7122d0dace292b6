"""Names that a setting may take, and where what they name lives: the tables that a new planner or regulariser joins.

An entry is a line "name": "module:object". Option lists, help texts and checks are made of these tables, and nothing is
imported before it is used.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

REGULARISERS = {
    "spectral": "lewm.objective.spectral:spectral_sigreg",
    "gaussian": "lewm.objective.gaussian:gaussian_sigreg",
    "vicreg": "lewm.objective.vicreg:vicreg",
    "barlow": "lewm.objective.barlow:barlow_twins",
}
"""Terms against collapse: `term(tokens, positions, *, centre, num_positions) -> scalar`."""

PLANNERS = {"cem": "lewm.plan.cem:cem_weights", "mppi": "lewm.plan.mppi:mppi_weights"}
"""Searches, which differ in how much weight a candidate has in a refit: `weights(plan) -> weight_fn(costs (B, K))`."""

if TYPE_CHECKING:
    RegulariserName = str
    PlannerName = str
else:
    RegulariserName = Literal[("none", *REGULARISERS)]
    PlannerName = Literal[tuple(PLANNERS)]


def chosen(table: Mapping[str, str], name: str) -> Any:
    """Import and return what a name of a table stands for."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
