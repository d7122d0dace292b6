"""Which arrays of a recording are its action, by their names."""

import re
from collections.abc import Callable, Sequence

from lewm.data.listing import listed

USUAL = ("action", "actions")
_ACTION = re.compile(r"(?!(prev|previous|last)_)(.*_)?actions?(_.*)?")


def is_action(path: str) -> bool:
    """Tell whether a part of an array's path calls it an action.

    Args:
        path: names of groups and the array, with slashes.
    """
    return any(_ACTION.fullmatch(part.lower()) for part in path.split("/"))


def detect_action(where: str, names: Sequence[str], is_candidate: Callable[[str], bool]) -> str:
    """Return the array that is the action: the one of the usual name, or the only candidate.

    Args:
        where: names the recording in errors.
        names: its arrays.
        is_candidate: tells which of them may be the action.

    Raises:
        ValueError: there is none, or a choice, which is the user's.
    """
    found = [name for name in USUAL if name in names] or [name for name in names if is_candidate(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{where}: has several actions, {listed(found)}; name the one to learn, or some, with --action"
        )
    raise ValueError(f"{where}: has no action in {listed(names)}; name the action's with --action")


def find_named(kind: str, where: str, wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the arrays that an import names: by path, by the end of a path, or all of a group by the group's path.

    Args:
        kind: action or state.
        where: names the recording in errors.
        wanted: the names given.
        names: the recording's arrays of numbers.

    Raises:
        ValueError: a name leads to nothing, or to several arrays.
    """
    found: dict[str, None] = {}
    for name in wanted:
        ends = [path for path in names if path == name] or [path for path in names if path.endswith(f"/{name}")]
        inside = [path for path in names if path.startswith(f"{name}/")]
        if len(ends) > 1:
            raise ValueError(f"{kind}={name}: {where} has {listed(ends)}; give the whole path")
        if not ends and not inside:
            raise ValueError(f"{kind}={name}: {where} has {listed(names)}; name some of them")
        found |= dict.fromkeys(ends or inside)
    return list(found)
