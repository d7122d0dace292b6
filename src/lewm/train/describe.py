"""What a run is for, as its store and its settings say it: the content of `spec.json`, see `lewm.run_spec`."""

import dataclasses
from pathlib import Path

from lewm.config import Config
from lewm.data.action_range import action_range
from lewm.data.cameras import camera_specs
from lewm.data.store import Store, StoreMeta
from lewm.envs.registry import known_task
from lewm.run_spec import RunSpec
from lewm.version import __version__


def spec_of(store: Store, config: Config) -> RunSpec:
    """Describe a run.

    Args:
        store: what it is trained on.
        config: its settings, with `action` filled in.

    Raises:
        ValueError: If what the store says of its cameras makes no sense.
    """
    action, data = config.action, config.data
    if action.kind == "continuous" and not action.low:  # of a version that did not measure them
        train, _ = store.split(held_out=data.held_out, seed=data.split_seed)
        measured = dataclasses.asdict(action_range(store, train, quantile=data.change_quantile))
        config = dataclasses.replace(config, action=dataclasses.replace(action, **measured))
    return spec_of_meta(store.meta, config)


def spec_of_meta(meta: StoreMeta, config: Config) -> RunSpec:
    """Describe a run as `spec_of` does, where there is no store: its settings, or its task, say the actions' range."""
    action, task = config.action, known_task(meta)
    names, low, high = meta.action_names, action.low, action.high
    if task is not None and action.kind == "continuous":
        names = names or task.action_names
        low, high = tuple(-limit for limit in task.limits()), task.limits()
    skip = meta.origin.get("frame_skip", 1)
    steps_in_row = skip if isinstance(skip, int) and skip > 1 and action.size % skip == 0 else 1
    return RunSpec(
        task=meta.task,
        action_kind=action.kind,
        action_size=action.size,
        action_names=names,
        control_mode=meta.control_mode if action.control_mode == "unknown" else action.control_mode,
        low=low,
        high=high,
        max_change=action.max_change,
        fps=None if meta.fps is None else meta.fps * steps_in_row,
        steps_in_row=steps_in_row,
        frame_skip=config.data.frame_skip,
        state_names=meta.state_names,
        image_size=meta.image_size,
        cameras=camera_specs(meta),
        held_out=config.data.held_out,
        split_seed=config.data.split_seed,
        origin=_origin(meta),
        package_version=__version__,
    )


def _origin(meta: StoreMeta) -> dict[str, str]:
    """Return what the data came from, without a machine's paths."""
    known = {key: value for key in ("format", "name", "robot_type") if isinstance(value := meta.origin.get(key), str)}
    path = meta.origin.get("path")  # a store of an earlier version has no name
    return {"name": Path(path).name, **known} if isinstance(path, str) else known
