"""Write the ledger of the article's claims in docs/results.md from ablate.jsonl and timing.json in benchmarks/results.

    python benchmarks/ledger.py

A verdict follows from the numbers by the rule that stands in the code beside it; nothing is typed by hand. A claim is
confirmed where it holds in every seed, and refuted where it fails in one; in how many it holds stands beside the
verdict. Where nothing has been measured yet, the row says so.
"""

import json
import math
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from ablate import OUT, TABLE
from lewm.evaluate.closed_loop import wilson_interval
from lewm.evaluate.doctor import COLLAPSED_RANK, COLLAPSED_STD, POSITION_ONLY
from lewm.files import write_text
from lewm.research.results import Line, read
from lewm.research.study_tables import measured

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- ledger -->", "<!-- /ledger -->"
TIMING = OUT.with_name("timing.json")
COMMAND = "`python benchmarks/ablate.py --study {} --tasks two-room`"

Row = tuple[str, str, str]
"""Verdict, figure, scale: of what, how many seeds, and the command."""


class Missing(Exception):
    """Something has not been measured yet."""


class Results:
    """What was measured on Two-Room, by study and variant."""

    def __init__(self) -> None:
        self._found = measured(TABLE.jobs(), read(OUT))

    def all(self, study: str, variant: str) -> list[Line]:
        """Return the lines of a variant, one a seed, in the seeds' order; those of diverged runs have an `error`."""
        lines = self._found[study]["two-room"].get(variant, [])
        if not lines:
            raise Missing
        return sorted(lines, key=lambda line: line["seed"])

    def of(self, study: str, variant: str) -> list[Line]:
        """Return the lines of a variant of which no run diverged: a row that compares would be silent about it."""
        lines = self.all(study, variant)
        if any("error" in line for line in lines):
            raise ValueError(f"{study} / {variant}: a run diverged, and no rule here says what that means")
        return lines

    def alike(self, study: str, *variants: str) -> list[list[Line]]:
        """Return the lines of variants that are compared, over the seeds that all of them have."""
        return self.common(*(self.of(study, variant) for variant in variants))

    @staticmethod
    def common(*found: Sequence[Line]) -> list[list[Line]]:
        """Return the lines of the seeds that all groups have."""
        seeds = set.intersection(*({line["seed"] for line in lines} for lines in found))
        if not seeds:
            raise Missing
        return [[line for line in lines if line["seed"] in seeds] for lines in found]


def average(lines: Sequence[Line], *path: str | int) -> float:
    """Return the mean over seeds of a number of the evaluation; null stands for infinite."""
    return mean(finite_or_infinite(pick(line["eval"], *path)) for line in lines)


def finite_or_infinite(value: float | None) -> float:
    """Return a number as it was before JSON, which has no infinity."""
    return math.inf if value is None else value


def judged(holds: Sequence[bool]) -> str:
    """Return the verdict on a claim that should hold in every seed, and in how many it does."""
    return f"{'confirmed' if all(holds) else 'refuted'} ({sum(holds)} of {len(holds)} seeds)"


def pick(value: Any, *path: str | int) -> Any:
    """Return what a path leads to."""
    for step in path:
        value = value[step]
    return value


def solved(lines: Sequence[Line]) -> int:
    """Return how many of all seeds' episodes reached the goal."""
    planned = [line["eval"]["planning"] for line in lines]
    return round(sum(plan["success_rate"] * plan["episodes"] for plan in planned))


def interval(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the 95% interval of the success of all seeds' episodes."""
    return wilson_interval(solved(lines), sum(line["eval"]["planning"]["episodes"] for line in lines))


def success(lines: Sequence[Line]) -> str:
    """Return the success of all seeds' episodes, with its interval, beside the random policy's."""
    episodes = sum(line["eval"]["planning"]["episodes"] for line in lines)
    low, high = interval(lines)
    chance = average(lines, "planning", "random_success_rate")
    return f"{solved(lines) / episodes:.0%} [{low:.0%}, {high:.0%}] of {episodes}, random {chance:.0%}"


def scale(groups: Collection[Sequence[Line]], *studies: str) -> str:
    """Return the scale of a measurement, its numbers of seeds, and the studies that its numbers are from."""
    seeds = dict.fromkeys(len(lines) for lines in groups)
    commands = " and ".join(COMMAND.format(study) for study in studies)
    # other models train for as many steps as the others, and do not say so
    steps = dict.fromkeys(line["train"]["steps"] for lines in groups for line in lines if "steps" in line["train"])
    count = " and ".join(map(str, seeds))
    return f"tiny, {' and '.join(map(str, steps))} steps, n = {count}; {commands}"


def ratio(lines: Sequence[Line], step: int = 0) -> float:
    """Return the error over that of the better trivial rival; `step` counts the horizons."""
    return average(lines, "prediction", "error_ratio", step)


def rank(lines: Sequence[Line]) -> list[float]:
    """Return the effective rank of each seed."""
    return [line["eval"]["spectrum"]["effective_rank"] for line in lines]


def numbers(values: Sequence[float], form: str = ".1f") -> str:
    """Return numbers as a list."""
    return ", ".join(f"{value:{form}}" for value in values)


def collapsed(line: Line) -> bool:
    """Tell whether a representation is one direction, constant, or tells nothing but position."""
    spectrum = line["eval"]["spectrum"]
    return (
        spectrum["effective_rank"] < COLLAPSED_RANK
        or spectrum["feature_std"] < COLLAPSED_STD
        or spectrum["content_share"] < POSITION_ONLY
    )


def spectrum(lines: Sequence[Line]) -> str:
    """Return what shows a collapse, each seed's rank, beside the success."""
    share, condition = (average(lines, "spectrum", name) for name in ("content_share", "condition_number"))
    figure = f"effective rank {numbers(rank(lines))}, content share {share:.2f}, condition number {condition:.0f}"
    return f"{figure}, success {success(lines)}"


def collapses(results: Results, regulariser: str, ours: str, expected: bool) -> Row:
    """Judge whether the article's representation collapses with another regulariser; ours stands beside it."""
    lines, beside = results.of("claims", f"article, {regulariser}"), results.of("rivals", ours)
    figure = f"article: {spectrum(lines)}; {ours}, over our recipe: {spectrum(beside)}"
    return judged([collapsed(line) == expected for line in lines]), figure, scale((lines, beside), "claims", "rivals")


def c2(results: Results) -> Row:
    """VICReg collapses in part in some runs: the rank is less than half of the spectral regulariser's mean."""
    lines, spectral = results.alike("claims", "article, VICReg", "article")
    ours = results.of("rivals", VICREG)
    half = mean(rank(spectral)) / 2
    partly = [collapsed(line) or line["eval"]["spectrum"]["effective_rank"] < half for line in lines]
    verdict = f"{'confirmed' if any(partly) else 'refuted'} ({sum(partly)} of {len(partly)} seeds)"
    figure = f"article: {spectrum(lines)}, with the spectral regulariser {spectrum(spectral)}; "
    figure += f"{VICREG}, over our recipe: {spectrum(ours)}"
    return verdict, figure, scale((lines, ours), "claims", "rivals")


def c4(results: Results) -> Row:
    """The condition number falls, and nothing collapses."""
    lines = results.of("claims", "article")
    curves = [[finite_or_infinite(value) for value in line["train"]["curve"]["condition_number"]] for line in lines]
    first, last = (mean(curve[k] for curve in curves) for k in (0, -1))
    share = average(lines, "spectrum", "content_share")
    figure = f"condition number {first:.0f} at first, {last:.0f} at last; effective rank {numbers(rank(lines))}"
    figure += f"; but content is {share:.0%} of the variance, and success {success(lines)}"
    holds = [not collapsed(line) and curve[-1] < curve[0] for line, curve in zip(lines, curves, strict=True)]
    return judged(holds), figure, scale((lines,), "claims")


def c5(results: Results) -> Row:
    """At 0.01 it collapses, and at 1 it predicts worse than at 0.1 and at 0.5."""
    weights = {0.01: "article, weight 0.01", 0.05: "article, weight 0.05", 0.1: "article"}
    weights |= {0.5: "article, weight 0.5", 1.0: "article, weight 1"}
    lines = dict(zip(weights, results.alike("claims", *weights.values()), strict=True))
    figure = "; ".join(
        f"{weight:g}: effective rank {mean(rank(found)):.1f}, content share "
        f"{average(found, 'spectrum', 'content_share'):.2f}, error ratio {ratio(found):.2f}"
        for weight, found in lines.items()
    )
    holds = [
        collapsed(low) and ratio([high]) > max(ratio([half]), ratio([usual]))
        for low, usual, half, high in zip(lines[0.01], lines[0.1], lines[0.5], lines[1.0], strict=True)
    ]
    return judged(holds), figure, scale((lines[0.1],), "claims")


def c6(results: Results) -> Row:
    """Without EMA it collapses."""
    article, ours = results.of("claims", "article, no EMA"), results.of("recipe", "no EMA")
    both = results.of("recipe", "gradient through the target")
    figure = f"target = online, no gradient: article: {spectrum(article)}; ours: {spectrum(ours)}; "
    figure += f"ours with gradients through both: {spectrum(both)}"
    verdict = judged([collapsed(line) for line in article])
    return verdict, figure, scale((article, ours, both), "claims", "recipe")


def compare(ours: str, others: Sequence[str], holds: Callable[[float, list[float]], bool]) -> Callable[..., Row]:
    """Judge by the error ratio at the longest horizon, seed by seed."""

    def row(results: Results) -> Row:
        found = results.alike("claims", ours, *others)
        longest = found[0][0]["eval"]["prediction"]["horizon"][-1]
        errors = [[ratio([line], -1) for line in lines] for lines in found]
        figure = "; ".join(
            f"{name}: error ratio {ratio(lines):.3f} at 1 step, {numbers(seeds, '.2f')} at {longest}, "
            f"success {success(lines)}"
            for name, lines, seeds in zip((ours, *others), found, errors, strict=True)
        )
        return judged([holds(mine, rest) for mine, *rest in zip(*errors, strict=True)]), figure, scale(found, "claims")

    return row


def like(one: float, other: float) -> bool:
    """Tell whether two errors are within a tenth of each other."""
    return abs(one - other) <= 0.1 * max(one, other)


def c12(results: Results) -> Row:
    """Whole frames take more than three times the masked step, and their probe is worse."""
    masked, whole = results.alike("claims", "article", "article, whole frames")
    step = {name: timing()["presets"]["literal"][name] for name in ("train", "train_whole")}
    time, work = (step["train_whole"][key] / step["train"][key] for key in ("ms", "gflop"))
    probes = [average(lines, "probe", "r2") for lines in (masked, whole)]
    figure = (
        f"a step of `literal` on whole frames takes {time:.2f} x the time and {work:.2f} x the operations "
        f"(`python benchmarks/timing.py`); probe R² {probes[0]:.3f} masked, {probes[1]:.3f} whole; "
        f"error ratio {ratio(masked):.2f} and {ratio(whole):.2f}"
    )
    holds = [
        time > 3 and pick(one["eval"], "probe", "r2") > pick(other["eval"], "probe", "r2")
        for one, other in zip(masked, whole, strict=True)
    ]
    return judged(holds), figure, scale((masked,), "claims")


def c13(results: Results) -> Row:
    """Smooth-L1 is steadier early: the largest gradient stands out less."""
    both = results.alike("claims", "article", "article, squared error")
    norms = [[line["train"]["grad_norm"] for line in lines] for lines in both]
    smooth, squared = ([norm["first_largest"] / norm["first_median"] for norm in found] for found in norms)
    figure = "largest over median gradient norm in the first tenth: "
    figure += f"{numbers(smooth, '.2f')} Smooth-L1, {numbers(squared, '.2f')} squared"
    return judged([one < other for one, other in zip(smooth, squared, strict=True)]), figure, scale(both, "claims")


def c14(results: Results) -> Row:
    """To 8 steps the error grows as a power of the horizon between 0.8 and 1.25."""
    lines = results.of("claims", "ours")
    steps = np.array(lines[0]["eval"]["prediction"]["horizon"], dtype=float)
    errors = np.array([line["eval"]["prediction"]["error"] for line in lines])
    near = steps <= 8
    powers = [np.polyfit(np.log(steps[near]), np.log(found[near]), 1)[0] for found in errors]
    listed = ", ".join(f"{error:.4f} at {step:.0f}" for step, error in zip(steps, errors.mean(0), strict=True))
    figure = f"squared error {listed}; to 8 steps it grows as the power {numbers(powers, '.2f')} of the horizon"
    return judged([0.8 <= power <= 1.25 for power in powers]), figure, scale((lines,), "claims")


def twice_judged(article: Sequence[bool], ours: Sequence[bool]) -> str:
    """Return the verdict on the article as written, and on ours, in how many seeds each."""
    return f"{judged(article)} as written; {judged(ours)} for ours"


def c15(results: Results) -> Row:
    """The prediction is better than that of the rivals at every horizon."""
    rivals = ("tdmpc2", "dreamer", "random encoder")
    groups = [results.of("rivals", "ours"), results.of("claims", "article")]
    groups += [results.of("rivals", name) for name in rivals]
    lines: dict[str, list[Line]] = dict(zip(("ours", "article", *rivals), results.common(*groups), strict=True))
    at = [lines["ours"][0]["eval"]["prediction"]["horizon"].index(step) for step in (1, 4, 8)]

    def cosines(found: Sequence[Line], key: str = "centred_cosine") -> list[float]:
        return [average(found, "prediction", key, k) for k in at]

    figure = "; ".join(
        f"{name} {numbers(cosines(found), '.2f')} (copying {numbers(cosines(found, 'copy_centred_cosine'), '.2f')})"
        for name, found in lines.items()
    )
    constant = [
        name for name in rivals if any(line["eval"]["spectrum"]["feature_std"] < COLLAPSED_STD for line in lines[name])
    ]
    figure += f"; the features of {' and '.join(constant)} hardly vary" if constant else ""

    def best(name: str) -> list[bool]:
        return [
            all(
                mine >= max(cosines([lines[rival][seed]])[k] for rival in rivals)
                for k, mine in enumerate(cosines([line]))
            )
            for seed, line in enumerate(lines[name])
        ]

    verdict = twice_judged(best("article"), best("ours"))
    figure = f"centred cosine at 1, 4, 8 steps, each in its own space: {figure}"
    return verdict, figure, scale(lines.values(), "rivals", "claims")


def c16(results: Results) -> Row:
    """CEM and MPPI reach more goals than chance."""
    article = results.of("claims", "article")
    cem, mppi = results.common(results.of("rivals", "ours"), results.of("cost", "MPPI"))

    def above(line: Line) -> bool:
        return line["eval"]["planning"]["ci95"][0] > line["eval"]["planning"]["random_ci95"][1]

    figure = f"ours: CEM {success(cem)}; MPPI {success(mppi)}; the article as written: CEM {success(article)}"
    ours = [above(one) and above(other) for one, other in zip(cem, mppi, strict=True)]
    verdict = twice_judged([above(line) for line in article], ours)
    return verdict, figure, scale((article, cem), "claims", "rivals", "cost")


def c20(results: Results) -> Row:
    """No run diverged, and no step was not finite."""
    groups = results.all("rivals", "ours"), results.all("claims", "article")
    lines = [line for group in groups for line in group]
    steady = ["error" not in line and line["train"]["nonfinite_steps"] == 0 for line in lines]
    spikes = [norm["largest"] / norm["median"] for norm in (line["train"]["grad_norm"] for line in lines)]
    figure = f"largest over median gradient norm {numbers(spikes)}"
    return judged(steady).replace("seeds", "runs"), figure, scale(groups, "rivals", "claims")


def c21(results: Results) -> Row:
    """Starting from another task's encoder reaches more goals after 50 steps."""
    names = ("from scratch", "from Push-T's encoder")
    labels = [f"{name}, {steps} steps" for steps in (50, 250) for name in names]
    lines = dict(zip(labels, results.alike("claims", *labels), strict=True))
    figure = "; ".join(
        f"{name}: success {success(found)}, probe R² {average(found, 'probe', 'r2'):.3f}, "
        f"error ratio {ratio(found):.2f}"
        for name, found in lines.items()
    )
    holds = [
        solved([tuned]) > solved([scratch])
        for scratch, tuned in zip(*(lines[f"{name}, 50 steps"] for name in names), strict=True)
    ]
    return judged(holds), f"control alone, without images: {figure}", scale(lines.values(), "claims")


def timing() -> dict[str, Any]:
    """Return what the timing benchmark found."""
    if not TIMING.is_file():
        raise Missing
    return json.loads(TIMING.read_text(encoding="utf-8"))


def timing_scale(found: dict[str, Any]) -> str:
    """Return where the times were measured."""
    machine = found["machine"]
    threads = f", {machine['threads']} thread" if machine["device"] == "cpu" else ""
    return f"{machine['device']}{threads}, batch of 1; `python benchmarks/timing.py`"


def c18(results: Results) -> Row:
    """The article's devices are not here; what its cycle asks of them follows from the count of operations."""
    found = timing()
    product = found["product_gflop_per_s"]

    def part(preset: str, name: str) -> str:
        one = found["presets"][preset][name]
        share = one["gflop_per_s"] / product
        return f"{name} {one['ms']:.1f} ms ({one['gflop']:.3g} GFLOP, {share:.0%} of a matrix product's rate)"

    shown = "; ".join(
        f"`{preset}`: {', '.join(part(preset, name) for name in ('encoder', 'step', 'cycle'))}"
        for preset in ("literal", "large")
    )
    work = found["presets"]["literal"]["cycle"]["gflop"]
    asked = ", ".join(f"{work / cycle:.0f} ({device})" for device, (_, _, cycle) in ARTICLE_MS.items())
    rounds = found["iterations"] * found["horizon"]  # they follow one another, however many candidates are a batch
    in_a_row = ", ".join(f"{encoder + rounds * step:.1f}" for encoder, step, _ in ARTICLE_MS.values())
    given = ", ".join(f"{cycle:.1f}" for _, _, cycle in ARTICLE_MS.values())
    figure = (
        f"no such device is at hand. Here {shown}. The article's cycles ({given} ms) ask for {asked} TFLOP/s, "
        f"and its own encoder and {rounds} steps in a row take longer ({in_a_row} ms)"
    )
    return "not testable here", figure, timing_scale(found)


def c19(results: Results) -> Row:
    """The article's machine is not here; what its hours ask of a GPU follows from the count of operations."""
    found = timing()
    train = found["presets"]["literal"]["train"]
    images = found["images"] * found["epochs"]
    per_gpu = images / (HOURS * 3600 * GPUS)
    asked = per_gpu * train["gflop"] / found["batch_size"] / 1e3
    figure = (
        f"neither at hand. `literal` here {train['images_per_s']:.1f} images/s, so {images:,} images in "
        f"{train['hours_of_imagenet']:,.0f} hours; {HOURS} hours on {GPUS} GPUs ask for {per_gpu:,.0f} images/s "
        f"and {asked:.1f} TFLOP/s of each"
    )
    return "not testable here", figure, timing_scale(found).replace("batch of 1", f"batches of {found['batch_size']}")


def untested(why: str) -> Callable[[Results], Row]:
    """Return the row of a claim that cannot be tested here."""
    return lambda results: ("not testable here", why, "–")


IMAGES = (
    "no image data set that it speaks of can be had; `lewm import` of images, `lewm train` and `lewm eval` measure it"
)
# encoder, step, cycle; article, section 9
ARTICLE_MS = {"A100": (0.8, 0.3, 3.2), "Orin": (3.1, 0.9, 18.3), "Xavier": (7.2, 2.1, 42.0)}
HOURS, GPUS = 18, 4  # article, section 5
ARTICLE, OURS, BOTH = "the article as written", "ours", "both"
VICREG, BARLOW = "VICReg, weight 0.5", "Barlow Twins, weight 0.5"
CLAIMS: dict[str, tuple[str, str, Callable[[Results], Row]]] = {
    "C1": (
        "without a regulariser the representation collapses",
        ARTICLE,
        lambda r: collapses(r, "no regulariser", "no regulariser", True),
    ),
    "C2": ("VICReg collapses in part", ARTICLE, c2),
    "C3": ("Barlow Twins does not collapse", ARTICLE, lambda r: collapses(r, "Barlow Twins", BARLOW, False)),
    "C4": ("the spectral regulariser never collapses; the condition number falls", ARTICLE, c4),
    "C5": ("a weight below 0.05 collapses, above 0.5 predicts worse", ARTICLE, c5),
    "C6": ("without EMA it collapses", ARTICLE, c6),
    "C7": ("a convolutional stem beats a linear one", OURS, compare("ours", ["linear stem"], lambda x, y: x < y[0])),
    "C8": (
        "a predictor of half the width is best",
        OURS,
        compare("predictor width 48", ["predictor width 24", "predictor width 96"], lambda x, y: x < min(y)),
    ),
    "C9": (
        "four predictor layers are the least for rollouts: fewer are worse, six no better",
        OURS,
        compare(
            "predictor depth 4",
            ["predictor depth 1", "predictor depth 2", "ours", "predictor depth 6"],
            lambda x, y: x < min(y[:3]) and x <= 1.1 * y[3],
        ),
    ),
    "C10": (
        "half the width is worse, twice the width hardly better",
        OURS,
        compare("ours", ["width 48", "width 192"], lambda x, y: x < y[0] and x <= 1.1 * y[1]),
    ),
    "C11": (
        "an added action equals FiLM, and beats a token of its own",
        OURS,
        compare("ours", ["actions by FiLM", "actions by a token"], lambda x, y: like(x, y[0]) and x < y[1]),
    ),
    "C12": ("without masks training costs four times as much, and is worse", ARTICLE, c12),
    "C13": ("Smooth-L1 is steadier than the squared error early", ARTICLE, c13),
    "C14": ("the error grows about linearly to 8 steps", OURS, c14),
    "C15": ("prediction is better than that of latents of TD-MPC2, Dreamer and random features", BOTH, c15),
    "C16": ("planning by CEM or MPPI works", BOTH, c16),
    "C17": ("the representation lies between MAE and I-JEPA", "–", untested(IMAGES)),
    "C18": ("times on A100, Orin and Xavier", BOTH, c18),
    "C19": ("18 hours for 300 epochs of ImageNet on four A100", ARTICLE, c19),
    "C20": ("no instability", BOTH, c20),
    "C21": ("fine-tuning from a pretrained encoder helps", OURS, c21),
}


def ledger() -> str:
    """Return the ledger as Markdown."""
    results, rows = (
        Results(),
        [
            "| claim | verdict | the article says | judged on | measured | scale and command |",
            "|---|---|---|---|---|---|",
        ],
    )
    for name, (says, judged_on, judge) in CLAIMS.items():
        try:
            verdict, figure, where = judge(results)
        except Missing:
            verdict, figure, where = "not measured yet", "–", "–"
        rows.append(f"| {name} | {verdict} | {says} | {judged_on} | {figure} | {where} |")
    return "\n".join(rows)


def main() -> None:
    """Write the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    write_text(PAGE, f"{before}{BEGIN}\n{ledger()}\n{END}{after}")


if __name__ == "__main__":
    main()
