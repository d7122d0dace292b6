"""Results as Markdown: for each task of a study one table with a row a variant, seeds summed up."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lewm.evaluate.closed_loop import newcombe_interval, wilson_interval
from lewm.files import write_text
from lewm.research.results import Line, by_label, read
from lewm.research.table import Job

NOTHING = "–"
FEWEST = 5  # episodes that a rate without its interval is shown for
SUCCESS = "success (95%, episodes)"
MANY = 3  # rows from which on what is the same in all of them is said once, below

Measured = dict[str, list[Line]]
"""The lines of each variant, one a seed; none where nothing was measured."""


def write_tables(page: Path, jobs: Sequence[Job], results: Path) -> None:
    """Write the tables of studies into a page, between their markers.

    Raises:
        ValueError: If the page is missing, or has the markers of none of the studies.
    """
    if not page.is_file():
        raise ValueError(f"tables={page}: no such file; give a page with <!-- study NAME --> and <!-- /study NAME -->")
    text = page.read_text(encoding="utf-8")
    studies = list({job.study: None for job in jobs})
    if not any(_place(study).search(text) for study in studies):
        raise ValueError(
            f"tables={page}: has no place for {', '.join(studies)}; write <!-- study {studies[0]} --> and "
            f"<!-- /study {studies[0]} --> where the tables belong"
        )
    write_text(page, filled(text, jobs, read(results)))


def filled(page: str, jobs: Sequence[Job], lines: Iterable[Line]) -> str:
    """Return a page with the tables between its markers written anew; a study without results stays as it is."""
    for study, by_task in measured(jobs, lines).items():
        tables = [f"**{task}**\n\n{table}" for task, variants in by_task.items() if (table := _table(variants))]
        if tables:
            text = "\n\n".join(tables)
            page = _place(study).sub(lambda found, text=text: f"{found[1]}\n{text}\n{found[2]}", page)
    return page


def measured(jobs: Sequence[Job], lines: Iterable[Line]) -> dict[str, dict[str, Measured]]:
    """Return what is known of jobs, by study, task and variant in the table's order; other lines are left out."""
    there = by_label(lines)
    found: dict[str, dict[str, Measured]] = {}
    for job in jobs:
        known = found.setdefault(job.study, {}).setdefault(job.task, {}).setdefault(job.variant, [])
        if job.label in there:
            known.append(there[job.label])
    return found


def pooled(lines: Sequence[Line], rate: Sequence[str], count: Sequence[str]) -> tuple[int, int] | None:
    """Return successes and episodes of all seeds together, from the paths of a rate and of its count."""
    pairs = [(value(line, *rate), value(line, *count)) for line in lines]
    known = [(share, int(number)) for share, number in pairs if share is not None and number]
    if not known:
        return None
    return sum(round(share * number) for share, number in known), sum(number for _, number in known)


def value(line: Line, *path: str) -> float | None:
    """Return a number of a line under nested keys; None if it is not there."""
    part: Any = line
    for key in path:
        part = part.get(key) if isinstance(part, Mapping) else None
    return float(part) if isinstance(part, int | float) else None


def ahead(line: Line, name: str, steps: int) -> float | None:
    """Return a number of an evaluation's prediction at some model steps ahead; None if it is not there."""
    prediction = (line.get("eval") or {}).get("prediction") or {}
    horizon, values = prediction.get("horizon", []), prediction.get(name) or []
    return dict(zip(horizon, values, strict=False)).get(steps)


def mean(numbers: Iterable[float | None]) -> float | None:
    """Return the mean of those that are known."""
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else None


def _place(study: str) -> re.Pattern[str]:
    name = re.escape(study)
    return re.compile(rf"(<!-- study {name} -->).*?(<!-- /study {name} -->)", re.DOTALL)


def _table(variants: Measured) -> str:
    """Return a table; columns that nothing is known of are left out, and those of many equal cells said below it."""
    rows = {variant: lines for variant, lines in variants.items() if lines}
    if not rows:
        return ""
    columns = [(head, [cell(lines) for lines in rows.values()]) for head, cell in _COLUMNS]
    first, *others = rows.values()
    columns.insert(
        [head for head, _ in columns].index(SUCCESS) + 1,
        ("less the first row's, points (95%)", [NOTHING, *(_difference(lines, first) for lines in others)]),
    )
    columns = [(head, cells) for head, cells in columns if set(cells) != {NOTHING}]
    same = [(head, cells[0]) for head, cells in columns if len(rows) >= MANY and len(set(cells)) == 1]
    columns = [(head, cells) for head, cells in columns if (head, cells[0]) not in same]
    table = [["variant", *(head for head, _ in columns)], ["---"] * (1 + len(columns))]
    table += [[name, *cells] for name, *cells in zip(rows, *(cells for _, cells in columns), strict=True)]
    text = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return text + (f"\n\nThe same in every row: {'; '.join(map(': '.join, same))}." if same else "")


def _format(number: float | None, form: str) -> str:
    return NOTHING if number is None else format(number, form)


def _mean(form: str, *path: str) -> Callable[[list[Line]], str]:
    return lambda lines: _format(mean(value(line, *path) for line in lines), form)


def _seeds(lines: list[Line]) -> str:
    diverged = sum("error" in line for line in lines)
    return f"{len(lines)} ({diverged} diverged)" if diverged else str(len(lines))


def _ahead(name: str, rival: str | None, *steps: int) -> Callable[[list[Line]], str]:
    """Return a cell with a mean at several horizons, each with its trivial rival's if it has one."""

    def cell(lines: list[Line]) -> str:
        cells = []
        for step in steps:
            text = _format(mean(ahead(line, name, step) for line in lines), ".2f")
            if rival is not None and text != NOTHING:
                text += f" ({_format(mean(ahead(line, rival, step) for line in lines), '.2f')})"
            cells.append(text)
        return NOTHING if set(cells) == {NOTHING} else ", ".join(cells)

    return cell


def _probe(lines: list[Line]) -> str:
    ours = _mean(".3f", "eval", "probe", "r2")(lines)
    return ours if ours == NOTHING else f"{ours} ({_mean('.3f', 'eval', 'probe', 'random_r2')(lines)})"


def _rate(rate: Sequence[str], count: Sequence[str]) -> Callable[[list[Line]], str]:
    """Return a cell with a rate over the episodes of all seeds, its 95% interval, and their number."""

    def cell(lines: list[Line]) -> str:
        found = pooled(lines, rate, count)
        if found is None:
            return NOTHING
        low, high = wilson_interval(*found)
        return f"{found[0] / found[1]:.0%} ({100 * low:.0f}-{100 * high:.0f}, {found[1]})"

    return cell


def _difference(lines: list[Line], first: list[Line]) -> str:
    """Return a cell with the difference of two rows' success over the seeds that both have, with its interval."""
    planned = [{line["seed"]: line for line in row if value(line, *_SUCCESS) is not None} for row in (lines, first)]
    seeds = planned[0].keys() & planned[1].keys()
    ours, others = (pooled([row[seed] for seed in sorted(seeds)], _SUCCESS, _EPISODES) for row in planned)
    if ours is None or others is None:
        return NOTHING
    low, high = newcombe_interval(*ours, *others)
    return f"{100 * (ours[0] / ours[1] - others[0] / others[1]):+z.0f} ({100 * low:+z.0f} to {100 * high:+z.0f})"


def _split(lines: list[Line]) -> str:
    parts = [
        pooled(lines, ("eval", "cost", f"{name}_success"), ("eval", "cost", "split_episodes"))
        for name in ("planner_alone", "cost_alone", "model")
    ]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or known[0][1] < FEWEST:
        return NOTHING
    return f"{', '.join(f'{reached / count:.0%}' for reached, count in known)} ({known[0][1]})"


def _protocol(lines: list[Line]) -> str:
    """Return a cell with the protocols of success; before there were several, it was the standard one."""
    plans = [(line.get("eval") or {}).get("planning") or {} for line in lines]
    return ", ".join(dict.fromkeys(plan.get("protocol", "standard") for plan in plans)) or NOTHING


_SUCCESS = ("eval", "planning", "success_rate")
_EPISODES = ("eval", "planning", "episodes")
_HARD = ("eval", "planning", "by_start", "hard")
_COLUMNS: tuple[tuple[str, Callable[[list[Line]], str]], ...] = (
    ("seeds", _seeds),
    ("error ratio, 1 and 8 ahead", _ahead("error_ratio", None, 1, 8)),
    ("centred cosine, 1, 4, 8 ahead (copying)", _ahead("centred_cosine", "copy_centred_cosine", 1, 4, 8)),
    ("effective rank", _mean(".1f", "eval", "spectrum", "effective_rank")),
    ("condition number", _mean(".3g", "eval", "spectrum", "condition_number")),
    ("content share", _mean(".2f", "eval", "spectrum", "content_share")),
    ("probe R² (random encoder)", _probe),
    ("cost and distance", _mean(".2f", "eval", "cost", "rank_correlation_distance")),
    ("protocol", _protocol),
    (SUCCESS, _rate(_SUCCESS, _EPISODES)),
    ("hard starts (95%, episodes)", _rate((*_HARD, "success_rate"), (*_HARD, "count"))),
    ("random policy (95%, episodes)", _rate(("eval", "planning", "random_success_rate"), _EPISODES)),
    ("moving straight (95%, episodes)", _rate(("eval", "planning", "straight_success_rate"), _EPISODES)),
    ("planner alone, cost alone, model (episodes)", _split),
    ("parameters", _mean(",.0f", "parameters")),
    ("ms a step", _mean(".0f", "train", "step_ms")),
)
