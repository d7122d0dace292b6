"""Tables from hand-made results: what is summed up over seeds, and where it is written."""

from pathlib import Path

import pytest

from ablation_fixture import TABLE, line_for, table
from lewm.evaluate.closed_loop import newcombe_interval, wilson_interval
from lewm.research.results import append
from lewm.research.study_tables import filled, write_tables

LESS = "less the first row's, points (95%)"
PAGE = "before\n<!-- study levers -->\nold\n<!-- /study levers -->\nafter\n"


def rows(page: str) -> list[dict[str, str]]:
    """Return the rows of the one table in a page, by column."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    head, _, *body = lines
    return [dict(zip(head, row, strict=True)) for row in body]


def test_seeds_are_summed_up() -> None:
    ours = [job for job in TABLE.jobs() if (job.study, job.variant) == ("levers", "ours")]
    lines = [line_for(ours[0], success=0.4, episodes=10), line_for(ours[1], success=0.9, episodes=20)]
    page = filled(PAGE, TABLE.jobs(), lines)
    assert page.startswith("before\n<!-- study levers -->\n**rooms**\n\n| variant |")
    assert page.endswith("|\n<!-- /study levers -->\nafter\n")
    (row,) = rows(page)
    low, high = wilson_interval(22, 30)
    assert row == {  # whether moving straight gets there was not measured
        "variant": "ours",
        "seeds": "2",
        "error ratio, 1 and 8 ahead": "0.10, 0.80",
        "centred cosine, 1, 4, 8 ahead (copying)": "0.90 (0.50), 0.70 (0.30), 0.60 (0.20)",
        "effective rank": "4.5",
        "condition number": "123",
        "content share": "0.50",
        "probe R² (random encoder)": "0.900 (0.700)",
        "cost and distance": "0.80",
        "protocol": "standard",
        "success (95%, episodes)": f"73% ({100 * low:.0f}-{100 * high:.0f}, 30)",
        "random policy (95%, episodes)": f"10% ({100 * wilson_interval(3, 30)[0]:.0f}-"
        f"{100 * wilson_interval(3, 30)[1]:.0f}, 30)",
        "planner alone, cost alone, model (episodes)": "100%, 75%, 50% (8)",
        "parameters": "1,234",
        "ms a step": "20",
    }


def test_diverged_seeds_and_missing_parts() -> None:
    jobs = [job for job in TABLE.jobs() if job.study == "levers"]
    lines = [line_for(job) for job in jobs]
    for line in lines:
        if line["variant"] == "slow":
            line["error"] = "loss=nan: not finite at step 3 (gradient norm nan)"
            del line["eval"]
    lines[0]["eval"] |= {"prediction": None, "cost": {}}  # such as a policy's
    lines[3]["eval"] |= {"prediction": None, "cost": {}}
    hard = {"count": 5, "success_rate": 0.2}
    lines[2]["eval"]["planning"]["by_start"] = {"hard": hard, "straight": {"count": 0, "success_rate": None}}
    ours, slow, pooled = rows(filled(PAGE, TABLE.jobs(), lines))
    assert ours["error ratio, 1 and 8 ahead"] == "–"
    assert ours["planner alone, cost alone, model (episodes)"] == "–"
    assert ours["hard starts (95%, episodes)"] == "–"
    assert slow["seeds"] == "2 (2 diverged)"
    assert slow["success (95%, episodes)"] == "–"
    assert pooled["hard starts (95%, episodes)"].startswith("20% (")
    assert pooled["hard starts (95%, episodes)"].endswith(", 5)")


def test_what_many_rows_share_is_said_once() -> None:
    jobs = [job for job in TABLE.jobs() if (job.study, job.seed) == ("levers", 0)]
    lines = [line_for(job, success=0.1 * k) for k, job in enumerate(jobs)]
    page = filled(PAGE, TABLE.jobs(), lines)
    assert list(rows(page)[0]) == ["variant", "success (95%, episodes)", LESS]
    assert "|\n\nThe same in every row: seeds: 1; error ratio, 1 and 8 ahead: 0.10, 0.80; " in page
    assert "; parameters: 1,234; ms a step: 20.\n<!-- /study" in page
    assert rows(filled(PAGE, TABLE.jobs(), lines[1:]))[0]["seeds"] == "1"  # two rows are read at a glance
    lines[0]["error"] = "loss=nan: not finite at step 3"
    assert [row["seeds"] for row in rows(filled(PAGE, TABLE.jobs(), lines))] == ["1 (1 diverged)", "1", "1"]


def test_success_is_compared_with_the_first_row_over_the_seeds_of_both() -> None:
    jobs = {(job.variant, job.seed): job for job in TABLE.jobs() if job.study == "levers"}
    first, second, slow, pooled = (jobs[name] for name in (("ours", 0), ("ours", 1), ("slow", 0), ("pooled", 0)))
    lines = [line_for(first, success=0.8, episodes=70), line_for(second, success=0.0)]
    lines += [line_for(slow, success=0.6, episodes=80), line_for(pooled, success=0.8, episodes=70)]
    ours, slower, same = rows(filled(PAGE, TABLE.jobs(), lines))
    assert ours[LESS] == "–"
    low, high = newcombe_interval(48, 80, 56, 70)
    assert slower[LESS] == f"-20 ({100 * low:+.0f} to {100 * high:+.0f})"
    assert same[LESS].startswith("+0 (")
    lines.append(line_for(jobs["slow", 1], success=1.0, episodes=80) | {"error": "loss=nan: not finite at step 3"})
    del lines[-1]["eval"]  # a seed that diverged is in neither of the two that are compared
    assert rows(filled(PAGE, TABLE.jobs(), lines))[1][LESS] == slower[LESS]
    del lines[-1], lines[0]  # no seed in common
    assert LESS not in rows(filled(PAGE, TABLE.jobs(), lines))[0]


def test_moving_straight_and_too_few_episodes() -> None:
    first, second = (job for job in TABLE.jobs() if (job.study, job.variant) == ("levers", "ours"))
    lines = [line_for(first), line_for(second)]
    for line in lines:
        line["eval"]["planning"]["straight_success_rate"] = 0.7
        line["eval"]["cost"]["split_episodes"] = 2
    (row,) = rows(filled(PAGE, TABLE.jobs(), lines))
    low, high = wilson_interval(14, 20)
    assert row["moving straight (95%, episodes)"] == f"70% ({100 * low:.0f}-{100 * high:.0f}, 20)"
    assert "planner alone, cost alone, model (episodes)" not in row
    lines[0]["eval"]["cost"]["split_episodes"] = 3
    (row,) = rows(filled(PAGE, TABLE.jobs(), lines))
    assert row["planner alone, cost alone, model (episodes)"].endswith(" (5)")


def test_results_of_another_table_are_left_out() -> None:
    old = [line_for(job) for job in table(settings={"train.steps": 5}).jobs()]
    assert filled(PAGE, TABLE.jobs(), old) == PAGE


def test_page_is_written_anew(tmp_path: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="no such file; give a page with"):
        write_tables(page, TABLE.jobs(), out)
    page.write_text("# Page\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no place for levers, again; write <!-- study levers -->"):
        write_tables(page, TABLE.jobs(), out)
    page.write_text(PAGE, encoding="utf-8")
    for job in TABLE.jobs():
        append(out, line_for(job))
    write_tables(page, TABLE.jobs(), out)
    text = page.read_text(encoding="utf-8")
    assert [row["variant"] for row in rows(text)] == ["ours", "slow", "pooled"]
    write_tables(page, TABLE.jobs(), out)
    assert page.read_text(encoding="utf-8") == text
