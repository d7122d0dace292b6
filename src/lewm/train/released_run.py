"""A run folder made of a released model, in place of a training."""

from dataclasses import replace
from pathlib import Path

from lewm.config import Config
from lewm.data.store import Store
from lewm.families.family import make_model
from lewm.families.presets import PRESETS
from lewm.families.published.released import read_released
from lewm.plan.cost import planning_cost
from lewm.run_spec import save_spec
from lewm.train.checkpoint import CONFIG, check_room, load_config, save_config, save_state, with_data
from lewm.train.describe import spec_of
from lewm.train.loop import action_moments, check_store, save_reached
from lewm.train.reached import measure_reached
from lewm.train.run_lock import locked
from lewm.train.schedule import make_optimizer


def import_model(folder: str | Path, run: str | Path, data: str | Path) -> Config:
    """Make a run folder of a released model of the published LeWM; nothing in the released folder is executed.

    The release has the moments of the actions in its data, and not with the weights: they come from the training
    episodes of a store. Its planner's settings come from the preset `published`. The run counts as not trained yet, so
    that `lewm train --resume` fine-tunes the released weights on the store.

    Args:
        folder: The released folder, with `config.json` and `weights.pt`.
        run: New run folder.
        data: Store of the task, with frames of the model's size.

    Returns:
        The settings of the run.

    Raises:
        ValueError: If the released folder is not whole, the store does not fit the model, or the run is one already.
    """
    run, store = Path(run), Store(Path(data))
    if (run / CONFIG).exists():
        raise ValueError(f"out={run}: is a run already; give a new folder")
    released = read_released(Path(folder))
    config = with_data(
        replace(
            PRESETS["published"],
            model=released.settings,
            data=replace(PRESETS["published"].data, frame_skip=_frame_skip(released.action_inputs, store)),
        ),
        store,
    )
    if store.meta.image_size != (size := released.settings.image_size):
        raise ValueError(
            f"data={store.path}: has frames of {store.meta.image_size} px, and the model takes {size} px; collect or "
            f"import them with --image-size {size}"
        )
    check_store(store, config)
    train, held_out = store.split(held_out=config.data.held_out, seed=config.data.split_seed)
    model = make_model(config)
    model.load_state_dict(released.weights, strict=False)  # all but the moments of the actions
    if config.action.kind == "continuous":
        model.standardise(*action_moments(store, train))
    reached = measure_reached(model.eval(), planning_cost(config.plan, None), store, held_out, seed=config.seed)
    with locked(run):
        check_room(run, model)
        save_state(run, model, make_optimizer(model, config.train), step=0)
        save_spec(run, spec_of(store, config))
        save_config(run, config)
        if reached is not None:
            save_reached(run, reached, config)
    return load_config(run)


def _frame_skip(inputs: int, store: Store) -> int:
    """Return how many of the store's actions the `inputs` numbers of a model action are."""
    meta = store.meta
    if meta.action_kind == "none":
        raise ValueError(f"data={store.path}: has images without actions; give a store of the model's task")
    if inputs % meta.action_size:
        raise ValueError(
            f"data={store.path}: an action has {meta.action_size} numbers, and the model takes {inputs} of a whole "
            "number of actions; give a store of the model's task"
        )
    return inputs // meta.action_size
