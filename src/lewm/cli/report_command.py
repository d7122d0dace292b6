"""`lewm report`: the page of a run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from lewm.cli.options import Json, parse
from lewm.cli.show import print_result


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html into a run folder from what is there: curves, and everything that `lewm eval` has measured."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> None:
    args = parse("report", Report, argv)
    from lewm.report.run_report import write_report

    report = write_report(args.run)
    print_result(args.json, {"report": str(report)}, lambda: print(report))
