"""Pictures for the report: curves as inline SVG that follows the page's colours, frames as PNG and animated WebP.

Figures are drawn through matplotlib's object interface, inside a style of their own: no back end is chosen and no
global state is left changed. All words in a figure are this module's; names that come from data stand in the page.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

# Stand-ins that matplotlib writes into the SVG, each replaced by a colour that the page sets for light and dark.
INK, GRID = "#000101", "#000102"
SERIES = ("#000111", "#000112", "#000113", "#000114", "#000115")
_PAGE_COLOURS = {INK: "currentColor", GRID: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, start=1)
}
_STYLE: Any = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
MOST_POINTS = 300
WIDE, NARROW = 5.6, 4.4  # inches; the page shows neither much wider nor much narrower, so that words stay legible
ON_FRAME = ("#0b4fa8", "#c2410c", "#ffd43b")  # way, plans and goal on a picture of the scene
SMALLEST_SHARE = 1e-8  # of the variance, shown on a logarithmic axis


def draw_svg(draw: Callable[[Axes], None], *, name: str, description: str, size: tuple[float, float]) -> str:
    """Draw one panel and return it as inline SVG; `name` keeps its ids apart from other figures' ids."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=160, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    width, height = (round(72 * side) for side in size)
    opening = f'<svg role="img" aria-label="{html.escape(description)}" viewBox="0 0 {width} {height}">'
    return opening + text[text.index(">") + 1 :]


def _log_axis(axes: Axes, low: float, high: float) -> None:
    """Make the vertical axis logarithmic, with plain numbers, since the page shows no formulas."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_above(axes: Axes, *, columns: int = 2) -> None:
    """Put the legend above the axes, where it covers no curve."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, fontsize=8.5, borderaxespad=0.2)


def _averaged(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most `MOST_POINTS` points, each the mean of as many neighbours."""
    group = -(-len(x) // MOST_POINTS)
    edges = np.arange(0, len(x), group)
    sizes = np.diff(np.append(edges, len(x)))
    return np.add.reduceat(x, edges) / sizes, np.add.reduceat(y, edges) / sizes


def curves(
    series: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]], *, name: str, description: str, log: bool
) -> str:
    """Draw curves over the training steps.

    Args:
        series: A label, the steps and the values of each curve, at least one point each.
        name: Identifier of the figure in the page.
        description: What a reader who cannot see the figure is told.
        log: Whether the values are shown on a logarithmic axis, where they are all positive.

    Returns:
        Inline SVG.
    """

    def draw(axes: Axes) -> None:
        for colour, (label, x, y) in zip(SERIES, series, strict=False):
            axes.plot(*_averaged(x, y), color=colour, label=label, marker="o" if len(x) == 1 else None)
        low, high = min(y.min() for _, _, y in series), max(y.max() for _, _, y in series)
        if log and low > 0:
            _log_axis(axes, low, high)
        axes.set_xlabel("step")
        if len(series) > 1:
            legend_above(axes, columns=3)

    return draw_svg(draw, name=name, description=description, size=(NARROW, 2.9))


def spectrum(values: NDArray[np.float64], *, name: str, description: str) -> str:
    """Draw normalised eigenvalues (D,), largest first, beside the flat spectrum 1/D."""

    def draw(axes: Axes) -> None:
        shown = np.maximum(np.sort(values)[::-1], SMALLEST_SHARE)
        index = np.arange(1, len(shown) + 1)
        axes.plot(index, shown, color=SERIES[0], label="this run")
        axes.axhline(1 / len(shown), color=SERIES[1], linestyle="--", label="flat: every direction equal")
        _log_axis(axes, shown[-1], shown[0])
        axes.set_xlabel("direction, by its share")
        axes.set_ylabel("share of the variance")
        legend_above(axes)

    return draw_svg(draw, name=name, description=description, size=(WIDE, 2.9))


def scatter(points: NDArray[np.float64], colour: NDArray[np.float64] | None, *, name: str, description: str) -> str:
    """Draw points (M, 2) coloured by a value (M,), if there is one."""

    def draw(axes: Axes) -> None:
        axes.set_xlabel("first component")
        axes.set_ylabel("second component")
        axes.locator_params(nbins=5)
        if colour is None:
            axes.scatter(*points.T, color=SERIES[0], s=6, linewidths=0)
            return
        # The ends of viridis vanish on a dark and on a light page.
        colours = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.15, 0.9, 256)))
        drawn = axes.scatter(*points.T, c=colour, cmap=colours, s=6, linewidths=0, rasterized=True)
        figure = axes.figure
        assert isinstance(figure, Figure)
        bar = figure.colorbar(drawn, ax=axes)
        assert bar.solids is not None
        bar.solids.set_rasterized(True)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]

    return draw_svg(draw, name=name, description=description, size=(NARROW, 3.4))


def bars(rows: Sequence[tuple[str, float, tuple[float, float], bool]], *, name: str, description: str) -> str:
    """Draw success rates from 0 to 1 as bars with their intervals.

    Args:
        rows: A label, the rate, its low and high end, and whether it is a trivial rival's, which gets another colour.
        name: Identifier of the figure in the page.
        description: What a reader who cannot see the figure is told.

    Returns:
        Inline SVG.
    """

    def draw(axes: Axes) -> None:
        height = np.arange(len(rows))[::-1]
        rate = np.array([row[1] for row in rows])
        low, high = np.array([row[2] for row in rows]).T
        axes.barh(height, rate, height=0.6, color=[SERIES[1] if row[3] else SERIES[0] for row in rows], alpha=0.8)
        # An interval can leave the rate outside by rounding; an error bar may not be negative.
        spread = np.maximum([rate - low, high - rate], 0)
        axes.errorbar(rate, height, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=4)
        for y, x, value in zip(height, np.maximum(high, rate), rate, strict=True):
            axes.text(x + 0.02, y, f"{100 * value:.0f}%", va="center")
        axes.set_yticks(height, [row[0] for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.set_xlabel("episodes that reach the goal")

    return draw_svg(draw, name=name, description=description, size=(WIDE, 0.9 + 0.42 * len(rows)))


def spread(x: NDArray[np.float64], y: NDArray[np.float64], *, name: str, description: str) -> str:
    """Draw the median and the middle half of values (P,) over steps (P,), in at most a dozen groups of steps."""

    def draw(axes: Axes) -> None:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, 13)))
        group = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
        parts = [group == g for g in np.unique(group)]
        centre = [float(x[part].mean()) for part in parts]
        low, middle, high = np.array([np.quantile(y[part], (0.25, 0.5, 0.75)) for part in parts]).T
        axes.fill_between(centre, low, high, color=SERIES[0], alpha=0.2, linewidth=0, label="middle half")
        axes.plot(centre, middle, color=SERIES[0], marker="o", markersize=3, label="median")
        axes.set_xlabel("environment steps between the two frames")
        axes.set_ylabel("cost")
        legend_above(axes)

    return draw_svg(draw, name=name, description=description, size=(WIDE, 2.9))


def paths(
    way: NDArray[np.float64],
    goal: NDArray[np.float64],
    imagined: NDArray[np.float64],
    *,
    frame: NDArray[np.uint8] | None,
    name: str,
    description: str,
) -> str:
    """Draw the way of an episode, and where its plans were imagined to lead, with one scale for both directions.

    Args:
        way: (T, 2) positions, the start first: pixels of the frame, or two variables of the state without one.
        goal: (2,) position.
        imagined: (p, H, 2) positions that each plan was imagined to lead through; the first plan is drawn stronger.
        frame: (height, width, 3) picture of the scene to draw on; None draws on axes with y downwards.
        name: Identifier of the figure in the page.
        description: What a reader who cannot see the figure is told.

    Returns:
        Inline SVG.
    """
    # A frame has its own colours, whatever the page's: lines on it have fixed ones, with a white edge.
    way_colour, plan_colour, goal_colour = SERIES[:3] if frame is None else ON_FRAME
    edge: list[Any] = [] if frame is None else [withStroke(linewidth=3.2, foreground="white")]

    def draw(axes: Axes) -> None:
        for plan in imagined[1:]:
            axes.plot(*plan.T, color=plan_colour, linewidth=0.8, alpha=0.35)
        if len(imagined):
            style: Any = {"color": plan_colour, "marker": "o", "markersize": 3, "path_effects": edge}
            axes.plot(*np.vstack((way[:1], imagined[0])).T, label="first plan, imagined", **style)
        axes.plot(*way.T, color=way_colour, label="way taken", path_effects=edge)
        axes.plot(*way[0], color=way_colour, marker="o", markersize=8, linestyle="none", label="start",
                  markeredgecolor="white" if edge else way_colour)  # fmt: skip
        axes.plot(*goal, color=goal_colour, marker="*", markersize=14, linestyle="none", label="goal",
                  markeredgecolor="black" if edge else goal_colour)  # fmt: skip
        if frame is None:
            axes.set_aspect("equal", adjustable="datalim")
            axes.invert_yaxis()  # as in a picture
        else:
            height, width = frame.shape[:2]
            axes.imshow(frame, extent=(0, width, height, 0), interpolation="nearest", zorder=0)
            axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.02 if edge else -0.12), ncols=2)

    return draw_svg(draw, name=name, description=description, size=(2.9, 3.4))


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def still(frame: NDArray[np.uint8]) -> str:
    """Return a frame (height, width, 3) as the data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", optimize=True)
    return _data_uri("png", buffer.getvalue())


def animation(frames: Sequence[NDArray[np.uint8]], *, milliseconds: int) -> str:
    """Return frames (height, width, 3) as the data URI of a WebP that repeats, its last frame held for a second."""
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in frames)
    durations = [milliseconds] * len(rest) + [1000]
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, lossless=True)
    return _data_uri("webp", buffer.getvalue())
