"""Lines of results: whole after any kill, by any number of commands at once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ablation_fixture import TABLE, line_for
from lewm.ablate.results import append, by_label, made_for, read


def test_lines_come_back(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    assert read(out) == []
    lines = [line_for(job) for job in TABLE.jobs()]
    for line in lines:
        append(out, line)
    assert read(out) == lines
    assert list(by_label(read(out))) == [job.label for job in TABLE.jobs()]


def test_line_cut_short_is_dropped_and_ended(tmp_path: Path) -> None:
    out, jobs = tmp_path / "out.jsonl", TABLE.jobs()
    append(out, line_for(jobs[0]))
    whole = out.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 2, len(whole) - 1):  # what a kill may leave of the second line
        out.write_bytes(whole + whole[:length])
        assert len(read(out)) == (2 if length == len(whole) - 1 else 1)
    out.write_bytes(whole + b'{"key": "\xc3')
    append(out, line_for(jobs[1]))
    assert [line["variant"] for line in read(out)] == [jobs[0].variant, jobs[1].variant]


def test_many_writers_at_once(tmp_path: Path) -> None:
    out, jobs = tmp_path / "out.jsonl", TABLE.jobs()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: append(out, line_for(jobs[0], number=number)), range(40)))
    assert sorted(json.loads(text)["number"] for text in out.read_text(encoding="utf-8").splitlines()) == list(
        range(40)
    )


def test_later_line_of_a_job_counts() -> None:
    job = TABLE.jobs()[0]
    assert by_label([line_for(job, number=1), line_for(job, number=2)])[job.label]["number"] == 2


def test_line_for_a_job_of_another_name() -> None:
    ours, same = TABLE.jobs()[0], TABLE.jobs()[3]
    assert ours.key == same.key
    line = made_for(same, line_for(ours))
    assert line == line_for(same)
