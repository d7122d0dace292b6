"""Lines of results: whole after any kill, by any number of commands at once."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ablation_fixture import TABLE, line_for
from lewm.research.results import append, by_label, made_for, read


def test_lines_come_back(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    assert read(out) == []
    lines = [line_for(job) for job in TABLE.jobs()]
    for line in lines:
        append(out, line)
    assert read(out) == lines
    assert list(by_label(read(out))) == [job.label for job in TABLE.jobs()]


def test_line_cut_short_is_dropped_and_written_over(tmp_path: Path) -> None:
    out, jobs = tmp_path / "out.jsonl", TABLE.jobs()
    append(out, line_for(jobs[0]))
    whole = out.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 2, len(whole) - 1):  # what a kill may leave of the second line
        out.write_bytes(whole + whole[:length])
        assert len(read(out)) == (2 if length == len(whole) - 1 else 1)
    out.write_bytes(whole + b'{"key": "\xc3')
    append(out, line_for(jobs[1]))
    assert out.read_bytes() == whole + json.dumps(line_for(jobs[1])).encode() + b"\n"
    out.write_bytes(whole[:-1])  # whole but for its end
    append(out, line_for(jobs[1]))
    assert [line["variant"] for line in read(out)] == [jobs[0].variant, jobs[1].variant]


@pytest.mark.parametrize("broken", ['{"key": "a', "[1]", '{"study": "levers"}', "{", "text"])
def test_other_broken_lines_are_refused(tmp_path: Path, broken: str) -> None:
    out, line = tmp_path / "out.jsonl", json.dumps(line_for(TABLE.jobs()[0]))
    out.write_text(f"{line}\n\n{broken}\n{line}\n", encoding="utf-8")
    told = f"out={out}: line 3 is not one of results; take it out, or give another file"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        read(out)


def test_what_is_no_file_of_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r": is a folder; give a file, such as .*results\.jsonl$"):
        read(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("one line without an end", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 is not one of results"):
        read(page)


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
