"""The flat layout of LeWM's and stable-worldmodel's files: one dataset a column, one row a frame.

The episodes are in `ep_offset` and `ep_len`, or in `ep_idx` (or `episode_idx`) for rows in any order; `step_idx` orders
an episode's rows. States are the columns named `state`, `proprio`, `observation`, `qpos`, `qvel`, `*_pos`, and those
that begin with `state_`, `proprio_`, `privileged_` or `pos_`.
"""

import re
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from lewm.data.importers.columns import is_action
from lewm.data.importers.hdf5.layout import Episode, Scan, find_layout
from lewm.data.importers.hdf5.reading import array_at, check_index, names_in, read_index, whole
from lewm.data.importers.source import ImportOptions

INDEXES = ("ep_offset", "ep_idx", "episode_idx")
STATE = re.compile(r"state|proprio|observation|qpos|qvel|(state|proprio|privileged|pos)_.*|(?!goal|prev).*_pos")
_MAX_EPISODES = 2**20


def scan_flat(file: Path, root: h5py.Group, options: ImportOptions) -> Scan:
    """Find the episodes of a flat file.

    Raises:
        ValueError: none can be imported.
    """
    names = names_in(root)
    layout = find_layout(root, file.name, names, lambda name: STATE.fullmatch(name) is not None, is_action, options)
    num_rows = array_at(root, layout.actions[0].path).shape[0]
    number = next((name for name in ("ep_idx", "episode_idx") if name in names), None)
    steps = "step_idx" if "step_idx" in names else None
    for name in (steps, number):
        if name is not None:
            check_index(whole(array_at(root, name)))
    episodes: list[Episode | str] = []
    if "ep_offset" in names and "ep_len" in names:
        starts, lengths = read_index(root, "ep_offset"), read_index(root, "ep_len")
        if len(starts) != len(lengths) or len(starts) > _MAX_EPISODES:
            raise ValueError(
                f"{file.name}: has {len(starts)} ep_offset and {len(lengths)} ep_len; must be as many, and at most "
                f"{_MAX_EPISODES}"
            )
        outside = (lengths < 1) | (starts < 0) | (starts > num_rows - lengths)
        taken = _overlaps(starts, np.where(outside, 0, lengths))
        for k, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            if outside[k]:
                episodes.append(
                    f"{file.name} episode {k}: ep_offset={start} and ep_len={length} are not within the {num_rows} "
                    "rows; repair or leave out the episode"
                )
            elif taken[k]:
                episodes.append(f"{file.name} episode {k}: overlaps another one; repair or leave out the episode")
            else:
                episodes.append(Episode(file, "", f"episode {k}", range(start, start + length), steps, number))
    elif number is not None:
        numbers = read_index(root, number)
        order = np.argsort(numbers, kind="stable")
        firsts = np.flatnonzero(np.diff(numbers[order])) + 1
        if len(firsts) >= _MAX_EPISODES:
            raise ValueError(f"{file.name}: has {len(firsts) + 1} values of {number}; must be at most {_MAX_EPISODES}")
        for rows in np.split(order, firsts) if len(order) else []:
            if (k := int(numbers[rows[0]])) < 0:
                episodes.append(f"{file.name} episode {k}: {number} is negative; repair or leave out the episode")
            else:
                episodes.append(Episode(file, "", f"episode {k}", rows, steps))
    else:
        raise ValueError(
            f"{file.name}: does not say which rows are an episode; add ep_offset and ep_len, or ep_idx and step_idx"
        )
    if not episodes:
        raise ValueError(f"{file.name}: holds no episode; record some")
    return Scan("flat", layout, episodes)


def _overlaps(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which episodes begin before an earlier one ends."""
    order = np.argsort(starts, kind="stable")
    ends = np.maximum.accumulate((starts + lengths)[order])
    taken = np.zeros(len(starts), dtype=np.bool_)
    taken[order[1:]] = starts[order[1:]] < ends[:-1]
    return taken
