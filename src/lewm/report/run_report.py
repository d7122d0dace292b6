"""One self-contained `report.html` from what a run folder holds.

The page has a verdict, every number beside its trivial rival, and the pictures behind them. It loads nothing from
elsewhere and runs no script. A part that is missing is replaced by a sentence that says so: a run that was never
evaluated still gets its curves. Every text from the run folder is taken as untrusted and escaped.
"""

import html
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.evaluate.panels import compose
from lewm.evaluate.words import counted, number, outcome, percent
from lewm.files import check_file, write_text
from lewm.report.absent import is_policy, why_not_drawn, why_not_measured
from lewm.report.page import figure, image, missing, render
from lewm.report.report_numbers import numbers_table
from lewm.report.report_pose import pose_table
from lewm.report.run_files import RunFiles

NAME = "report.html"
MOST_EXAMPLES = 6
FRAME_MILLISECONDS = 100
SPLIT = (
    ("planner alone", "cost", "planner_alone_success", "planner_alone_ci95"),
    ("cost alone", "cost", "cost_alone_success", "cost_alone_ci95"),
    ("model", "planning", "success_rate", "ci95"),
)
RIVALS = (
    ("moving straight", "planning", "straight_success_rate", "straight_ci95"),
    ("random policy", "planning", "random_success_rate", "random_ci95"),
)
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


def write_report(run: str | Path) -> Path:
    """Write `report.html` into a run folder, from its config.json, metrics.jsonl, eval.json and eval.npz.

    Args:
        run: Run folder; any of the four files may be missing.

    Returns:
        Path of the report.

    Raises:
        ValueError: If there is no such folder, or the report cannot be written there, or the packages that draw the
            figures are not installed.
        OSError: If the disk is full; an earlier report is kept.
    """
    run = Path(run)
    if not run.is_dir():
        raise ValueError(f"run={run}: no such folder; give a run folder, as made by lewm train")
    if (run / "meta.json").is_file() and not (run / "config.json").is_file():
        raise ValueError(f"run={run}: is a store, and no run; `lewm check {run}` writes its page")
    check_file(run / NAME, "run")
    try:
        from lewm.report import figures  # matplotlib takes a second to import and is not installed everywhere
    except ModuleNotFoundError as error:
        raise ValueError(f"report: {error.name} is not installed; pip install 'lewm[report]'") from error
    page = _Page(RunFiles(run), figures).render()
    write_text(run / NAME, page)
    return run / NAME


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
            ("pose", "What the distance sees", pose_table(self.run)),
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
        } | ({} if self.run.spec is None else self.run.spec.in_words())
        listed = "".join(
            f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>"
            for name, value in facts.items()
            if value is not None
        )
        verdict = self.run.entry("verdict")
        if isinstance(verdict, str) and verdict:
            learnt = self.run.entry("learnt")
            kind = "good" if learnt is True else "open" if learnt is None else "bad"
            banner = f'<p class="verdict {kind}">{html.escape(verdict)}</p>'
        else:
            banner = missing(f"There is no verdict: {why_not_measured(self.run, 'verdict')}.")
        return f"<header><h1>World model report</h1><dl>{listed}</dl>{banner}</header>"

    def _numbers(self) -> str:
        return numbers_table(self.run) + self._not_measured()

    def _not_measured(self) -> str:
        """Say what the table lacks, and why, each reason once."""
        images = self.run.entry("class_probe") is not None
        parts = ("prediction", "class_probe" if images else "probe", "spectrum", "cost", "planning")
        reasons: dict[str, list[str]] = {}
        for part in parts:
            if not self.run.entry(part):
                reasons.setdefault(why_not_measured(self.run, part), []).append(part)
        return "".join(missing(f"Not measured: {', '.join(names)}: {reason}.") for reason, names in reasons.items())

    def _split(self) -> str:
        rows, absent = [], []
        for label, part, rate_key, interval in (*SPLIT, *RIVALS):
            value = self.run.value(part, rate_key)
            if value is None:
                absent.append(label)
            else:
                ends = self.run.interval(part, interval) or (value, value)
                rows.append((label, value, ends, (label, part, rate_key, interval) in RIVALS))
        if not rows:
            return missing(f"No closed loop: {why_not_measured(self.run, 'planning')}.")
        note = ""
        if alone := [label for label in absent if label.endswith("alone")]:
            note += missing(f"Not measured: {', '.join(alone)}: {why_not_measured(self.run, 'split')}.")
        if whole := [label for label in absent if label not in alone]:
            note += missing(f"Not in eval.json: {', '.join(whole)}; to a goal that is a region no way is straight.")
        said = "; ".join(f"{label} {percent(value)}" for label, value, *_ in rows)
        picture = self.figures.bars(rows, name="split-bars", description=f"Success rates: {said}")
        count, some = self.run.value("planning", "episodes"), self.run.value("cost", "split_episodes")
        told = "" if is_policy(self.run) else "Model: the learnt cost, the model's dynamics. "
        if not alone:
            told = (
                "Planner alone: the true state as cost, the true dynamics. Cost alone: the learnt cost, the true "
                f"dynamics. {told}The first of these bars that drops names the cause of a failure. "
            )
        if "moving straight" not in absent:
            told += "Moving straight sees the true state and plans nothing: starts that it solves need no planning. "
        counts = f"Measured on {counted(count, 'episode')}" if count is not None else "Measured in closed loop"
        if isinstance(protocol := self.run.entry("planning", "protocol"), str):
            counts += f" by the {protocol} protocol"
        if some is not None and not alone:
            counts += f", planner alone and cost alone on the first {number(some, digits=0)} of them"
        return note + figure(picture, f"{told}{counts}; whiskers are 95% intervals.")

    def _episodes(self) -> str:
        frames, goals = self.run.frames("episode_frames", 5), self.run.frames("episode_goal_frame", 4)
        solved, moments = self.run.array("episode_solved_at", 1), self.run.array("episode_plan_step", 1)
        library, index = self.run.frames("episode_library", 4), self.run.array("episode_imagined_nearest", 3)
        if frames is None or goals is None or solved is None or moments is None or library is None or index is None:
            return missing(f"No planned episodes: {why_not_drawn(self.run, 'planning')}.")
        alike = len({len(part) for part in (frames, goals, solved, index)}) == 1 and len(moments) == index.shape[1]
        if not alike or index.min() < 0 or index.max() >= len(library) or frames.shape[2:] != library.shape[1:]:
            return missing("No planned episodes: their arrays in eval.npz do not fit each other.")
        cost = self.run.array("episode_cost", 2)
        cards = []
        for i in range(min(len(frames), MOST_EXAMPLES)):
            steps, budget = int(solved[i]), frames.shape[1] - 1  # negative where the goal was never reached
            way = frames[i] if steps < 0 else frames[i][: steps + 1]
            plans = library[index[i].astype(np.int64)]
            # The plan in force at each step; it is drawn by the frame that its last imagined step is nearest to.
            current = np.searchsorted(moments, np.arange(len(way)), side="right") - 1
            ends = plans[np.maximum(current, 0), -1]
            costs = cost[i] if cost is not None and cost.shape == frames.shape[:2] else None
            played = self._played(way, ends, costs, steps, budget)
            words = f"episode {i + 1}"
            moving = image(
                self.figures.animation(played, milliseconds=FRAME_MILLISECONDS),
                f"{words}, played: on the left what happens, on the right where the present plan is imagined to end",
                reduced=self.figures.still(played[-1]),
            )
            row = figure(self._still(way[0], f"{words}, start"), "start")
            row += figure(self._still(goals[i], f"{words}, goal"), "goal")
            strip = "".join(
                self._still(frame, f"{words}, first plan, imagined step {k}")
                for k, frame in enumerate(plans[0], start=1)
            )
            cards.append(
                f'<article class="episode"><h3>Episode {i + 1}: {outcome(steps, budget)}</h3><div class="sides">'
                f'<div class="row">{row}<div class="played">{moving}</div></div>{self._path(i, way)}'
                f'<div class="strip"><p class="note">The path that the first plan imagines, step by step:</p>'
                f'<div class="row small">{strip}</div></div></div></article>'
            )
        return (
            "<p>The first episodes of the closed loop, chosen by nothing else. An imagined step is a predicted "
            "representation; it is shown by the held-out frame whose representation is nearest. The cost is what "
            "planning minimises, of being at the present frame.</p>"
            f'<div class="cards">{"".join(cards)}</div>'
        )

    def _played(
        self,
        way: NDArray[np.uint8],
        ends: NDArray[np.uint8],
        costs: NDArray[np.float64] | None,
        solved_at: int,
        budget: int,
    ) -> list[NDArray[np.uint8]]:
        """Draw an episode step by step: what happens beside where the plan in force is imagined to end."""
        pictures = []
        for step, (now, end) in enumerate(zip(way, ends, strict=True)):
            told = f"step {step}" + (f", cost {number(float(costs[step]))}" if costs is not None else "")
            last = step == len(way) - 1
            notes, tone = (told, outcome(solved_at, budget) if last else ""), "plain"
            if last:
                tone = "good" if solved_at >= 0 else "bad"
            pictures.append(compose((("now", now), ("imagined end of the plan", end)), notes, tone=tone))
        return pictures

    def _path(self, i: int, way: NDArray[np.uint8]) -> str:
        """Draw an episode's way and imagined paths on its first frame, or over two variables that a probe reads."""
        moments = self.run.array("episode_plan_step", 1)
        places, goals = self.run.array("episode_place", 3), self.run.array("episode_goal_place", 2)
        imagined = self.run.array("episode_imagined_place", 4)
        if moments is None:
            return ""
        if places is None or goals is None or imagined is None:
            return self._state_path(i, len(way), moments)
        fit = places.shape[-1] == goals.shape[-1] == imagined.shape[-1] == 2 and places.shape[1] >= len(way)
        if not fit or i >= min(len(places), len(goals), len(imagined)) or len(moments) != imagined.shape[1]:
            return ""
        picture = self.figures.paths(
            places[i][: len(way)],
            goals[i],
            imagined[i][moments < len(way)],
            frame=way[0],
            name=f"path{i}",
            description=f"Episode {i + 1}: the way taken, and the paths that plans imagine, on the first frame",
        )
        return figure(picture, "On the first frame: the way of what the actions move, and plans as a probe reads them.")

    def _state_path(self, i: int, length: int, moments: NDArray[np.float64]) -> str:
        """Draw the paths over the first two variables of the state that a probe reads, for want of places."""
        states, goals = self.run.array("episode_states", 3), self.run.array("episode_goal_state", 2)
        imagined, names = self.run.array("episode_imagined_states", 4), self.run.texts("state_names")
        readable = self.run.entry("probe", "r2_by_state")
        if states is None or goals is None or imagined is None or not isinstance(readable, Mapping):
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
            frame=None,
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
            return missing(f"No rollouts: {why_not_drawn(self.run, 'prediction')}.")
        if real.shape != predicted.shape or real.shape[:2] != (len(start), len(horizon)):
            return missing("No rollouts: their arrays in eval.npz do not fit each other.")
        ahead = [counted(float(steps), "step") for steps in horizon]
        clips = []
        for i in range(min(len(real), MOST_EXAMPLES)):
            words = f"clip {i + 1}"
            columns = ["<div><span></span><span>real</span><span>predicted</span></div>"]
            columns.append(f'<div class="now"><span>now</span>{self._still(start[i], f"{words}, now")}</div>')
            for k, text in enumerate(ahead):
                pair = (("real", real[i, k]), ("predicted", predicted[i, k]))
                stills = "".join(self._still(frame, f"{words}, {name}, {text} ahead") for name, frame in pair)
                columns.append(f"<div><span>+{text}</span>{stills}</div>")
            clips.append(f'<div class="clip">{"".join(columns)}</div>')
        return (
            "<p>From the present frame and the actions, the model predicts representations so many model steps ahead. "
            "Below each real frame stands the held-out frame whose representation is nearest to the predicted one.</p>"
            f'<div class="clips">{"".join(clips)}</div>'
        )

    def _cost(self) -> str:
        name = self.run.entry("cost", "name")
        cost, gap = self.run.array(f"cost_{name}", 1), self.run.array("cost_gap", 1)
        if cost is None or gap is None or len(cost) != len(gap):
            return missing(f"No cost of frame pairs: {why_not_drawn(self.run, 'cost')}.")
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
            return missing(f"No projection: {why_not_drawn(self.run, 'spectrum')}.")
        names, share = self.run.texts("state_names"), self.run.array("projection_share", 1)
        held = f", which hold {percent(share.sum())} of the variance" if share is not None else ""
        what = f"{len(points)} held-out frames on the first two principal components of their flattened tokens{held}."
        if states is None or len(states) != len(points):
            picture = self.figures.scatter(points, None, name="projection0", description=f"{len(points)} frames")
            return f"<p>{what}</p>{figure(picture, 'Not coloured: there are no states of these frames.')}"
        drawn = []
        for i, colour in enumerate(states.T):
            state = names[i] if i < len(names) else f"state {i + 1}"
            picture = self.figures.scatter(
                points, colour, name=f"projection{i}", description=f"{len(points)} frames coloured by {state}"
            )
            r2 = self.run.value("probe", "r2_by_state", state)
            drawn.append(
                figure(picture, f"Coloured by {state}" + (f" (linear R² {number(r2)})." if r2 is not None else "."))
            )
        return (
            f'<p>{what} Colours that run smoothly are a state that shows.</p><div class="grid">{"".join(drawn)}</div>'
        )

    def _spectrum(self) -> str:
        values = self.run.array("spectrum", 1)
        if values is None:
            return missing(f"No spectrum: {why_not_drawn(self.run, 'spectrum')}.")
        rank = number(self.run.value("spectrum", "effective_rank"))
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
            return missing("No curves: metrics.jsonl is missing or has no step; `lewm train` writes it.")
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
            return missing("No settings: config.json is missing or holds no object; `lewm train` writes it.")
        settings = ((name, json.dumps(value, ensure_ascii=False)) for name, value in _flat(self.run.config))
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in settings
        )
        return f"<details><summary>Everything in config.json</summary><table><tbody>{rows}</tbody></table></details>"
