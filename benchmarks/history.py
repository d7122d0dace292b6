"""Write the table of what left the package in docs/results.md, from benchmarks/results/history.jsonl.

    python benchmarks/history.py

Its rows were measured by `benchmarks/ablate.py` before the settings that they change were deleted, so no command here
measures them again. The names of settings are those of that time.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from lewm.evaluate.closed_loop import wilson_interval
from lewm.files import write_text

SOURCE = Path(__file__).parent / "results" / "history.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- history -->", "<!-- /history -->"
HEAD = ("variant", "study", "task", "seeds", "error ratio, 1 ahead", "success (95%, episodes)", "random policy")


def table(lines: list[dict[str, Any]]) -> str:
    """Return the table, a row a variant, study and task."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["variant"], line["study"], line["task"]].append(line["eval"])
    rows = [HEAD, ("---",) * len(HEAD)]
    for (variant, study, task), measured in sorted(groups.items()):
        plans = [one["planning"] for one in measured]
        episodes = sum(plan["episodes"] for plan in plans)
        solved, chance = (
            round(sum(plan[f"{whose}success_rate"] * plan["episodes"] for plan in plans)) for whose in ("", "random_")
        )
        low, high = wilson_interval(solved, episodes)
        ratio = sum(one["prediction"]["error_ratio"][0] for one in measured) / len(measured)
        success = f"{solved / episodes:.0%} ({100 * low:.0f}-{100 * high:.0f}, {episodes})"
        rows.append((variant, study, task, str(len(measured)), f"{ratio:.2f}", success, f"{chance / episodes:.0%}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Write the table into the page."""
    lines = [json.loads(line) for line in SOURCE.read_text(encoding="utf-8").splitlines()]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    write_text(PAGE, f"{before}{BEGIN}\n{table(lines)}\n{END}{after}")
    print(json.dumps({"lines": len(lines)}))


if __name__ == "__main__":
    sys.exit(main())
