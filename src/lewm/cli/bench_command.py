"""`lewm bench`: how fast an export is on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from lewm.cli.options import Json, parse
from lewm.cli.show import print_result, print_table, short_text


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time an export: encoder, one iteration of the planner, and the whole look; --json prints one line.

    Each part's operations, counted when it was exported, are set beside what a product of two matrices reaches here.
    """

    export: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Export folder."""
    compare: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Another export, timed in turn with the first."""
    seconds: float = 5.0
    """Time that each part is measured for."""
    provider: Literal["cpu", "cuda", "tensorrt", "openvino"] = "cpu"
    """Where graphs run."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the graphs; by default one a physical core."""
    cores: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT...")] = ()
    """Cores that these threads run on; by default all."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> None:
    args = parse("bench", Bench, argv)
    from lewm.deploy import sessions
    from lewm.deploy.bench import PARTS, bench, ratios

    if not args.seconds > 0:
        raise ValueError(f"seconds={args.seconds}: must be positive; use 5")
    folders = [args.export, *([] if args.compare is None else [args.compare])]
    sessions.share_threads(args.threads)
    found = bench(folders, seconds=args.seconds, provider=args.provider, threads=args.threads, cores=args.cores or None)
    result = found[0] if args.compare is None else {"exports": found, "ratios": ratios(*found)}

    def show() -> None:
        for one in found:
            rows = [
                (
                    part,
                    *(short_text(one[part][name]) for name in ("p50_ms", "p95_ms", "p99_ms")),
                    short_text(one[part]["gflop"]),
                    f"{one[part]['share_of_matrix_rate']:.0%}",
                )
                for part in PARTS
                if part in one
            ]
            title = f"{one['export']}, {one['precision']}, {one['budget']}, on {one['machine']['processor']}"
            print_table(title, ("", "p50 ms", "p95 ms", "p99 ms", "GFLOP", "of the matrix rate"), rows)
            print(
                f"{one['matrix_gflop_per_s']} GFLOP/s in a product of two matrices; loaded in {one['load_s']} s; at "
                f"most {one['peak_memory_mb']:.0f} MB in memory"
            )
        if args.compare is not None:
            print(f"times of the first over the second: {result['ratios']}")

    print_result(args.json, result, show)
