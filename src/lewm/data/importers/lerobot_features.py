"""Which features of a LeRobot data set are the action, the state and the cameras, and how their entries are called."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from lewm.data.importers.lerobot_files import INFO, clipped
from lewm.data.importers.listing import listed

_WHOLE = {"action": ("action", "actions"), "state": ("observation.state", "observation.states", "state", "states")}
"""What the action and the state are called; split ones add a dot and a name."""
_MAX_CHOICE, _MAX_NAME, _MAX_NESTING = 60, 1000, 4


def choose_numbers(
    role: Literal["action", "state"], names: Collection[str], wanted: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the features that are the action or the state.

    Args:
        role: which of the two.
        names: the features of numbers, in order.
        wanted: those that the import names: features, or what several of them begin with before a dot.

    Raises:
        ValueError: a wanted one is none, or there are several choices.
    """
    if wanted:
        chosen = []
        for name in wanted:
            stem = name.removesuffix("*").removesuffix(".")
            found = [name] if name in names else [key for key in names if key.startswith(f"{stem}.")]
            if not found:
                raise ValueError(f"{role}={clipped(name)}: no such column of numbers; name some of {listed(names)}")
            chosen += found
        if len(set(chosen)) != len(chosen):
            raise ValueError(f"{role}={listed(wanted)}: a feature is named twice; name each once")
        return tuple(chosen)
    choices = [[name] for name in _WHOLE[role] if name in names]
    choices += [group for name in _WHOLE[role] if (group := [key for key in names if key.startswith(f"{name}.")])]
    if not choices and role == "action":
        choices = [group] if (group := [key for key in names if key.startswith("action")]) else []
    if len(choices) > 1:
        options = " | ".join(f"--{role} {clipped(' '.join(group), _MAX_CHOICE)}" for group in choices)
        raise ValueError(f"{role}: several features may be it; choose one of: {options}")
    return tuple(choices[0]) if choices else ()


def choose_cameras(
    features: Mapping[str, Mapping[str, Any]], wanted: tuple[str, ...], has_files: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Return the features that are the wanted cameras, and the declared cameras that have no files.

    Args:
        features: as `meta/info.json` declares them.
        wanted: names of cameras, or their last parts.
        has_files: tells whether there is a video or a column of a camera.

    Raises:
        ValueError: there is none, a wanted one is none, or several are there and none is wanted.
    """
    declared = [key for key, feature in features.items() if feature.get("dtype") in ("video", "image")]
    declared = [key for key in declared if not _is_depth(features[key])]
    cameras = [key for key in declared if has_files(key)]
    empty = [key for key in declared if key not in cameras]
    if not cameras:
        if empty:
            raise ValueError(f"{INFO}: its cameras {listed(empty)} have no files; copy the images or videos too")
        raise ValueError(f"{INFO}: has no camera; give a data set with images or videos")
    if not wanted and len(cameras) > 1:
        raise ValueError(f"cameras: there are {len(cameras)}; name one or more of {listed(cameras)}")
    chosen = []
    for name in wanted or cameras:
        found = [key for key in cameras if key == name] or [key for key in cameras if key.rpartition(".")[2] == name]
        if len(found) != 1:
            lost = [key for key in empty if name in (key, key.rpartition(".")[2])]
            what = "is several cameras" if found else "has no files" if lost else "is no camera of it"
            raise ValueError(f"cameras={clipped(name)}: {what}; name one or more of {listed(cameras)}")
        chosen += found
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"cameras={listed(wanted)}: a camera is named twice; name each once")
    return chosen, empty


def entry_names(features: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of the entries of some features, one after the other.

    Those of one feature are its own, or none. Those of several begin with what tells the features apart.
    """
    given = {name: _flat_names(features.get(name, {}).get("names"), size) for name, size in sizes.items()}
    if len(sizes) == 1:
        return next(iter(given.values()))
    names: list[str] = []
    for (name, size), short in zip(sizes.items(), _without_stem(list(sizes)), strict=True):
        if given[name] and size > 1:
            names += [f"{short}.{entry}" for entry in given[name]]
        else:
            names += [short] if size == 1 else [f"{short}[{k}]" for k in range(size)]
    return tuple(names)


def _without_stem(names: list[str]) -> list[str]:
    """Return names without the parts before a dot with which all of them begin."""
    parts = [name.split(".") for name in names]
    same = 0
    while all(len(one) > same + 1 and one[same] == parts[0][same] for one in parts):
        same += 1
    return [".".join(one[same:]) for one in parts]


def video_codec(feature: Mapping[str, Any]) -> str:
    """Return the codec that a video is said to have, or nothing."""
    details = [feature.get(name) for name in ("info", "video_info")]
    codecs = [one.get("video.codec") for one in details if isinstance(one, dict)]
    return next((codec for codec in codecs if isinstance(codec, str)), "")


def _is_depth(feature: Mapping[str, Any]) -> bool:
    details = [feature.get(name) for name in ("info", "video_info")]
    keys = ("is_depth_map", "video.is_depth_map")
    return any(one.get(key) is True for one in details if isinstance(one, dict) for key in keys)


def _flat_names(names: object, size: int) -> tuple[str, ...]:
    """Return the names of a vector's entries, or nothing if they do not fit: lists may be nested, in objects too."""
    flat = _flatten(names, _MAX_NESTING)
    return tuple(name[:_MAX_NAME] for name in flat) if len(flat) == size else ()


def _flatten(names: object, nesting: int) -> list[str]:
    if isinstance(names, str):
        return [names]
    if isinstance(names, dict):
        places = list(names.values())
        if places and all(type(place) is int for place in places):  # {"x": 0, "y": 1}
            return sorted(names, key=lambda name: names[name])
        names = places  # {"motors": ["x", "y"]}
    if not isinstance(names, list) or nesting == 0:
        return []
    return [name for part in names for name in _flatten(part, nesting - 1)]
