"""One self-contained `check.html` of a store: what was found, and the samples and distributions behind it.

The page loads nothing from elsewhere and runs no script. Names and texts of the store are untrusted and escaped.
"""

import html
from pathlib import Path
from types import ModuleType

import numpy as np

from lewm.data.check.findings import SEVERITIES, Finding
from lewm.data.check.store_check import CheckResult
from lewm.data.lag import LAGS, LagCurve
from lewm.data.store import Store
from lewm.files import write_text
from lewm.report.page import figure, image, missing, render

MOST_HISTOGRAMS = 24
MOST_PLACES = 8  # of a finding, in the table
MOST_PIXELS = 128  # of a picture's side
BINS = 30
STYLE = """
.tone-error { --tone: var(--error); } .tone-warning { --tone: var(--series-2); } .tone-note { --tone: var(--quiet); }
.badge { color: var(--tone); border: 1px solid; border-radius: .75rem; padding: 0 .6rem; font-size: .85rem; }
.finding { padding: 1rem 1.25rem; border-radius: .5rem; background: var(--raised);
  border-left: .3rem solid var(--tone); }
.finding h3 { margin: 0 0 .5rem; font-size: 1rem; } .finding p { margin: 0 0 .4rem; overflow-wrap: anywhere; }
.finding img { height: 5rem; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .75rem; }
.samples img { height: auto; width: 100%; }
.narrow { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: 1.25rem; }
#lengths figure { max-width: 22rem; } #coverage figure { max-width: 30rem; }
"""


def write_check_report(store: Store, result: CheckResult, path: Path) -> Path:
    """Write the page of a checked store.

    Args:
        store: The data.
        result: What `check_store` found in it.
        path: File to write.

    Returns:
        The path.

    Raises:
        ValueError: If the packages that draw the figures are not installed.
        OSError: If the file cannot be written; an earlier one is kept.
    """
    try:
        from lewm.report import check_figures, figures  # matplotlib is not installed everywhere
    except ModuleNotFoundError as error:
        raise ValueError(f"check: {error.name} is not installed; pip install 'lewm[report]'") from error
    sections = (
        ("findings", "What was found", _findings(store, result, figures)),
        ("samples", "Samples", _samples(store, result, figures)),
        ("time", "Actions against frames in time", _lag(result, check_figures)),
        ("actions", "Actions", _actions(store, result, check_figures)),
        ("lengths", "Episodes", _lengths(store, result, check_figures)),
        ("coverage", "Coverage", _coverage(result, figures)),
    )
    page = render(f"{store.meta.task}: data check", _head(store, result), sections, style=STYLE)
    write_text(path, page)
    return path


def _head(store: Store, result: CheckResult) -> str:
    meta = store.meta
    kind = {"continuous": f"{meta.action_size} numbers", "discrete": f"one of {meta.action_size}", "none": "none"}
    facts = {
        "store": store.path.absolute(),
        "task": meta.task,
        "source": meta.source or "–",
        "episodes": f"{result.num_episodes:,}",
        "frames": f"{result.num_frames:,} of {meta.image_size} x {meta.image_size} px",
        "actions": kind[meta.action_kind],
        "looked at": f"{result.frames_read:,} frames of {result.episodes_read:,} episodes",
    }
    if result.control_evidence:
        facts["actions command"] = f"{result.control_mode}: {result.control_evidence}"
    if meta.action_names:
        facts["entries of an action"] = ", ".join(meta.action_names)
    if meta.state_names:
        facts["states"] = ", ".join(meta.state_names)
    facts["frames a second"] = "not known" if meta.fps is None else f"{meta.fps:g}"
    listed = "".join(f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in facts.items())
    counts = [f"{result.count(name)} {name}{'' if result.count(name) == 1 else 's'}" for name in SEVERITIES]
    if result.count("error"):
        verdict, kind = "The data has errors: mend it before training.", "bad"
    elif result.count("warning"):
        verdict, kind = "The data can be trained on, but see the warnings first.", "bad"
    else:
        verdict, kind = "The data looks fit for training.", "good"
    banner = f'<p class="verdict {kind}">{verdict} {", ".join(counts)}.</p>'
    return f"<header><h1>Data check</h1><dl>{listed}</dl>{banner}</header>"


def _still(store: Store, frame: int, alt: str, figures: ModuleType) -> str:
    step = -(-store.meta.image_size // MOST_PIXELS)
    return image(figures.still(np.ascontiguousarray(store.frames[frame][::step, ::step])), alt)


def _findings(store: Store, result: CheckResult, figures: ModuleType) -> str:
    if not result.findings:
        return "<p>Nothing.</p>"
    return f'<div class="cards">{"".join(_finding(store, finding, figures) for finding in result.findings)}</div>'


def _finding(store: Store, finding: Finding, figures: ModuleType) -> str:
    """Show one finding: what, what to do, where, and its first place as a picture."""
    where = f'<p class="note">Where: {_places(finding)}</p>' if finding.where else ""
    pictures = _around(store, finding, figures)
    return (
        f'<article class="finding tone-{finding.severity}"><h3><span class="badge">{finding.severity}</span> '
        f"{html.escape(finding.name)}</h3><p>{html.escape(finding.message)}</p>"
        f"<p>What to do: {html.escape(finding.remedy)}</p>{where}"
        + (f'<div class="row">{pictures}</div>' if pictures else "")
        + "</article>"
    )


def _places(finding: Finding) -> str:
    lines = []
    for span in finding.where[:MOST_PLACES]:
        last = span.stop - 1
        if last < span.first:
            frames = f"before frame {span.first}"
        else:
            frames = f"frame {span.first}" if last == span.first else f"frames {span.first}–{last}"
        lines.append(f"episode {span.episode}, {frames}")
    more = len(finding.where) - len(lines)
    return "; ".join(lines) + (f"; and {more:,} more" if more > 0 else "")


def _around(store: Store, finding: Finding, figures: ModuleType) -> str:
    """Show the frame before the first place of a finding, and its first frame."""
    if not finding.where:
        return ""
    span = finding.where[0]
    frames = [frame for frame in (span.first - 1, span.first) if frame >= 0]
    start = int(store.episodes.start[span.episode])
    words = f"episode {span.episode}, frame"
    return "".join(
        figure(_still(store, start + frame, f"{finding.name}, {words} {frame}", figures), f"{words} {frame}")
        for frame in frames
    )


def _samples(store: Store, result: CheckResult, figures: ModuleType) -> str:
    cards = []
    for frame in result.examples.tolist():
        episode = int(np.searchsorted(store.episodes.start, frame, side="right")) - 1
        words = f"episode {episode}, frame {frame - int(store.episodes.start[episode])}"
        cards.append(figure(_still(store, frame, words, figures), words))
    return f'<p>Frames at random, as they are stored.</p><div class="samples">{"".join(cards)}</div>'


def _lag(result: CheckResult, check_figures: ModuleType) -> str:
    lag = result.lag
    if result.actions is None:
        return missing("There are no actions.")
    if lag is None:
        return missing("There is too little to tell: episodes are short, or frames or actions never change.")
    picture = check_figures.lag_curves(
        LAGS,
        [("action alone", lag.alone), ("beside what is known", lag.beside)],
        lag.chance,
        lag.lag if lag.related else None,
        name="lag-curve",
        description=f"R² of the change in the {lag.by} from row to row over the lag of the actions: {_told(lag)}",
    )
    return figure(
        picture,
        f"How well the action of an earlier or later row predicts what changes in the {lag.by} from row to row, "
        "on episodes that the regression was not fitted on: by itself (a target: with where the robot is), and what it "
        "adds to what is known before, the place and the last changes. The peak belongs at 0. By itself, it may be at "
        "earlier rows for a robot that answers late; beside what is known, at later rows for smooth actions, or for a "
        "policy that follows what it sees. A lag is only called one where that cannot be the cause.",
    )


def _told(lag: LagCurve) -> str:
    """Put the curves in words."""
    pairs = zip(LAGS.tolist(), lag.alone.tolist(), lag.beside.tolist(), strict=True)
    return "; ".join(f"{k}: {alone:.2f} alone, {beside:.2f} beside" for k, alone, beside in pairs)


def _actions(store: Store, result: CheckResult, check_figures: ModuleType) -> str:
    numbers = result.actions
    if numbers is None:
        return missing("There are no actions.")
    if store.meta.action_kind == "discrete":
        counts, size = numbers.counts[0], numbers.counts.shape[1]
        said = ", ".join(f"{k}: {count:,}" for k, count in enumerate(counts[:MOST_HISTOGRAMS].tolist()))
        picture = check_figures.histogram(
            counts, -0.5, size - 0.5, name="action0", description=f"How often each action is taken: {said}",
            label="action", what="frames",
        )  # fmt: skip
        return figure(picture, "How often each action is taken.")
    drawn = []
    for k in range(min(len(numbers.names), MOST_HISTOGRAMS)):
        low, high, mean, std = (float(part[k]) for part in (numbers.low, numbers.high, numbers.mean, numbers.std))
        text = (
            f"{numbers.names[k]}: {low:.3g} to {high:.3g}, mean {mean:.3g}, standard deviation {std:.3g}; "
            f"{numbers.at_low[k]:.0%} at the smallest value, {numbers.at_high[k]:.0%} at the largest"
        )
        picture = check_figures.histogram(
            numbers.counts[k], low, high, name=f"action{k}", description=text, label="value", what="frames"
        )
        drawn.append(figure(picture, text))
    more = len(numbers.names) - len(drawn)
    note = f'<p class="note">{more} more entries are not drawn.</p>' if more else ""
    return f'<div class="narrow">{"".join(drawn)}</div>{note}'


def _lengths(store: Store, result: CheckResult, check_figures: ModuleType) -> str:
    lengths = result.lengths
    low, high = int(lengths.min()), int(lengths.max())
    middle = int(np.median(lengths))
    frames = f"{low:,} frames each" if low == high else f"{low:,} to {high:,} frames, {middle:,} in the middle"
    text = f"{len(lengths):,} episodes of {frames}."
    if store.meta.action_kind != "none":
        text += f" A training clip spans {result.clip_span:,} frames."
    tasks = {task for task in store.episodes.text if task}
    if tasks:
        text += f" They have {len(tasks):,} different task texts."
    if low == high:
        return f"<p>{text}</p>"
    counts, _ = np.histogram(lengths, min(BINS, high - low + 1), range=(low - 0.5, high + 0.5))
    picture = check_figures.histogram(
        counts, low - 0.5, high + 0.5, name="lengths-bars", description=text, label="frames", what="episodes"
    )
    return figure(picture, text)


def _coverage(result: CheckResult, figures: ModuleType) -> str:
    coverage = result.coverage
    count = len(coverage.points)
    picture = figures.scatter(
        coverage.points,
        coverage.place,
        name="coverage-points",
        description=f"{count} frames on two principal components, coloured by how far through the episode they are",
    )
    text = (
        f"{count:,} frames on the two largest principal components of their 16 x 16 thumbnails, coloured by how far "
        f"through its episode each is, from 0 to 1. They lie in {coverage.visited:.0%} of 16 x 16 cells."
    )
    if coverage.compared:
        text += f" Of {coverage.compared:,} episodes compared, {coverage.distinct:,} are distinct."
    return figure(picture, text)
