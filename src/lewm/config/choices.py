"""Names that a user may give, and where what they name lives: the tables that a new task, importer, regulariser or
planner joins. The table of families is in `lewm.families.presets`.

An entry is a line "name": "module:object". Option lists, help texts and checks are made of these tables, and nothing is
imported before it is used.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

TASKS = {
    "two-room": "lewm.envs.two_room:TwoRoom",
    "two-room-discrete": "lewm.envs.two_room:TwoRoomDiscrete",
    "push-t": "lewm.envs.push_t:PushT",
    "reacher": "lewm.envs.reacher:Reacher",
    "arm": "lewm.envs.arm:Arm",
}
"""Tasks: subclasses of `lewm.envs.Task` whose `name` is the name here."""

FORMATS = {
    "lerobot": "lewm.data.importers.lerobot:LeRobotSource",
    "hdf5": "lewm.data.importers.hdf5:HDF5Source",
    "zarr": "lewm.data.importers.zarr_replay:ZarrSource",
    "video": "lewm.data.importers.video_folders:VideoSource",
    "frames": "lewm.data.importers.frame_folders:FrameFolderSource",
    "images": "lewm.data.importers.images:ImageFolderSource",
    "webdataset": "lewm.data.importers.webdataset:WebDatasetSource",
}
"""Importers, in the order in which they are tried: subclasses of `lewm.data.importers.source.Source`."""

REGULARISERS = {
    "spectral": "lewm.objective.spectral:spectral_sigreg",
    "gaussian": "lewm.objective.gaussian:gaussian_sigreg",
    "vicreg": "lewm.objective.vicreg:vicreg",
    "barlow": "lewm.objective.barlow:barlow_twins",
}
"""Terms against collapse: `term(tokens, positions, *, centre, num_positions) -> scalar`."""

PLANNERS = {
    "cem": ("lewm.plan.cem:cem_weights", "elites", "proposals"),
    "mppi": ("lewm.plan.mppi:mppi_weights", "temperature", "proposals"),
    "proposal": ("lewm.plan.proposal:no_weights",),
}
"""Searches, which differ in how much weight a candidate has in a refit: `weights(plan) -> weight_fn(costs (B, K))`, or
None for one that carries out what it starts from; and the settings of `plan` that this one reads and not all of them
do."""

if TYPE_CHECKING:
    RegulariserName = str
    PlannerName = str
    FormatName = str
else:
    RegulariserName = Literal[("none", *REGULARISERS)]
    PlannerName = Literal[tuple(PLANNERS)]
    FormatName = Literal[tuple(FORMATS)]


def chosen(table: Mapping[str, str], name: str) -> Any:
    """Import and return what a name of a table stands for."""
    return found_at(table[name])


def found_at(place: str) -> Any:
    """Import and return what lives at "module:object"."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
