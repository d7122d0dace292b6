"""One self-contained `report.html` from what a run folder holds.

The page has a verdict, every number beside its trivial rival, and the pictures behind them. It loads nothing from
elsewhere and runs no script. A part that is missing is replaced by a sentence that says so: a run that was never
evaluated still gets its curves. Every text from the run folder is taken as untrusted and escaped.
"""

import html
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.evaluate.page import figure, image, missing, render
from lewm.evaluate.run_files import RunFiles
from lewm.files import write_text

NAME = "report.html"
MOST_EXAMPLES = 6
FRAME_MILLISECONDS = 100
# Every text beside a number: what the trivial rival is, and how to read the number.
PREDICTION = (
    (
        "error_ratio",
        None,
        "Error ratio",
        "the better of copying the present frame and each position's mean; lower is better",
    ),
    ("centred_cosine", "copy_centred_cosine", "Centred cosine", "copying the present frame; higher is better"),
    ("cosine", "copy_cosine", "Cosine", "copying the present frame; higher is better"),
)
PROBES = {
    "linear_flattened": "linear, flattened tokens",
    "linear_pooled": "linear, mean token",
    "mlp_flattened": "MLP, flattened tokens",
    "mlp_pooled": "MLP, mean token",
}
SPECTRUM = (
    ("effective_rank", "Effective rank", 1.0, "total collapse; higher is better"),
    ("content_share", "Content share of the variance", 0.0, "tokens that differ by position alone; 1 is all content"),
    ("condition_number", "Condition number over the support", None, "no rival; 1 is a flat spectrum"),
    ("feature_std", "Standard deviation of a feature", 0.0, "total collapse"),
)
COSTS = (
    ("rank_correlation", "Rank correlation of the cost with steps to go"),
    ("rank_correlation_distance", "Rank correlation of the cost with true distance"),
)
SPLIT = (
    ("planner alone", "cost", "planner_alone_success", "planner_alone_ci95"),
    ("cost alone", "cost", "cost_alone_success", "cost_alone_ci95"),
    ("model", "planning", "success_rate", "ci95"),
    ("random policy", "planning", "random_success_rate", "random_ci95"),
)
STARTS = {
    "nothing": "at the goal already",
    "straight": "from which moving straight reaches the goal",
    "hard": "from which moving straight does not",
}
PANELS = (
    (
        "loss",
        "Loss and its parts; those beside the prediction before their weights.",
        ("loss", "loss_pred", "loss_reg", "loss_slow", "loss_inv"),
        True,
    ),
    ("rank", "Effective rank of the representation; 1 is collapse.", ("effective_rank",), False),
    ("content", "Share of the token variance that position does not explain.", ("content_share",), False),
    ("condition", "Condition number of the spectrum over its support.", ("condition_number",), True),
    ("gradient", "Gradient norm before clipping.", ("grad_norm",), True),
    ("rate", "Learning rate.", ("learning_rate",), False),
)
WITH_A_WEIGHT = {"loss_inv"}
"""Logged only where the term has a weight."""
Row = tuple[str, str, str, str]
"""A measure, this run's number, the rival's, and a note."""


def write_report(run: str | Path) -> Path:
    """Write `report.html` into a run folder, from its config.json, metrics.jsonl, eval.json and eval.npz.

    Args:
        run: Run folder; any of the four files may be missing.

    Returns:
        Path of the report.

    Raises:
        ValueError: If there is no such folder, or the packages that draw the figures are not installed.
        OSError: If the report cannot be written; an earlier one is kept.
    """
    run = Path(run)
    if not run.is_dir():
        raise ValueError(f"run={run}: no such folder; give a run folder, as made by lewm train")
    try:
        from lewm.evaluate import figures  # matplotlib takes a second to import and is not installed everywhere
    except ModuleNotFoundError as error:
        raise ValueError(f"report: {error.name} is not installed; pip install 'lewm[report]'") from error
    page = _Page(RunFiles(run), figures).render()
    write_text(run / NAME, page)
    return run / NAME


def _number(value: float | None, *, digits: int = 3) -> str:
    """Return a number with that many digits behind the point, fewer for large ones."""
    if value is None:
        return "–"
    size = 0 if abs(value) < 10 else 1 if abs(value) < 100 else 2
    return f"{value:.{max(digits - size, 0)}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"


def _counted(count: float | None, noun: str) -> str:
    return f"{_number(count, digits=0)} {noun}{'' if count == 1 else 's'}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as dotted names and values."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Page:
    """The parts of the page. Each gives HTML, and a sentence in place of what is missing."""

    def __init__(self, run: RunFiles, figures: ModuleType) -> None:
        self.run = run
        self.figures = figures

    def render(self) -> str:
        """Put the page together."""
        sections = (
            ("numbers", "Every number beside its trivial rival", self._numbers()),
            ("split", "Where planning succeeds or fails", self._split()),
            ("episodes", "Planned episodes", self._episodes()),
            ("rollouts", "Predicted against real", self._rollouts()),
            ("cost", "The planning cost", self._cost()),
            ("projection", "The representation", self._projection()),
            ("spectrum", "Its spectrum", self._spectrum()),
            ("training", "Training", self._training()),
            ("settings", "Settings", self._settings()),
        )
        return render(f"{self.run.name}: world model report", self._head(), sections)

    def _head(self) -> str:
        facts = {
            "run": self.run.name,
            "preset": self.run.config.get("preset"),
            "seed": self.run.config.get("seed"),
            "task": self.run.entry("data", "task"),
            "steps trained": int(self.run.metrics["step"][1][-1]) if "step" in self.run.metrics else None,
        }
        listed = "".join(
            f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>"
            for name, value in facts.items()
            if value is not None
        )
        verdict = self.run.entry("verdict")
        if isinstance(verdict, str) and verdict:
            kind = "good" if self.run.entry("learnt") is True else "bad"
            banner = f'<p class="verdict {kind}">{html.escape(verdict)}</p>'
        else:
            banner = missing("There is no verdict: eval.json is missing or has none; lewm eval makes it.")
        return f"<header><h1>World model report</h1><dl>{listed}</dl>{banner}</header>"

    def _numbers(self) -> str:
        rows = [
            *self._prediction_rows(),
            *self._probe_rows(),
            *self._class_rows(),
            *self._spectrum_rows(),
            *self._planning_rows(),
        ]
        cells = ""
        for note, group in itertools.groupby(rows, key=lambda row: row[3]):
            alike = list(group)
            for k, (name, ours, rival, _) in enumerate(alike):
                last = f'<td rowspan="{len(alike)}">{html.escape(note)}</td>' if k == 0 else ""
                cells += f'<tr><th scope="row">{name}</th><td>{ours}</td><td>{rival}</td>{last}</tr>'
        heads = ("Measure", "This run", "Trivial rival", "What the rival is")
        head = "".join(f'<th scope="col">{text}</th>' for text in heads)
        table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></div>'
        absent = [key for key in ("prediction", "probe", "spectrum", "cost", "planning") if not self.run.entry(key)]
        note = missing(f"Not measured, or not in eval.json: {', '.join(absent)}.") if absent else ""
        return (table if rows else "") + note

    def _prediction_rows(self) -> Iterator[Row]:
        for key, rival_key, name, note in PREDICTION:
            rivals = (
                self.run.numbers("prediction", rival_key)
                if rival_key
                else [1.0] * len(self.run.numbers("prediction", key))
            )
            for steps, ours, rival in zip(
                self.run.numbers("prediction", "horizon"), self.run.numbers("prediction", key), rivals, strict=False
            ):
                yield f"{name}, {_counted(steps, 'step')} ahead", _number(ours), _number(rival), note

    def _probe_rows(self) -> Iterator[Row]:
        for key, name in PROBES.items():
            ours = self.run.value("probe", key, "r2")
            if ours is not None:
                rival = self.run.value("probe", key, "random_r2")
                yield f"State R², {name}", _number(ours), _number(rival), "an encoder with random weights; 1 is perfect"
        pixels, ours = self.run.value("probe", "linear_pixels", "r2"), self.run.value("probe", "linear_flattened", "r2")
        if pixels is not None:
            yield "State R², linear, beside pixels", _number(ours), _number(pixels), "a linear probe of small pixels"

    def _class_rows(self) -> Iterator[Row]:
        if self.run.value("class_probe", "accuracy") is None:
            return
        ours = self._rate("class_probe", "accuracy", "ci95")
        fresh = self._rate("class_probe", "random_accuracy", "random_ci95")
        largest = _percent(self.run.value("class_probe", "largest_class"))
        name = "Class told by a linear probe (95% interval)"
        yield name, ours, fresh, "an encoder with random weights; higher is better"
        yield name, ours, largest, "naming the largest class every time"

    def _spectrum_rows(self) -> Iterator[Row]:
        for key, name, rival, note in SPECTRUM:
            value = self.run.value("spectrum", key)
            if value is not None:
                yield name, _number(value), _number(rival), note

    def _planning_rows(self) -> Iterator[Row]:
        for key, name in COSTS:
            value = self.run.value("cost", key)
            if value is not None:
                yield name, _number(value), _number(0.0), "a cost that knows nothing; 1 is a perfect order"
        if self.run.value("planning", "success_rate") is not None:
            ours = self._rate("planning", "success_rate", "ci95")
            rival = self._rate("planning", "random_success_rate", "random_ci95")
            count = self.run.value("planning", "episodes")
            note = f"a random policy on the same {_counted(count, 'start')}; higher is better"
            name = "Success in closed loop (95% interval)"
            yield name, ours, rival, note
            if self.run.value("planning", "straight_success_rate") is not None:
                straight = self._rate("planning", "straight_success_rate", "straight_ci95")
                yield name, ours, straight, "moving straight to the goal, seeing the true state, without a plan"
        for kind, words in STARTS.items():
            part = ("planning", "by_start", kind)
            if count := self.run.value(*part, "count"):
                ours = self._rate(*part, "success_rate", "ci95")
                rival = self._rate(*part, "random_success_rate", "random_ci95")
                name = f"Success of {_counted(count, 'start')} {words}"
                yield name, ours, rival, "a random policy on the same starts; the first two kinds flatter every policy"
        at_start = self.run.value("planning", "solved_at_start")
        if at_start is not None and not self.run.entry("planning", "by_start"):
            yield (
                "Episodes solved before the first action",
                _percent(at_start),
                "–",
                "no rival; these flatter every policy",
            )
        seconds = self.run.value("planning", "seconds_per_plan")
        if seconds is not None:
            yield "Seconds for a plan", _number(seconds), "–", "no rival; lower is better"

    def _rate(self, *keys: str) -> str:
        """Return a success rate with its interval as text: nested keys, the last two those of rate and interval."""
        *part, rate, interval = keys
        value, ends = self.run.value(*part, rate), self.run.interval(*part, interval)
        return _percent(value) + (f" ({_percent(ends[0])} to {_percent(ends[1])})" if ends else "")

    def _split(self) -> str:
        rows, absent = [], []
        for label, part, rate, interval in SPLIT:
            value = self.run.value(part, rate)
            if value is None:
                absent.append(label)
            else:
                rows.append((label, value, self.run.interval(part, interval) or (value, value)))
        note = missing(f"Not measured, or not in eval.json: success of {', '.join(absent)}.") if absent else ""
        if not rows:
            return note
        said = "; ".join(f"{label} {_percent(value)}" for label, value, _ in rows)
        picture = self.figures.bars(rows, name="split-bars", description=f"Success rates: {said}")
        whole, some = self.run.value("planning", "episodes"), self.run.value("cost", "split_episodes")
        counts = f"on {_counted(whole, 'episode')}, the first two on the first {_number(some, digits=0)} of them"
        return note + figure(
            picture,
            "Planner alone: the true state as cost, the true dynamics. Cost alone: the learnt cost, the true dynamics. "
            "Model: the learnt cost, the model's dynamics. The first bar that drops names the cause of a failure. "
            f"Measured {counts}; whiskers are 95% intervals.",
        )

    def _episodes(self) -> str:
        frames, goals = self.run.frames("episode_frames", 5), self.run.frames("episode_goal_frame", 4)
        solved, moments = self.run.array("episode_solved_at", 1), self.run.array("episode_plan_step", 1)
        library, index = self.run.frames("episode_library", 4), self.run.array("episode_imagined_nearest", 3)
        if frames is None or goals is None or solved is None or moments is None or library is None or index is None:
            return missing("No planned episodes: eval.npz is missing or has none.")
        alike = len({len(part) for part in (frames, goals, solved, index)}) == 1 and len(moments) == index.shape[1]
        if not alike or index.min() < 0 or index.max() >= len(library) or frames.shape[2:] != library.shape[1:]:
            return missing("No planned episodes: their arrays in eval.npz do not fit each other.")
        cards = []
        for i in range(min(len(frames), MOST_EXAMPLES)):
            steps = int(solved[i])  # negative where the goal was never reached
            way = frames[i] if steps < 0 else frames[i][: steps + 1]
            plans = library[index[i].astype(np.int64)]
            # The plan in force at each step; it is drawn by the frame that its last imagined step is nearest to.
            current = np.searchsorted(moments, np.arange(len(way)), side="right") - 1
            ends = plans[np.maximum(current, 0), -1]
            gap = np.full((*way.shape[:2], max(2, way.shape[2] // 16), 3), 128, dtype=np.uint8)
            played = np.concatenate([way, gap, ends], axis=2)
            words = f"episode {i + 1}"
            moving = image(
                self.figures.animation(played, milliseconds=FRAME_MILLISECONDS),
                f"{words}, played: on the left what happens, on the right where the present plan is imagined to end",
                reduced=self.figures.still(played[-1]),
            )
            row = (
                figure(self._still(way[0], f"{words}, start"), "start")
                + figure(moving, "now | imagined end of the plan")
                + figure(self._still(goals[i], f"{words}, goal"), "goal")
            )
            strip = "".join(
                self._still(frame, f"{words}, first plan, imagined step {k}")
                for k, frame in enumerate(plans[0], start=1)
            )
            outcome = f"the goal after {steps} environment steps" if steps >= 0 else "the goal was not reached"
            cards.append(
                f'<article class="episode"><h3>Episode {i + 1}: {outcome}</h3><div class="sides"><div>'
                f'<div class="row">{row}</div><p class="note">The path that the first plan imagines, step by step:</p>'
                f'<div class="row small">{strip}</div></div>{self._path(i, len(way))}</div></article>'
            )
        return (
            "<p>The first episodes of the closed loop, chosen by nothing else. An imagined step is a predicted "
            "representation; it is shown by the held-out frame whose representation is nearest.</p>"
            f'<div class="cards">{"".join(cards)}</div>'
        )

    def _path(self, i: int, length: int) -> str:
        """Draw an episode's way and imagined paths over the first two variables of the state that a probe reads."""
        states, goals = self.run.array("episode_states", 3), self.run.array("episode_goal_state", 2)
        imagined, moments = self.run.array("episode_imagined_states", 4), self.run.array("episode_plan_step", 1)
        names, readable = self.run.texts("state_names"), self.run.entry("probe", "r2_by_state")
        if states is None or goals is None or imagined is None or moments is None or not isinstance(readable, Mapping):
            return ""
        known = [(names.index(name), k) for k, name in enumerate(readable) if name in names]
        sizes = {len(names), states.shape[-1], goals.shape[-1]}
        if len(known) < 2 or len(sizes) > 1 or imagined.shape[-1] != len(readable):
            return ""
        if i >= min(len(states), len(goals), len(imagined)) or len(moments) != imagined.shape[1]:
            return ""
        (x, x_read), (y, y_read) = known[:2]
        axes = f"{names[x]} to the right, {names[y]} downwards"
        picture = self.figures.paths(
            states[i][:length, [x, y]],
            goals[i][[x, y]],
            imagined[i][moments < length][..., [x_read, y_read]],
            name=f"path{i}",
            description=f"Episode {i + 1}: the way taken, and the paths that plans imagine; {axes}",
        )
        return figure(picture, f"The way taken, and plans as a linear probe reads them; {axes}.")

    def _still(self, frame: NDArray[np.uint8], alt: str) -> str:
        return image(self.figures.still(frame), alt)

    def _rollouts(self) -> str:
        start, real = self.run.frames("rollout_start", 4), self.run.frames("rollout_real", 5)
        predicted, horizon = self.run.frames("rollout_nearest", 5), self.run.array("rollout_horizon", 1)
        if start is None or real is None or predicted is None or horizon is None:
            return missing("No rollouts: eval.npz is missing or has none.")
        if real.shape != predicted.shape or real.shape[:2] != (len(start), len(horizon)):
            return missing("No rollouts: their arrays in eval.npz do not fit each other.")
        ahead = [_counted(float(steps), "step") for steps in horizon]
        head = "".join(f'<th scope="col">{text}</th>' for text in ["", "now", *(f"+{text}" for text in ahead)])
        tables = []
        for i in range(min(len(real), MOST_EXAMPLES)):
            words = f"clip {i + 1}"
            rows = []
            for name, frames in (("real", real[i]), ("predicted", predicted[i])):
                now = f'<td rowspan="2">{self._still(start[i], f"{words}, now")}</td>' if name == "real" else ""
                cells = "".join(
                    f"<td>{self._still(frame, f'{words}, {name}, {text} ahead')}</td>"
                    for frame, text in zip(frames, ahead, strict=True)
                )
                rows.append(f'<tr><th scope="row">{name}</th>{now}{cells}</tr>')
            tables.append(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
        return (
            "<p>From the present frame and the actions, the model predicts representations so many model steps ahead. "
            "Below each real frame stands the held-out frame whose representation is nearest to the predicted one.</p>"
            f'<div class="wide clips">{"".join(tables)}</div>'
        )

    def _cost(self) -> str:
        name = self.run.entry("cost", "name")
        cost, gap = self.run.array(f"cost_{name}", 1), self.run.array("cost_gap", 1)
        if cost is None or gap is None or len(cost) != len(gap):
            return missing("No cost of frame pairs: eval.json or eval.npz is missing or has none.")
        picture = self.figures.spread(
            gap,
            cost,
            name="cost-curve",
            description=f"Planning cost of {len(gap)} pairs of frames over the steps between",
        )
        return figure(
            picture,
            f"The cost that planning minimises ({name}), for {len(gap)} pairs of held-out frames of one trajectory: "
            "median and middle half. It must rise with the steps in between: where it is flat, planning cannot steer.",
        )

    def _projection(self) -> str:
        points, states = self.run.array("projection", 2), self.run.array("projection_states", 2)
        if points is None or points.shape[1] != 2:
            return missing("No projection: eval.npz is missing or has none.")
        if states is None or len(states) != len(points):
            return missing("No projection: eval.npz has no true states to colour it by.")
        names, share = self.run.texts("state_names"), self.run.array("projection_share", 1)
        drawn = []
        for i, colour in enumerate(states.T):
            state = names[i] if i < len(names) else f"state {i + 1}"
            picture = self.figures.scatter(
                points, colour, name=f"projection{i}", description=f"{len(points)} frames coloured by {state}"
            )
            r2 = self.run.value("probe", "r2_by_state", state)
            drawn.append(
                figure(picture, f"Coloured by {state}" + (f" (linear R² {_number(r2)})." if r2 is not None else "."))
            )
        held = f", which hold {_percent(share.sum())} of the variance" if share is not None else ""
        return (
            f"<p>{len(points)} held-out frames on the first two principal components of their flattened tokens{held}. "
            f'Colours that run smoothly are a state that shows.</p><div class="grid">{"".join(drawn)}</div>'
        )

    def _spectrum(self) -> str:
        values = self.run.array("spectrum", 1)
        if values is None:
            return missing("No spectrum: eval.npz is missing or has none.")
        rank = _number(self.run.value("spectrum", "effective_rank"))
        picture = self.figures.spectrum(
            values, name="spectrum-curve", description=f"Spectrum of {len(values)} directions, effective rank {rank}"
        )
        return figure(
            picture,
            f"Share of the variance of held-out tokens along each of {len(values)} directions. The effective rank, "
            f"{rank}, is the number of directions of a flat spectrum with the same entropy.",
        )

    def _training(self) -> str:
        if not self.run.metrics:
            return missing("No curves: metrics.jsonl is missing or has no step.")
        drawn, absent = [], []
        for name, caption, keys, log in PANELS:
            series = [(key, *self.run.metrics[key]) for key in keys if key in self.run.metrics]
            absent += [key for key in keys if key not in self.run.metrics and key not in WITH_A_WEIGHT]
            if series:
                said = "; ".join(f"{key} from {y[0]:.3g} to {y[-1]:.3g}" for key, _, y in series)
                picture = self.figures.curves(series, name=f"{name}-curve", description=f"Curve: {said}", log=log)
                drawn.append(figure(picture, caption))
        note = missing(f"Not in metrics.jsonl: {', '.join(absent)}.") if absent else ""
        return f'<div class="grid">{"".join(drawn)}</div>{note}'

    def _settings(self) -> str:
        if not self.run.config:
            return missing("No settings: config.json is missing or holds no object.")
        settings = ((name, json.dumps(value, ensure_ascii=False)) for name, value in _flat(self.run.config))
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in settings
        )
        return f"<details><summary>Everything in config.json</summary><table><tbody>{rows}</tbody></table></details>"
