"""Figures of studies that have a curve, drawn from results: a panel a task."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lewm.ablate.results import Line, read
from lewm.ablate.table import Job, Study, Table
from lewm.ablate.tables import Measured, ahead, mean, measured, pooled
from lewm.config import flat
from lewm.evaluate.closed_loop import wilson_interval
from lewm.files import atomic_path

WIDTH, HEIGHT, DPI = 4.2, 2.8, 130
COLUMNS, ROW = 2, 0.16  # of the legend: columns a plot is wide, and the height of a row
CROWDED = 0.06  # ticks nearer than this share of the axis are not labelled
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
            handles, labels = figure.axes[0].get_legend_handles_labels()
            columns = COLUMNS * len(tasks)
            figure.set_figheight(HEIGHT + ROW * math.ceil(len(labels) / columns))
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=7.5)
            with atomic_path(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=DPI)
        paths.append(folder / f"{name}.png")
    return paths


def _draw(axes: Axes, study: Study, variants: Measured, jobs: Sequence[Job]) -> None:
    assert study.curve is not None
    colours = mpl.color_sequences["tab20" if len(variants) > 10 else "tab10"]
    if study.curve == "prediction.horizon":
        for k, (name, lines) in enumerate(variants.items()):
            if not any(map(_horizon, lines)):  # a policy predicts nothing
                continue
            steps = sorted({step for line in lines for step in _horizon(line)})
            means = [mean(ahead(line, "error_ratio", step) for line in lines) for step in steps]
            errors = [math.nan if error is None else error for error in means]
            axes.plot(steps, errors, "o-", markersize=3, color=colours[k % len(colours)], label=name)
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":", label="copy or mean")
        axes.set(xlabel="model steps ahead", ylabel="error over the trivial rival's", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        _plain_numbers(axes.yaxis)
    elif study.curve == "step":
        for k, (name, lines) in enumerate(variants.items()):
            for number, line in enumerate(lines):  # one line a seed, labelled once
                curve = line["train"].get("curve", {})
                label = name if number == 0 else None
                axes.plot(
                    curve.get("step", []), curve.get("effective_rank", []), color=colours[k % len(colours)], label=label
                )
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":", label="collapse")
        axes.set(xlabel="training step", ylabel="effective rank")
    else:
        _draw_success(axes, study.curve, variants, jobs)


def _draw_success(axes: Axes, curve: str, variants: Measured, jobs: Sequence[Job]) -> None:
    """Draw success over a setting, or over the product of several, with a line for each value of all but the first."""
    names, colours = curve.split(" x "), mpl.color_sequences["tab10"]
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
    for k, (rest, group) in enumerate(sorted(points.items())):
        group.sort()
        rates = [reached / count for _, reached, count in group]
        ends = [wilson_interval(reached, count) for _, reached, count in group]
        bars = [
            [max(0.0, rate - low) for rate, (low, _) in zip(rates, ends, strict=True)],  # rounding may cross 0
            [max(0.0, high - rate) for rate, (_, high) in zip(rates, ends, strict=True)],
        ]
        label = ", ".join(f"{name} {number:g}" for name, number in zip(names[1:], rest, strict=True)) or "model"
        axes.errorbar(
            [x for x, _, _ in group], rates, bars, fmt="o-", markersize=3.5, capsize=2, label=label,
            color=colours[k % len(colours)],
        )  # fmt: skip
    if chance:
        share = sum(reached for reached, _ in chance) / sum(count for _, count in chance)
        axes.axhline(share, color="grey", linewidth=0.8, linestyle=":", label="random policy")
    at = sorted({x for group in points.values() for x, _, _ in group})
    axes.set(xlabel=curve, ylabel="success", ylim=(-0.02, 1.02), xscale="log" if at and at[0] > 0 else "linear")
    axes.set_xticks(_apart(at))
    _plain_numbers(axes.xaxis)


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
