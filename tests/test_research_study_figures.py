"""Figures from hand-made results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from ablation_fixture import DATA, TABLE, VARIANTS, line_for, table
from lewm.evaluate.closed_loop import wilson_interval
from lewm.research import Study, Table
from lewm.research import study_figures as figures_module
from lewm.research.results import append
from lewm.research.study_figures import write_figures

BUDGET = {
    f"{k} x {n}": {"plan.candidates": k, "plan.iterations": n, "plan.elites": 2} for k in (4, 8) for n in (1, 2)
}  # fmt: skip


def drawn(tmp_path: Path, studies: Table, monkeypatch: pytest.MonkeyPatch, *, episodes: int = 10) -> list[Axes]:
    """Draw the figures of a table with a line for each job; return the panels."""
    out, panels, draw = tmp_path / "out.jsonl", [], figures_module._draw
    monkeypatch.setattr(figures_module, "_draw", lambda axes, *rest: (panels.append(axes), draw(axes, *rest)))
    for job in studies.jobs():
        append(out, line_for(job, success=0.1 * job.config.plan.candidates, episodes=episodes))
    (path,) = write_figures(tmp_path / "new", studies, studies.jobs(), out)
    assert path == tmp_path / "new" / "levers.png"
    picture = np.asarray(Image.open(path))
    assert picture.shape[0] > 200
    assert picture.std() > 1
    return panels


def test_success_over_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = {f"{k}": {"plan.candidates": k} for k in (8, 2, 4)}
    (axes,) = drawn(tmp_path, table(variants=variants, curve="plan.candidates"), monkeypatch)
    (bars,) = axes.containers
    assert bars[0].get_xdata(orig=False).tolist() == [2, 4, 8]
    np.testing.assert_allclose(bars[0].get_ydata(orig=False), [0.2, 0.4, 0.8])
    assert axes.get_xlabel() == "plan.candidates"
    assert [line.get_label() for line in axes.lines][-1] == "random policy"


def test_setting_that_can_be_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = {f"{weight}": {"model.slowness": weight} for weight in (0.0, 1.0)}
    (axes,) = drawn(tmp_path, table(variants=variants, curve="model.slowness"), monkeypatch)
    assert axes.containers[0][0].get_xdata(orig=False).tolist() == [0, 1]
    assert axes.get_xscale() == "linear"


def test_success_over_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = "plan.candidates x plan.iterations"
    (axes,) = drawn(tmp_path, table(variants=BUDGET, curve=curve), monkeypatch)
    by_label = {bars.get_label(): bars[0].get_xdata(orig=False) for bars in axes.containers}
    assert list(by_label) == ["plan.iterations 1", "plan.iterations 2"]
    np.testing.assert_allclose(by_label["plan.iterations 1"], [4, 8], rtol=0.02)
    np.testing.assert_allclose(by_label["plan.iterations 2"], [8, 16], rtol=0.02)
    assert by_label["plan.iterations 1"][1] < 8 < by_label["plan.iterations 2"][0]  # side by side


@pytest.mark.slow
def test_success_begins_at_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """High rates have the axis for themselves, and the random policy's, far below, is written."""
    low, high = ({f"{k}": {"plan.candidates": k, "plan.elites": 2} for k in pair} for pair in ((4, 8), (9, 10)))
    (axes,) = drawn(tmp_path, table(variants=low, curve="plan.candidates"), monkeypatch, episodes=1000)
    assert axes.get_ylim()[0] < 0.1 < axes.get_ylim()[1] == 1.02
    assert not axes.texts
    (tmp_path / "out.jsonl").unlink()
    axes = drawn(tmp_path, table(variants=high, curve="plan.candidates"), monkeypatch, episodes=1000)[-1]
    assert 0.8 < axes.get_ylim()[0] < wilson_interval(1800, 2000)[0]
    assert [text.get_text() for text in axes.texts] == ["random policy below, at 10%"]
    assert all(0.8 < rate < 1.001 for rate in axes.get_yticks())
    assert "random policy" not in [line.get_label() for line in axes.lines]


def test_error_over_the_horizon_and_rank_over_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = drawn(tmp_path, table(curve="prediction.horizon"), monkeypatch)
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["ours", "slow", "pooled", "copy or mean"]
    np.testing.assert_allclose(np.asarray(lines["slow"].get_xydata()), [[1, 0.1], [2, 0.2], [4, 0.4], [8, 0.8]])
    looks = [(line.get_linestyle(), line.get_marker(), line.get_linewidth()) for line in axes.lines[:-1]]
    assert all(len(set(look)) == 3 for look in zip(*looks, strict=True))  # all three lie on each other
    (tmp_path / "out.jsonl").unlink()
    (axes,) = drawn(tmp_path, table(curve="step"), monkeypatch)[-1:]
    ranks = [np.asarray(line.get_ydata()).tolist() for line in axes.lines[:-1]]
    assert ranks == [[2.0, 3.0], [2.0, 4.0]] * 3  # one curve a seed


def test_legend_has_what_any_panel_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`slow` has no ratio in the first panel, `pooled` in neither."""
    legends, legend = [], figures_module._legend
    monkeypatch.setattr(figures_module, "_legend", lambda *of: legends.append(legend(*of)) or legends[-1])
    study = Study(variants=VARIANTS, tasks=("rooms", "more"), seeds=(0,), curve="prediction.horizon")
    studies = Table(tasks={"rooms": DATA, "more": replace(DATA, seed=1)}, studies={"levers": study})
    for job in studies.jobs():
        line = line_for(job)
        if job.variant == "pooled" or (job.variant, job.task) == ("slow", "rooms"):
            line["eval"]["prediction"]["error_ratio"] = [None] * 4
        append(tmp_path / "out.jsonl", line)
    write_figures(tmp_path, studies, studies.jobs(), tmp_path / "out.jsonl")
    assert [list(found) for found in legends] == [["ours", "slow", "copy or mean"]]


def test_study_without_a_curve_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of levers, again has a curve; give a study its `curve`"):
        write_figures(tmp_path, TABLE, TABLE.jobs(), tmp_path / "out.jsonl")
