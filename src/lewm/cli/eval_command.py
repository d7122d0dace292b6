"""`lewm eval`: everything that can be measured of a run."""

from dataclasses import dataclass

from lewm.cli.numbers import HEADS, number_rows, verdicts
from lewm.cli.options import OfRun, parse_of_run
from lewm.cli.show import print_result, print_table
from lewm.config import Config


@dataclass(frozen=True, kw_only=True)
class Eval(OfRun):
    """Measure a run on held-out episodes; writes eval.json, which --json prints, starts.json and report.html.

    With --pretrained nothing is written. Settings that are not given are those of the run.
    """


def command(argv: list[str]) -> None:
    args, config = parse_of_run("eval", Eval, argv)
    assert args.run is not None
    if args.pretrained is not None:
        return _eval_pretrained(args, args.pretrained, config)
    run = args.run
    from lewm.evaluate import evaluate_run
    from lewm.files import check_file
    from lewm.report import figures  # noqa: F401  without matplotlib, fail before the long part
    from lewm.report.run_report import NAME, write_report

    check_file(run / NAME, "run")
    results = evaluate_run(run, data=args.data, device=args.device, config=config)
    report = write_report(run)

    def show() -> None:
        print_table(f"{run} on held-out episodes", HEADS, number_rows(results))
        print(f"{run / 'eval.json'}, {report}\n{verdicts(results)}")

    print_result(args.json, results, show)


def _eval_pretrained(args: Eval, name: str, config: Config) -> None:
    """Measure a model that comes with the package; its folder is not written to."""
    from lewm.evaluate import evaluate_pretrained

    results = evaluate_pretrained(name, data=args.data, device=args.device, config=config)

    def show() -> None:
        print_table(f"{name} on held-out episodes", HEADS, number_rows(results))
        print(verdicts(results))

    print_result(args.json, results, show)
