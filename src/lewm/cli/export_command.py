"""`lewm export`: a run into a folder that a robot's computer runs without PyTorch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lewm.cli.options import OfRun, parse_of_run
from lewm.cli.show import print_result, print_table, short_text
from lewm.deploy.manifest import Precision, Target


@dataclass(frozen=True, kw_only=True)
class Export(OfRun):
    """Write a run as a folder that `lewm.deploy.runtime` runs with NumPy and ONNX Runtime alone.

    The graphs are compared with the run before the folder appears. Settings of the planner that are not given are those
    of the run.
    """

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """New folder."""
    precision: Precision = "float32"
    """Of the weights, and of bfloat16 and int8 also of what is multiplied."""
    target: Target = "onnx"
    """What runs it."""
    batch: int = 1
    """Environments that are driven at once."""
    starts: int = 200
    """Closed-loop episodes that an export of lower precision is compared with PyTorch on, in a task of this package."""


def command(argv: list[str]) -> None:
    args, config = parse_of_run("export", Export, argv)
    if args.out is None:
        raise ValueError("out: not given; give the new folder, --out DIR")
    from lewm.deploy.export import export_pretrained, export_run

    names = ("data", "precision", "target", "batch", "starts")
    settings = {name: getattr(args, name) for name in names}
    if args.pretrained is not None:
        manifest = export_pretrained(args.pretrained, args.out, config=config, **settings)
    else:
        assert args.run is not None
        manifest = export_run(args.run, args.out, config=config, **settings)

    def show() -> None:
        parity = manifest.measured["parity"]
        alarms = manifest.surprise
        rows = [
            ("Graphs", ", ".join(manifest.graphs), ""),
            ("Largest difference of tokens", short_text(parity["encode"]), f"{parity['frames']} frames"),
            ("Looks that give the same action", f"{parity['same_action']:.0%}", f"{parity['looks']} looks"),
            ("False alarms", f"{alarms['false_alarms']:.1%}", f"{alarms['held_out_looks']:.0f} looks"),
        ]
        if driven := parity.get("driven"):
            low, high = driven["ci95"]
            rates = f"{driven['success']:.1%}, in PyTorch {driven['float32_success']:.1%}"
            rows.append(("Success", rates, f"{driven['starts']} starts"))
            rows.append(("Difference, 95% interval", f"{100 * low:.1f} to {100 * high:.1f} points", ""))
        print_table(f"{args.pretrained or args.run} for {manifest.target}, {manifest.precision}", ("", "", "of"), rows)
        print(args.out)

    print_result(args.json, asdict(manifest), show)
