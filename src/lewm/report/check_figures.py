"""Figures of the data check, in the style of the report's."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lewm.report.figures import INK, SERIES, WIDE, draw_svg, legend_above


def histogram(
    counts: NDArray[np.int64], low: float, high: float, *, name: str, description: str, label: str, what: str
) -> str:
    """Draw how often values fall in equal parts of low to high.

    Args:
        counts: (n,) how often.
        low: Where the first part begins.
        high: Where the last one ends.
        name: Identifier of the figure in the page.
        description: What a reader who cannot see the figure is told.
        label: What the values are.
        what: What is counted.
    """

    def draw(axes: Axes) -> None:
        edges = np.linspace(low, high, len(counts) + 1) if high > low else np.linspace(-0.5, 0.5, len(counts) + 1) + low
        axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=SERIES[0])
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel(label)
        axes.set_ylabel(what)

    return draw_svg(draw, name=name, description=description, size=(3.4, 2.2))


def lag_curves(
    lags: NDArray[np.int64],
    series: Sequence[tuple[str, NDArray[np.float64]]],
    chance: float,
    best: int | None,
    *,
    name: str,
    description: str,
) -> str:
    """Draw R² over lags: a label and the values of each curve, what chance reaches, and the best lag, if any."""

    def draw(axes: Axes) -> None:
        for colour, (label, values) in zip(SERIES, series, strict=False):
            axes.plot(lags, np.maximum(values, 0.0), color=colour, marker="o", markersize=3.5, label=label)
        axes.axhline(chance, color=INK, linewidth=0.8, linestyle=":", label="chance")
        if best is not None:
            axes.axvline(best, color=INK, linewidth=0.8, linestyle="--", label="estimated lag")
        axes.set_xticks(lags)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("lag in frames: of earlier rows to the left, of later rows to the right")
        axes.set_ylabel("R² of the change")
        legend_above(axes)

    return draw_svg(draw, name=name, description=description, size=(WIDE, 2.9))
