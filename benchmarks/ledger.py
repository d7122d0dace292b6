"""Write the ledger of the article's claims in docs/results.md from ablate.jsonl and timing.json in benchmarks/results.

    python benchmarks/ledger.py

A verdict follows from the numbers by the rule that stands in the code beside it; nothing is typed by hand. Where
nothing has been measured yet, the row says so.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from ablate import OUT, TABLE
from lewm.ablate.results import Line, read
from lewm.ablate.tables import measured
from lewm.evaluate.closed_loop import wilson_interval
from lewm.evaluate.doctor import COLLAPSED_RANK, COLLAPSED_STD, POSITION_ONLY

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- ledger -->", "<!-- /ledger -->"
TIMING = OUT.with_name("timing.json")
PROCESSOR = ("train", "seconds", "processor")
COMMAND = "`python benchmarks/ablate.py --study {} --tasks two-room`"

Row = tuple[str, str, str]
"""Verdict, figure, scale: of what, how many seeds, and the command."""


class Missing(Exception):
    """Something has not been measured yet."""


class Results:
    """What was measured on Two-Room, by study and variant."""

    def __init__(self) -> None:
        self._found = measured(TABLE.jobs(), read(OUT))

    def of(self, study: str, variant: str, task: str = "two-room") -> list[Line]:
        """Return the lines of a variant that were evaluated, one a seed, in the seeds' order."""
        lines = [line for line in self._found[study][task].get(variant, []) if "eval" in line]
        if not lines:
            raise Missing
        return sorted(lines, key=lambda line: line["seed"])

    def alike(self, study: str, *variants: str) -> list[list[Line]]:
        """Return the lines of variants that are compared, over the seeds that all of them have."""
        found = [self.of(study, variant) for variant in variants]
        seeds = set.intersection(*({line["seed"] for line in lines} for lines in found))
        if not seeds:
            raise Missing
        return [[line for line in lines if line["seed"] in seeds] for lines in found]


def average(lines: Sequence[Line], *path: str | int) -> float:
    """Return the mean over seeds of a number of the evaluation."""
    return mean(pick(line["eval"], *path) for line in lines)


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


def scale(lines: Sequence[Line], *studies: str) -> str:
    """Return the scale of a measurement, and the studies that its numbers are from."""
    seeds, commands = len({line["seed"] for line in lines}), " and ".join(COMMAND.format(study) for study in studies)
    return f"tiny, {lines[0]['train']['steps']} steps, n = {seeds}; {commands}"


def ratio(lines: Sequence[Line], step: int = 0) -> float:
    """Return the error over that of the better trivial rival; `step` counts the horizons."""
    return average(lines, "prediction", "error_ratio", step)


def rank(lines: Sequence[Line]) -> list[float]:
    """Return the effective rank of each seed."""
    return [line["eval"]["spectrum"]["effective_rank"] for line in lines]


def numbers(values: Sequence[float], form: str = ".1f") -> str:
    """Return numbers as a list."""
    return ", ".join(f"{value:{form}}" for value in values)


def collapsed(lines: Sequence[Line]) -> bool:
    """Tell whether a representation is one direction, constant, or tells nothing but position, in some seed."""
    spectra = [line["eval"]["spectrum"] for line in lines]
    return any(
        spectrum["effective_rank"] < COLLAPSED_RANK
        or spectrum["feature_std"] < COLLAPSED_STD
        or spectrum["content_share"] < POSITION_ONLY
        for spectrum in spectra
    )


def spectrum(lines: Sequence[Line]) -> str:
    """Return what shows a collapse, each seed's rank, beside the success."""
    share, condition = (average(lines, "spectrum", name) for name in ("content_share", "condition_number"))
    figure = f"effective rank {numbers(rank(lines))}, content share {share:.2f}, condition number {condition:.0f}"
    return f"{figure}, success {success(lines)}"


def collapses(results: Results, regulariser: str, expected: bool) -> Row:
    """Judge whether the article's representation collapses with another regulariser; ours stands beside it."""
    lines, ours = results.of("claims", f"article, {regulariser}"), results.of("rivals", regulariser)
    verdict = "confirmed" if collapsed(lines) == expected else "refuted"
    return verdict, f"article: {spectrum(lines)}; ours: {spectrum(ours)}", scale(lines, "claims", "rivals")


def c2(results: Results) -> Row:
    """VICReg collapses in part: in some seed the rank is less than half of the spectral regulariser's."""
    lines, spectral = results.alike("claims", "article, VICReg", "article")
    ours = results.of("rivals", "VICReg")
    partly = collapsed(lines) or min(rank(lines)) < mean(rank(spectral)) / 2
    figure = f"article: {spectrum(lines)}, with the spectral regulariser {spectrum(spectral)}; ours: {spectrum(ours)}"
    return "confirmed" if partly else "refuted", figure, scale(lines, "claims", "rivals")


def c4(results: Results) -> Row:
    """The condition number falls, and nothing collapses."""
    lines = results.of("claims", "article")
    curves = [line["train"]["curve"]["condition_number"] for line in lines]
    first, last = (mean(curve[k] for curve in curves) for k in (0, -1))
    alive = not collapsed(lines)
    share = average(lines, "spectrum", "content_share")
    figure = f"condition number {first:.0f} at first, {last:.0f} at last; effective rank {numbers(rank(lines))}"
    figure += f"; but content is {share:.0%} of the variance, and success {success(lines)}"
    return "confirmed" if alive and last < first else "refuted", figure, scale(lines, "claims")


def c5(results: Results) -> Row:
    """Below 0.05 collapse, above 0.5 worse prediction."""
    weights = (0.01, 0.05, 0.5, 1.0)
    found = results.alike("claims", *(f"article, weight {weight:g}" for weight in weights))
    lines = dict(zip(weights, found, strict=True))
    low = collapsed(lines[0.01])
    high = ratio(lines[1.0]) > ratio(lines[0.05])
    figure = "; ".join(
        f"{weight:g}: effective rank {mean(rank(found)):.1f}, error ratio {ratio(found):.2f}"
        for weight, found in lines.items()
    )
    return "confirmed" if low and high else "refuted", figure, scale(lines[0.01], "claims")


def c6(results: Results) -> Row:
    """Without EMA it collapses."""
    article, ours = results.of("claims", "article, no EMA"), results.of("recipe", "no EMA")
    both = results.of("recipe", "gradient through the target")
    figure = f"target = online, no gradient: article: {spectrum(article)}; ours: {spectrum(ours)}; "
    figure += f"ours with gradients through both: {spectrum(both)}"
    return "confirmed" if collapsed(article) else "refuted", figure, scale(article, "claims", "recipe")


def compare(
    study: str, ours: str, others: Sequence[str], better: Callable[[float, list[float]], bool]
) -> Callable[..., Row]:
    """Judge by the error ratio at the longest horizon: confirmed if it is better in every seed."""

    def row(results: Results) -> Row:
        found = results.alike(study, ours, *others)
        longest = found[0][0]["eval"]["prediction"]["horizon"][-1]
        errors = [[ratio([line], -1) for line in lines] for lines in found]
        figure = "; ".join(
            f"{name}: error ratio {ratio(lines):.3f} at 1 step, {numbers(seeds, '.2f')} at {longest}, "
            f"success {success(lines)}"
            for name, lines, seeds in zip((ours, *others), found, errors, strict=True)
        )
        confirmed = all(better(mine, rest) for mine, *rest in zip(*errors, strict=True))
        return "confirmed" if confirmed else "refuted", figure, scale(found[0], study)

    return row


def c12(results: Results) -> Row:
    """Masks are quicker and better."""
    masked, whole = results.alike("claims", "article", "article, whole frames")
    # neither learns a planning cost, so all of the processor's time is that of the steps
    time = mean(pick(line, *PROCESSOR) for line in whole) / mean(pick(line, *PROCESSOR) for line in masked)
    probes = [average(lines, "probe", "r2") for lines in (masked, whole)]
    figure = (
        f"whole frames take {time:.2f} x the processor's time; probe R² {probes[0]:.3f} masked, {probes[1]:.3f} whole"
    )
    figure += f"; error ratio {ratio(masked):.2f} and {ratio(whole):.2f}"
    return "confirmed" if time > 2 and probes[0] > probes[1] else "refuted", figure, scale(masked, "claims")


def c13(results: Results) -> Row:
    """Smooth-L1 is steadier early: the largest gradient stands out less in every seed."""
    both = results.alike("claims", "article", "article, squared error")
    norms = [[line["train"]["grad_norm"] for line in lines] for lines in both]
    smooth, squared = ([norm["first_largest"] / norm["first_median"] for norm in found] for found in norms)
    figure = "largest over median gradient norm in the first tenth: "
    figure += f"{numbers(smooth, '.2f')} Smooth-L1, {numbers(squared, '.2f')} squared"
    steadier = all(one < other for one, other in zip(smooth, squared, strict=True))
    return "confirmed" if steadier else "refuted", figure, scale(both[0], "claims")


def c14(results: Results) -> Row:
    """The error grows about linearly with the horizon."""
    lines = results.of("claims", "ours")
    steps = np.array(lines[0]["eval"]["prediction"]["horizon"], dtype=float)
    errors = np.mean([line["eval"]["prediction"]["error"] for line in lines], axis=0)
    slope, offset = np.polyfit(steps, errors, 1)
    fit = 1 - ((slope * steps + offset - errors) ** 2).sum() / ((errors - errors.mean()) ** 2).sum()
    power = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    listed = ", ".join(f"{error:.4f} at {step:.0f}" for step, error in zip(steps, errors, strict=True))
    figure = f"squared error {listed}; R² of a line {fit:.3f}; grows as the {power:.2f}th power of the horizon"
    return "confirmed" if fit > 0.95 else "refuted", figure, scale(lines, "claims")


def c15(results: Results) -> Row:
    """The prediction is better than that of the rivals."""
    names = ("ours", "article", "tdmpc2", "dreamer", "random encoder")
    lines = dict(zip(names, results.alike("rivals", *names), strict=True))
    at = [lines["ours"][0]["eval"]["prediction"]["horizon"].index(step) for step in (1, 4, 8)]

    def cosines(found: list[Line], key: str) -> list[float]:
        return [average(found, "prediction", key, k) for k in at]

    shown = {
        name: [cosines(found, key) for key in ("centred_cosine", "copy_centred_cosine")]
        for name, found in lines.items()
    }
    figure = "; ".join(
        f"{name} {numbers(model, '.2f')} (copying {numbers(copy, '.2f')})" for name, (model, copy) in shown.items()
    )
    ours = cosines(lines["ours"], "centred_cosine")
    best = all(
        mine >= max(cosines(lines[name], "centred_cosine")[k] for name in names[2:]) for k, mine in enumerate(ours)
    )
    return ("confirmed" if best else "refuted", f"centred cosine at 1, 4, 8 steps, each in its own space: {figure}",
            scale(lines["ours"], "rivals"))  # fmt: skip


def c16(results: Results) -> Row:
    """CEM and MPPI reach more goals than chance."""
    cem, mppi, article = results.of("rivals", "ours"), results.of("cost", "MPPI"), results.of("rivals", "article")
    above = all(
        line["eval"]["planning"]["ci95"][0] > line["eval"]["planning"]["random_ci95"][1] for line in (*cem, *mppi)
    )
    figure = f"CEM {success(cem)}; MPPI {success(mppi)}; the article as written, CEM {success(article)}"
    return "confirmed" if above else "refuted", figure, scale(cem, "rivals", "cost")


def c20(results: Results) -> Row:
    """No instability over the seeds."""
    lines = results.of("rivals", "ours") + results.of("claims", "article")
    bad = sum(line["train"]["nonfinite_steps"] for line in lines)
    spikes = max(line["train"]["grad_norm"]["largest"] / line["train"]["grad_norm"]["median"] for line in lines)
    figure = (
        f"{bad} steps that were not finite in {len(lines)} runs; largest over median gradient norm at most {spikes:.1f}"
    )
    return "confirmed" if bad == 0 else "refuted", figure, scale(lines, "rivals", "claims")


def c21(results: Results) -> Row:
    """Starting from another task's encoder reaches more goals after few steps, beyond chance."""
    names = ("from scratch", "from Push-T's encoder")
    labels = [f"{name}, {steps} steps" for steps in (50, 250) for name in names]
    lines = dict(zip(labels, results.alike("claims", *labels), strict=True))
    figure = "; ".join(
        f"{name}: success {success(found)}, probe R² {average(found, 'probe', 'r2'):.3f}, "
        f"error ratio {ratio(found):.2f}"
        for name, found in lines.items()
    )
    scratch, tuned = (lines[f"{name}, 50 steps"] for name in names)
    better = interval(tuned)[0] > interval(scratch)[1]
    where = scale(tuned, "claims").replace("50 steps", "50 and 250 steps")
    return "confirmed" if better else "refuted", f"control alone, without images: {figure}", where


def timing() -> dict[str, Any]:
    """Return what the timing benchmark found."""
    if not TIMING.is_file():
        raise Missing
    return json.loads(TIMING.read_text(encoding="utf-8"))


def timing_scale(found: dict[str, Any]) -> str:
    """Return where the times were measured."""
    machine = found["machine"]
    return f"{machine['device']}, {machine['threads']} thread, batch of 1; `python benchmarks/timing.py`"


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
        for preset in ("literal", "paper")
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
    asked = per_gpu * train["gflop"] / train["batch_size"] / 1e3
    figure = (
        f"neither at hand. `literal` here {train['images_per_s']:.1f} images/s, so {images:,} images in "
        f"{train['hours_of_imagenet']:,.0f} hours; {HOURS} hours on {GPUS} GPUs ask for {per_gpu:,.0f} images/s "
        f"and {asked:.1f} TFLOP/s of each"
    )
    return "not testable here", figure, timing_scale(found).replace("batch of 1", f"batches of {train['batch_size']}")


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
CLAIMS: dict[str, tuple[str, str, Callable[[Results], Row]]] = {
    "C1": (
        "without a regulariser the representation collapses",
        ARTICLE,
        lambda r: collapses(r, "no regulariser", True),
    ),
    "C2": ("VICReg collapses in part", ARTICLE, c2),
    "C3": ("Barlow Twins does not collapse", ARTICLE, lambda r: collapses(r, "Barlow Twins", False)),
    "C4": ("the spectral regulariser never collapses; the condition number falls", ARTICLE, c4),
    "C5": ("a weight below 0.05 collapses, above 0.5 predicts worse", ARTICLE, c5),
    "C6": ("without EMA it collapses", ARTICLE, c6),
    "C7": (
        "a convolutional stem beats a linear one",
        OURS,
        compare("claims", "ours", ["linear stem"], lambda x, y: x < y[0]),
    ),
    "C8": (
        "a predictor of half the width is best",
        OURS,
        compare("claims", "predictor width 48", ["predictor width 24", "predictor width 96"], lambda x, y: x < min(y)),
    ),
    "C9": (
        "four predictor layers are the least for rollouts, two are too few",
        OURS,
        compare(
            "claims", "predictor depth 4", [f"predictor depth {n}" for n in (1, 2, 6)], lambda x, y: x < min(y[:2])
        ),
    ),
    "C10": (
        "half the width is worse, twice the width hardly better",
        OURS,
        compare("claims", "ours", ["width 48", "width 192"], lambda x, y: x < y[0]),
    ),
    "C11": (
        "an added action equals FiLM, and beats a token of its own",
        OURS,
        compare("claims", "ours", ["actions by FiLM", "actions by a token"], lambda x, y: x < y[1]),
    ),
    "C12": ("without masks training costs four times as much, and is worse", ARTICLE, c12),
    "C13": ("Smooth-L1 is steadier than the squared error early", ARTICLE, c13),
    "C14": ("the error grows about linearly to 8 steps", OURS, c14),
    "C15": ("prediction is better than TD-MPC2's, Dreamer's and random features'", OURS, c15),
    "C16": ("planning by CEM or MPPI works", OURS, c16),
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
    PAGE.write_text(f"{before}{BEGIN}\n{ledger()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
