"""`lewm distill`: a proposal for a run, out of the data that it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from lewm.cli.options import Folder, Json, parse
from lewm.cli.show import number_text, print_result, print_table


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Fit a small network to what the data did on its way to later frames, and write it into the run folder.

    `--planner proposal` then plans by it alone, and `--plan.proposals` lets a short search start from it.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    data: Folder = None
    """Another store than the one that the run was trained on."""
    steps: int = 2000
    """Optimiser steps."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> None:
    args = parse("distill", Distill, argv)
    from lewm.train.checkpoint import PROPOSAL
    from lewm.train.distill import distill_run

    result = distill_run(args.run, data=args.data, steps=args.steps)

    def show() -> None:
        rows = [("Error on held-out episodes", number_text(result["error"]), number_text(result["rival"]))]
        print_table(f"Proposal of {args.run}", ("", "", "without looking"), rows)
        print(args.run / PROPOSAL)

    print_result(args.json, result, show)
