"""The report's table of pose sensitivity: how far a change of each part of the pose moves the representation."""

import html
import math

from lewm.evaluate.words import number
from lewm.report.absent import why_not_measured
from lewm.report.page import missing
from lewm.report.run_files import RunFiles


def pose_table(run: RunFiles) -> str:
    """Return what eval.json says of pose sensitivity as HTML, or a sentence in its place."""
    parts, times = run.entry("pose_sensitivity", "parts"), run.numbers("pose_sensitivity", "times")
    rows = [row for part in parts if (row := _row(part, len(times)))] if isinstance(parts, list) else []
    if not rows:
        return missing(f"No pose sensitivity: {why_not_measured(run, 'pose_sensitivity')}.")
    heads = ("Tolerances that it changes by", *(number(by, digits=0) for by in times))
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    verdict = run.entry("pose_sensitivity", "verdict")
    said = f"<p>{html.escape(verdict)}</p>" if isinstance(verdict, str) else ""
    return (
        f"{said}<table><thead><tr>{head}</tr></thead>{''.join(rows)}</table>"
        "<p>Mean squared distance between frames whose states differ in one part of the pose alone, by so many times "
        "the tolerance of success, over that of random pairs of frames. A part that gives next to nothing does not "
        "draw plans to the goal, whatever a probe reads of it.</p>"
    )


def _row(part: object, count: int) -> str:
    """Return a part's rows below its name, empty if it is none."""
    if not isinstance(part, dict) or not isinstance(part.get("step"), int | float):
        return ""
    step = f"{math.degrees(part['step']):.3g} degrees" if part.get("angle") else f"{part['step']:.3g}"
    name = html.escape(f"{part.get('name')}, tolerance {step}")
    rows = ""
    for key, seen in (("latent", "Representation"), ("pixels", "Pixels")):
        cells = "".join(f"<td>{number(value, digits=4)}</td>" for value in _numbers(part.get(key), count))
        rows += f'<tr><th scope="row">{seen}</th>{cells}</tr>'
    return f'<tbody><tr><th scope="rowgroup" colspan="{count + 1}">{name}</th></tr>{rows}</tbody>'


def _numbers(values: object, count: int) -> list[float | None]:
    """Return so many numbers, None in place of what is none."""
    listed = values if isinstance(values, list) and len(values) == count else [None] * count
    return [value if isinstance(value, int | float) else None for value in listed]
