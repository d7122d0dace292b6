"""Give a trained run a proposal: a plan at once, or what a short search starts from."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from lewm.data.store import Store
from lewm.families.family import WorldModel
from lewm.files import check_file
from lewm.plan.proposal import ProposalSettings
from lewm.progress import progress_bars
from lewm.train.checkpoint import PROPOSAL, load_run, require_fit, save_proposal, weights_digest
from lewm.train.fit_proposal import fit_proposal
from lewm.train.loop import training_part
from lewm.train.run_lock import locked

STEPS = 2000


def distill_run(
    run: str | Path, *, data: str | Path | None = None, steps: int = STEPS, progress: bool = True
) -> dict[str, Any]:
    """Fit a proposal to a run's training episodes and write it into the run folder, in place of an earlier one.

    Args:
        run: Run folder.
        data: Store; None takes the one that the run was trained on.
        steps: Optimiser steps.
        progress: Show progress on standard error.

    Returns:
        `steps`, `episodes`, `parameters`, and how well the proposal tells the actions of held-out episodes: `error`
        beside `rival`, what saying the same of every action has.

    Raises:
        ValueError: If the run or the store is missing, broken, or they do not fit, or the run makes no plans.
    """
    run = Path(run)
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1; use {STEPS}")
    loaded = load_run(run, proposal=False)
    config, model = loaded.config, loaded.model
    if not isinstance(model, WorldModel) or config.action.kind == "none":
        raise ValueError(f"run={run}: makes no plans, so there is nothing to propose; give a world model with actions")
    check_file(run / PROPOSAL, "run")
    path = loaded.data if data is None else Path(data)
    if path is None:
        raise ValueError(f"data: not given, and {run} does not say which it was trained on; give a store by --data")
    store = Store(path)
    require_fit(store, config, run)
    store.validate()
    train, held_out = store.split(held_out=config.data.held_out, seed=config.data.split_seed)
    train = training_part(train, config.data)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} in"))
    with locked(run), progress_bars(*columns, TimeRemainingColumn(), TextColumn("left"), show=progress) as bars:
        bar = bars.add_task("proposal", total=steps)
        fitted = fit_proposal(
            model,
            model.inputs(store),
            ProposalSettings.of(config, weights_digest(run)),
            train=train,
            held_out=held_out,
            steps=steps,
            on_step=lambda: bars.advance(bar),
        )
        save_proposal(run, fitted.proposal)
    return {
        "steps": steps,
        "episodes": {"train": len(train), "held_out": len(held_out)},
        "parameters": sum(p.numel() for p in fitted.proposal.parameters()),
        "error": fitted.error,
        "rival": fitted.rival,
        "settings": dataclasses.asdict(fitted.proposal.settings),
    }
