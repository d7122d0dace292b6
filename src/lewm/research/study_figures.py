"""Figures of studies that have a curve, drawn from results: a panel a task."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lewm.config import flat
from lewm.evaluate.closed_loop import wilson_interval
from lewm.files import atomic_path
from lewm.research.results import Line, read
from lewm.research.study_tables import Measured, ahead, mean, measured, pooled
from lewm.research.table import Job, Study, Table

WIDTH, HEIGHT, DPI = 4.2, 2.8, 130
COLUMNS, ROW = 2, 0.16  # of the legend: columns a plot is wide, and the height of a row
CROWDED = 0.06  # ticks nearer than this share of the axis are not labelled
ASIDE = 0.012  # share of the axis between points of two lines over the same value
SQUEEZED = 0.3  # success is drawn without the random policy's line where that would leave it less of the axis
MARKERS, LINES = "os^DvPX", ("-", "--", "-.")  # dotted lines are the trivial rivals'
_STYLE = {
    "font.size": 9.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,
}


def write_figures(folder: Path, table: Table, jobs: Sequence[Job], results: Path) -> list[Path]:
    """Draw every study of some jobs that has a curve and results, as `NAME.png`.

    Raises:
        ValueError: If none of the studies has a curve.
        OSError: If a file cannot be written.
    """
    known = measured(jobs, read(results))
    drawn = {name: table.studies[name] for name in known if table.studies[name].curve is not None}
    if not drawn:
        raise ValueError(f"figures={folder}: none of {', '.join(known)} has a curve; give a study its `curve`")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, study in drawn.items():
        tasks = {task: variants for task, variants in known[name].items() if any(variants.values())}
        if not tasks:
            continue
        with mpl.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
            figure = Figure(figsize=(WIDTH * len(tasks), HEIGHT), layout="constrained")
            for k, (task, variants) in enumerate(tasks.items()):
                axes = figure.add_subplot(1, len(tasks), k + 1)
                axes.set_title(task, fontsize=9)
                _draw(axes, study, variants, [job for job in jobs if (job.study, job.task) == (name, task)])
            legend = _legend(figure, list(study.variants))
            columns = COLUMNS * len(tasks)
            figure.set_figheight(HEIGHT + ROW * math.ceil(len(legend) / columns))
            figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=columns, fontsize=7.5)
            with atomic_path(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=DPI)
        paths.append(folder / f"{name}.png")
    return paths


def _legend(figure: Figure, variants: list[str]) -> dict[str, Any]:
    """Return the labels of all panels with a handle each, each once: variants in the table's order, then the others."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = {name: k for k, name in enumerate(variants)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _style(k: int, count: int) -> dict[str, Any]:
    """Return how the k-th line of several is drawn: lines at the same place can be told apart, later ones are finer."""
    colours = mpl.color_sequences["tab20" if count > 10 else "tab10"]
    return {
        "color": colours[k % len(colours)],
        "linestyle": LINES[k % len(LINES)],
        "linewidth": 2.2 - 1.4 * k / count,
        "marker": MARKERS[k % len(MARKERS)],
        "markersize": 4,
        "markerfacecolor": "none",
    }


def _draw(axes: Axes, study: Study, variants: Measured, jobs: Sequence[Job]) -> None:
    assert study.curve is not None
    styles = {name: _style(k, len(variants)) for k, name in enumerate(variants)}
    if study.curve == "prediction.horizon":
        for name, lines in variants.items():
            steps = sorted({step for line in lines for step in _horizon(line)})
            means = [mean(ahead(line, "error_ratio", step) for line in lines) for step in steps]
            errors = [math.nan if error is None else error for error in means]
            if not all(map(math.isnan, errors)):  # a policy predicts nothing
                axes.plot(steps, errors, **styles[name], label=name)
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":", label="copy or mean")
        axes.set(xlabel="model steps ahead", ylabel="error over the trivial rival's", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        _plain_numbers(axes.yaxis)
    elif study.curve == "step":
        for name, lines in variants.items():
            for line in lines:  # one line a seed
                curve = line["train"].get("curve", {})
                if steps := curve.get("step"):
                    axes.plot(steps, curve["effective_rank"], **dict(styles[name], marker=""), label=name)
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":", label="collapse")
        axes.set(xlabel="training step", ylabel="effective rank", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        _plain_numbers(axes.yaxis)
    else:
        _draw_success(axes, study.curve, variants, jobs)


def _draw_success(axes: Axes, curve: str, variants: Measured, jobs: Sequence[Job]) -> None:
    """Draw success over a setting, or over the product of several, with a line for each value of all but the first."""
    names = curve.split(" x ")
    points: dict[tuple[float, ...], list[tuple[float, int, int]]] = {}
    chance: list[tuple[int, int]] = []
    for variant, lines in variants.items():
        found = pooled(lines, ("eval", "planning", "success_rate"), ("eval", "planning", "episodes"))
        random = pooled(lines, ("eval", "planning", "random_success_rate"), ("eval", "planning", "episodes"))
        if found is None or random is None:
            continue
        settings = _settings(next(job for job in jobs if job.variant == variant))
        values = [settings[name] for name in names]
        points.setdefault(tuple(values[1:]), []).append((math.prod(values), *found))
        chance.append(random)
    at = sorted({x for group in points.values() for x, _, _ in group})
    scale = "log" if at and at[0] > 0 else "linear"
    lowest = 1.0
    for k, (rest, group) in enumerate(sorted(points.items())):
        group.sort()
        rates = [reached / count for _, reached, count in group]
        ends = [wilson_interval(reached, count) for _, reached, count in group]
        lowest = min(lowest, *(low for low, _ in ends))
        bars = [
            [max(0.0, rate - low) for rate, (low, _) in zip(rates, ends, strict=True)],  # rounding may cross 0
            [max(0.0, high - rate) for rate, (_, high) in zip(rates, ends, strict=True)],
        ]
        label = ", ".join(f"{name} {number:g}" for name, number in zip(names[1:], rest, strict=True)) or "model"
        places = _beside([x for x, _, _ in group], at, k - (len(points) - 1) / 2)
        axes.errorbar(places, rates, bars, **_style(k, len(points)), elinewidth=1, capsize=2, label=label)
    if chance:
        share = sum(reached for reached, _ in chance) / sum(count for _, count in chance)
        if 1 - lowest >= SQUEEZED * (1 - share):
            lowest = min(lowest, share)
            axes.axhline(share, color="grey", linewidth=0.8, linestyle=":", label="random policy")
        else:
            told = f"random policy below, at {share:.0%}"
            axes.annotate(told, (0.99, 0.02), xycoords="axes fraction", ha="right", color="grey", fontsize=7.5)
    bottom = max(-0.02, lowest - 0.1 * (1.02 - lowest))
    axes.set(xlabel=curve, ylabel="success", ylim=(bottom, 1.02), xscale=scale)
    axes.set_yticks([rate for rate in axes.get_yticks() if max(0, bottom) <= rate < 1.001])
    axes.set_xticks(_apart(at))
    _plain_numbers(axes.xaxis)


def _beside(values: Sequence[float], at: Sequence[float], turn: float) -> list[float]:
    """Return values moved by some turns of `ASIDE`, on the scale that an axis with ascending ticks has."""
    if at[0] > 0:
        return [value * (at[-1] / at[0]) ** (turn * ASIDE) for value in values]
    return [value + (at[-1] - at[0]) * turn * ASIDE for value in values]


def _apart(values: Sequence[float]) -> list[float]:
    """Return those of ascending values that can be labelled side by side, on the scale that the axis has."""
    if not values:
        return []
    place = [math.log(value) if values[0] > 0 else value for value in values]
    kept = [0]
    for k in range(1, len(values)):
        if place[k] - place[kept[-1]] >= CROWDED * (place[-1] - place[0]):
            kept.append(k)
    return [values[k] for k in kept]


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis without formulas, which a variant's name might otherwise be taken for."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _settings(job: Job) -> dict[str, float]:
    return flat({name: part for name, part in dataclasses.asdict(job.config).items() if isinstance(part, dict)})


def _horizon(line: Line) -> list[int]:
    return ((line.get("eval") or {}).get("prediction") or {}).get("horizon", [])
