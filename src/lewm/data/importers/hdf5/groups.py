"""The layouts of one group, or one file, an episode: robomimic's and Isaac Lab's, Minari's and ManiSkill's, and ACT's.

    data/demo_0/actions, data/demo_0/obs/agentview_image      robomimic, LIBERO
    data/demo_0/actions, data/demo_0/obs/cameras/wrist        Isaac Lab; groups may be nested
    episode_0/actions, episode_0/observations/...             Minari; ManiSkill's are traj_0/obs/...
    action, observations/qpos, observations/images/top        ALOHA, ACT and what came of them: a file an episode

States are all arrays of numbers in `obs` (or `observations`, `observation`), which is what a robot knows; what a
simulator keeps beside it, such as `states`, is a state if the import names it. Minari's and ManiSkill's episodes have
one observation more than actions: the last has no action.
"""

import re
from pathlib import Path

import h5py

from lewm.data.importers.columns import is_action
from lewm.data.importers.hdf5.layout import Episode, Layout, Scan, find_layout
from lewm.data.importers.hdf5.reading import array_at, arrays, child, names_in
from lewm.data.importers.listing import listed
from lewm.data.importers.source import ImportOptions

_EPISODE = re.compile(r"(?:demo|episode|traj|trajectory)_([0-9]{1,9})")
_OBSERVATIONS = ("obs", "observations", "observation")
_SKIPPED = frozenset({"next_obs", "next_observations", "initial_state"})


def find_demos(root: h5py.Group) -> tuple[str, list[str]]:
    """Return the group that holds a file's episodes, empty for the file itself, and their names in numeric order."""
    for place in ("data", ""):
        group = child(root, place) if place in names_in(root) else root if not place else None
        if isinstance(group, h5py.Group):
            found = sorted((int(match[1]), name) for name in names_in(group) if (match := _EPISODE.fullmatch(name)))
            if found:
                return place, [name for _, name in found]
    return "", []


def scan_demos(file: Path, root: h5py.Group, place: str, names: list[str], options: ImportOptions) -> Scan:
    """Find what a file of one group an episode holds.

    Raises:
        ValueError: none of its episodes can be imported.
    """
    layout: Layout | None = None
    episodes: list[Episode | str] = []
    for name in names:
        path = f"{place}/{name}".lstrip("/")
        try:
            demo = child(root, path)
            if not isinstance(demo, h5py.Group) or not set(_OBSERVATIONS) & set(names_in(demo)):
                raise ValueError(f"{file.name}/{path}: has no group obs; extract observations with images first")
            found = _group_layout(demo, f"{file.name}/{path}", options)
            if layout is not None and found.shape != layout.shape:
                raise ValueError(
                    f"{file.name} {name}: has other actions, states or images than those before; leave it out"
                )
            length = _length(demo, f"{file.name} {name}", found)
            layout = layout.merged(found) if layout else found
            episodes.append(Episode(file, path, name, range(length)))
        except ValueError as error:
            episodes.append(str(error))
    if layout is None:
        raise ValueError(episodes[0])
    return Scan("robomimic" if place else "groups", layout, episodes)


def scan_single(file: Path, root: h5py.Group, options: ImportOptions) -> Scan:
    """Find what a file holds that is an episode.

    Raises:
        ValueError: it cannot be imported.
    """
    layout = _group_layout(root, file.name, options)
    return Scan("single", layout, [Episode(file, "", "", range(_length(root, file.name, layout)))])


def _group_layout(group: h5py.Group, where: str, options: ImportOptions) -> Layout:
    paths = arrays(group, _SKIPPED)
    outside = {path for path in paths if path.split("/")[0] not in _OBSERVATIONS}
    return find_layout(
        group,
        where,
        paths,
        is_state=lambda path: path not in outside,
        is_action=lambda path: path in outside and is_action(path),
        options=options,
    )


def _length(group: h5py.Group, where: str, layout: Layout) -> int:
    """Return the number of frames of an episode, whose last may have no action."""
    observed = {path: array_at(group, path).shape[0] for path in layout.observed}
    acted = {numbers.path: array_at(group, numbers.path).shape[0] for numbers in layout.actions}
    length = max(observed.values())
    if len(set(observed.values())) > 1 or len(set(acted.values())) > 1 or length - max(acted.values()) not in (0, 1):
        counts = ", ".join(f"{path} {count}" for path, count in (observed | acted).items())
        raise ValueError(f"{where}: has other numbers of rows in {listed([counts])}; repair it or leave it out")
    return length
