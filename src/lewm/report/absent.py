"""Why a part of the report has nothing to show, and which command makes it."""

import shlex

from lewm.envs import TASKS
from lewm.families.presets import FAMILIES
from lewm.report.run_files import RunFiles

NEED_ACTIONS = ("prediction", "probe", "cost", "pose_sensitivity", "planning", "split")


def why_not_measured(run: RunFiles, part: str) -> str:
    """Return the reason why a part of `eval.json` is empty, as half a sentence.

    Args:
        run: What the run folder holds.
        part: An entry of `eval.json`, or "split" for the planner alone and the cost alone.
    """
    if not run.evaluated:
        return f"eval.json is missing or broken; {_evaluate(run)} makes it"
    action = run.config.get("action")
    if isinstance(action, dict) and action.get("kind") == "none":
        if part in NEED_ACTIONS:
            return "this run was trained on images, which have no actions"
        if part == "class_probe":
            return "the images have no classes"
    if part != "planning" and is_policy(run):
        return "this run is a policy, of which the closed loop alone is measured"
    if part == "probe":
        return (
            "no variable of a state varies in the data"
            if run.entry("data", "state_names")
            else "the data has no states"
        )
    if part == "pose_sensitivity":
        if _no_simulator(run):
            return "it needs a task whose state can be set and drawn"
        task = run.entry("data", "task")
        if isinstance(task, str) and task in TASKS and not TASKS[task].pose:
            return f"the task {task} names no parts of a pose (Task.pose)"
    if part in ("planning", "split") and (reason := _no_simulator(run)):
        return reason
    if part == "split":
        return f"eval.split_episodes was 0; {_evaluate(run, '--eval.split-episodes 50')} measures it"
    return f"eval.json has none; {_evaluate(run)} measures it"


def why_not_drawn(run: RunFiles, part: str) -> str:
    """Return the reason why there are no arrays to draw a part from, as half a sentence."""
    if part == "planning" and is_policy(run):
        return "this run is a policy, which makes no plans"
    return _not_recorded(run) if run.entry(part) else why_not_measured(run, part)


def is_policy(run: RunFiles) -> bool:
    """Tell whether the run's model decides by itself, without predicting what comes of it."""
    model = run.config.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    return isinstance(family, str) and family in FAMILIES and not FAMILIES[family][0].plans


def _not_recorded(run: RunFiles) -> str:
    return f"eval.npz is missing, broken or of an earlier version; {_evaluate(run)} makes it"


def _no_simulator(run: RunFiles) -> str | None:
    """Say why success in closed loop cannot be told, or None if it can."""
    task, names = run.entry("data", "task"), run.entry("data", "state_names")
    instead = f"`lewm plan {shlex.quote(str(run.path))} --goal frame:0:10` plans once from a frame of the data"
    if not isinstance(task, str) or not isinstance(names, list):
        return None
    if task not in TASKS and is_policy(run):
        return f"there is no simulator of the task {task}, so nothing tells whether a goal is reached"
    if task not in TASKS:
        return (
            f"there is no simulator of the task {task}, so nothing tells whether a goal is reached; {instead}, and "
            "`lewm.evaluate_env` measures in an environment of your own"
        )
    if not names:
        return f"the data of {task} has no states, so nothing tells whether a goal is reached; {instead}"
    if tuple(names) != TASKS[task].state_names:
        return f"the states of the data are not those of {task}'s simulator, {', '.join(TASKS[task].state_names)}"
    return None


def _evaluate(run: RunFiles, *options: str) -> str:
    return f"`{' '.join(('lewm eval', shlex.quote(str(run.path)), *options))}`"
