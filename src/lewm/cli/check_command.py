"""`lewm check`: what is wrong with a store."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional

from lewm.cli.options import Folder, Json, parse
from lewm.cli.show import content, control, counted, print_result
from lewm.config import DataConfig

if TYPE_CHECKING:
    from lewm.data.check.store_check import CheckResult

PAGE = "check.html"


@dataclass(frozen=True, kw_only=True)
class Check:
    """Look for what is wrong with a store before training on it; writes check.html into it. Exit status 1 on errors."""

    store: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the store."""
    frame_skip: int = 1
    """Environment steps between two frames of a training clip."""
    clip_frames: int = 2
    """Frames of a training clip: history and rollout steps."""
    held_out: float = DataConfig().held_out
    """Share of the episodes that training holds out."""
    split_seed: int = DataConfig().split_seed
    """Seed of the split into training and held-out episodes."""
    control_mode: Annotated[
        Literal["position", "displacement", "velocity"] | None,
        tyro.conf.arg(metavar="{position,displacement,velocity}"),
    ] = None
    """Write into the store what its actions command: where to be, how far or how fast to move."""
    whole: FlagCreatePairsOff[bool] = False
    """Look at every frame, not at a sample."""
    repair: FlagCreatePairsOff[bool] = False
    """Write a new store, --out, without what can be left out; looks at every frame."""
    out: Folder = None
    """New store of --repair."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> int:
    args = parse("check", Check, argv)
    if args.repair != (args.out is not None):
        raise ValueError(
            f"repair={args.repair}: needs a new store, and only it does; give --repair --out DIR, or neither"
        )
    from lewm.data import Store
    from lewm.data.check.control_mode import GIVEN
    from lewm.data.check.repair import check_repair, repair
    from lewm.data.check.store_check import check_store
    from lewm.data.store import set_control_mode
    from lewm.files import check_file
    from lewm.report import check_figures, figures  # noqa: F401  without matplotlib, fail before the long part
    from lewm.report.check_report import write_check_report

    store, page = Store(args.store), None
    if args.out is not None:
        check_repair(store, args.out, store.num_frames)
    if args.control_mode is not None:
        set_control_mode(args.store, args.control_mode, GIVEN)
        store = Store(args.store)
    try:
        check_file(store.path / PAGE, "store")
        page = store.path / PAGE
    except ValueError as error:  # of a store that others share, say; what is found is worth telling all the same
        print(f"warning: {error}; the findings are told here alone", file=sys.stderr)

    def check(store: Store, *, whole: bool) -> "CheckResult":
        result = check_store(
            store,
            frame_skip=args.frame_skip,
            clip_frames=args.clip_frames,
            held_out=args.held_out,
            split_seed=args.split_seed,
            whole=whole,
        )
        if page is not None:
            write_check_report(store, result, page)
        return result

    result = check(store, whole=args.whole or args.repair)
    if args.repair and args.out is not None:
        store = repair(store, result, args.out)
        page = store.path / PAGE
        result = check(store, whole=True)

    def show() -> None:
        for finding in result.findings:
            print(f"{finding.severity}: {finding.message}; {finding.remedy}")
        if result.control_evidence:
            print(control(result.control_mode, result.control_evidence))
        counts = ", ".join(counted(result.count(severity), severity) for severity in ("error", "warning", "note"))
        print("; ".join((content(store), counts, *([] if page is None else [str(page)]))))

    print_result(args.json, {"store": str(store.path)} | result.as_json(), show)
    return 1 if result.count("error") else 0
