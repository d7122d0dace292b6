"""`lewm ablate`: variants of a table of studies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional

from lewm.cli.options import Folder, Json, parse
from lewm.cli.show import announce, print_result

if TYPE_CHECKING:
    from lewm.research import Job, Table


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """Train and evaluate the variants of a table of studies, a line of JSON each; goes on after those already done.

    The table is a Python file that defines TABLE, and is run as `python FILE` would run it. With --tables or --figures,
    nothing is run, and what has been measured is written up.
    """

    table: Annotated[Positional[Path], tyro.conf.arg(metavar="TABLE")]
    """Python file that defines TABLE, a lewm.research.Table."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.jsonl")]
    """File of results, which several commands may share."""
    work: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/ablate")
    """Folder of collected episodes and unfinished runs."""
    study: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Studies; by default all."""
    variants: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Variants; by default all."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Tasks; by default all."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT...")] = ()
    """Seeds; by default all."""
    list: FlagCreatePairsOff[bool] = False
    """Show the jobs and which are done, and run nothing."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes of one thread each; by default one a GPU where there are several, else one job after another."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Run on a Ray cluster."""
    keep: FlagCreatePairsOff[bool] = False
    """Keep run folders, in DIR/runs."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    tables: Annotated[Path | None, tyro.conf.arg(metavar="PAGE.md")] = None
    """Write each study's tables into this page, between <!-- study NAME --> and <!-- /study NAME -->."""
    figures: Folder = None
    """Draw the figures of studies that have a curve into this folder, as NAME.png."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> int:
    args = parse("ablate", Ablate, argv)
    from lewm.research import load_table, select
    from lewm.research.results import by_label, read

    read(args.out)  # a file that is not one of results is refused before anything is done
    table = load_table(args.table)
    chosen = select(table, studies=args.study, variants=args.variants, tasks=args.tasks, seeds=args.seeds)
    summary: dict[str, Any] = {"out": str(args.out), "failed": []}
    if args.tables is not None or args.figures is not None:
        summary["written"] = [str(path) for path in _write_up(args, table, chosen)]
    elif not args.list:
        from lewm.research.jobs import run_jobs

        try:
            done = run_jobs(
                table,
                chosen,
                out=args.out,
                work=args.work,
                workers=args.jobs,
                ray=args.ray,
                keep=args.keep,
                device=args.device,
                progress=not args.json,
                tell=announce,
            )
        except RuntimeError as error:  # a worker or a cluster failed; the message says what is left to do
            raise ValueError(str(error)) from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; {args.out} keeps the results so far, and the same command goes on"
            ) from None
        summary["failed"] = list(done.failed)
    there = by_label(read(args.out))
    rows = [(job, job.label in there) for job in chosen]
    summary |= {"jobs": len(chosen), "done": sum(is_done for _, is_done in rows)}
    if args.list:
        names = ("study", "variant", "task", "seed", "key")
        summary["list"] = [dict(zip(names, job.label, strict=True)) | {"done": is_done} for job, is_done in rows]

    def show() -> None:
        if args.list:
            for job, is_done in rows:
                state = "done" if is_done else "missing"
                print(f"{state:<8}{job.study} / {job.variant} / {job.task} / seed {job.seed}")
        print(*summary.get("written", ()), f"{args.out}: {summary['done']} of {summary['jobs']} jobs done", sep="\n")

    print_result(args.json, summary, show)
    return 1 if summary["failed"] else 0


def _write_up(args: Ablate, table: "Table", jobs: Sequence["Job"]) -> list[Path]:
    """Write the tables and draw the figures that were asked for."""
    from lewm.files import check_file, check_folder

    if args.tables is not None:
        check_file(args.tables, "tables")
    if args.figures is not None:
        check_folder(args.figures, "figures")
    written = []
    if args.tables is not None:
        from lewm.research.study_tables import write_tables

        write_tables(args.tables, jobs, args.out)
        written.append(args.tables)
    if args.figures is not None:
        from lewm.research.study_figures import write_figures

        written += write_figures(args.figures, table, jobs, args.out)
    return written
