"""The report's table of numbers, each beside its trivial rival."""

import html
import itertools
from collections.abc import Iterator

from lewm.evaluate.words import counted, number, percent, rate
from lewm.report.run_files import RunFiles

# Every text beside a number: what the trivial rival is, and how to read the number.
PREDICTION = (
    (
        "error_ratio",
        None,
        "Error ratio",
        "the better of copying the present frame and each position's mean; lower is better",
    ),
    ("centred_cosine", "copy_centred_cosine", "Centred cosine", "copying the present frame; higher is better"),
    ("cosine", "copy_cosine", "Cosine", "copying the present frame; higher is better"),
)
PROBES = {
    "linear_flattened": "linear, flattened tokens",
    "linear_pooled": "linear, mean token",
    "mlp_flattened": "MLP, flattened tokens",
    "mlp_pooled": "MLP, mean token",
}
SPECTRUM = (
    ("effective_rank", "Effective rank", 1.0, "total collapse; higher is better"),
    ("content_share", "Content share of the variance", 0.0, "tokens that differ by position alone; 1 is all content"),
    ("condition_number", "Condition number over the support", None, "no rival; 1 is a flat spectrum"),
    ("feature_std", "Standard deviation of a feature", 0.0, "total collapse"),
)
COSTS = (
    ("rank_correlation", "Rank correlation of the cost with steps to go"),
    ("rank_correlation_distance", "Rank correlation of the cost with true distance"),
)
STARTS = {
    "nothing": "at the goal already",
    "straight": "from which moving straight reaches the goal",
    "hard": "from which moving straight does not",
}
Row = tuple[str, str, str, str]
"""A measure, this run's number, the rival's, and what the rival is."""


def numbers_table(run: RunFiles) -> str:
    """Return the table as HTML, empty if nothing was measured: measures of one rival stand below its name."""
    rows = [*_prediction(run), *_probe(run), *_classes(run), *_spectrum(run), *_planning(run)]
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{text}</th>' for text in ("Measure", "This run", "Trivial rival"))
    groups = ""
    for note, alike in itertools.groupby(rows, key=lambda row: row[3]):
        cells = "".join(
            f'<tr><th scope="row">{name}</th><td>{ours}</td><td>{rival}</td></tr>' for name, ours, rival, _ in alike
        )
        said = f"N{note[1:]}" if note.startswith("no rival") else f"Rival: {note}"
        groups += f'<tbody><tr><th scope="rowgroup" colspan="3">{html.escape(said)}</th></tr>{cells}</tbody>'
    return f"<table><thead><tr>{head}</tr></thead>{groups}</table>"


def rate_of(run: RunFiles, *keys: str) -> str:
    """Return a rate with its interval as text: nested keys, the last two those of rate and interval."""
    *part, value, interval = keys
    return rate(run.value(*part, value), run.interval(*part, interval))


def _prediction(run: RunFiles) -> Iterator[Row]:
    horizon = run.numbers("prediction", "horizon")
    for key, rival_key, name, note in PREDICTION:
        ours = run.numbers("prediction", key)
        rivals = run.numbers("prediction", rival_key) if rival_key else [1.0] * len(ours)
        for steps, value, rival in zip(horizon, ours, rivals, strict=False):
            yield f"{name}, {counted(steps, 'step')} ahead", number(value), number(rival), note


def _probe(run: RunFiles) -> Iterator[Row]:
    for key, name in PROBES.items():
        ours = run.value("probe", key, "r2")
        if ours is not None:
            rival = run.value("probe", key, "random_r2")
            note = "an encoder with random weights; 1 is perfect"
            yield f"State R², {name}", number(ours), number(rival), note
    pixels, ours = run.value("probe", "linear_pixels", "r2"), run.value("probe", "linear_flattened", "r2")
    if pixels is not None:
        yield "State R², linear, beside pixels", number(ours), number(pixels), "a linear probe of small pixels"


def _classes(run: RunFiles) -> Iterator[Row]:
    if run.value("class_probe", "accuracy") is None:
        return
    ours = rate_of(run, "class_probe", "accuracy", "ci95")
    fresh = rate_of(run, "class_probe", "random_accuracy", "random_ci95")
    largest = percent(run.value("class_probe", "largest_class"))
    name = "Class told by a linear probe (95% interval)"
    yield name, ours, fresh, "an encoder with random weights; higher is better"
    yield name, ours, largest, "naming the largest class every time"


def _spectrum(run: RunFiles) -> Iterator[Row]:
    for key, name, rival, note in SPECTRUM:
        value = run.value("spectrum", key)
        if value is not None:
            yield name, number(value), number(rival), note


def _planning(run: RunFiles) -> Iterator[Row]:
    for key, name in COSTS:
        value = run.value("cost", key)
        if value is not None:
            yield name, number(value), number(0.0), "a cost that knows nothing; 1 is a perfect order"
    if run.value("planning", "success_rate") is not None:
        ours = rate_of(run, "planning", "success_rate", "ci95")
        rival = rate_of(run, "planning", "random_success_rate", "random_ci95")
        count, protocol = run.value("planning", "episodes"), run.entry("planning", "protocol")
        by = f", {html.escape(protocol)} protocol" if isinstance(protocol, str) else ""
        name = f"Success in closed loop{by} (95% interval)"
        yield name, ours, rival, f"a random policy on the same {counted(count, 'start')}; higher is better"
        if run.value("planning", "straight_success_rate") is not None:
            straight = rate_of(run, "planning", "straight_success_rate", "straight_ci95")
            yield name, ours, straight, "moving straight to the goal, seeing the true state, without a plan"
    for kind, words in STARTS.items():
        part = ("planning", "by_start", kind)
        if count := run.value(*part, "count"):
            ours = rate_of(run, *part, "success_rate", "ci95")
            rival = rate_of(run, *part, "random_success_rate", "random_ci95")
            note = (
                "a random policy on the same starts; moving straight reaches the goal from all but those of the "
                "last kind, so the others flatter every policy"
            )
            yield f"Success of {counted(count, 'start')} {words}", ours, rival, note
    at_start = run.value("planning", "solved_at_start")
    if at_start is not None and not run.entry("planning", "by_start"):
        yield "Episodes solved before the first action", percent(at_start), "–", "no rival; these flatter every policy"
    seconds = run.value("planning", "seconds_per_plan")
    if seconds is not None:
        yield "Seconds for a plan", number(seconds), "–", "no rival; lower is better"
