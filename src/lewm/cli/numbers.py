"""The main numbers of an evaluation as rows of a table, each beside its trivial rival."""

from collections.abc import Mapping
from typing import Any

from lewm.cli.show import counted, number_text, rate_text, short_text

Row = tuple[str, str, str]
"""A measure, this run's number, and what a trivial rival gets."""
HEADS = ("measure", "this run", "trivial rival")
_STARTS = {
    "nothing": "at the goal already",
    "straight": "that moving straight solves",
    "hard": "that moving straight does not solve",
}


def number_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return the main numbers of an evaluation, each beside its trivial rival; what was not measured is left out."""
    prediction, spectrum, probe, cost = (results[key] for key in ("prediction", "spectrum", "probe", "cost"))
    if spectrum is None:  # a policy, which predicts nothing
        return [] if results["planning"] is None else planning_rows(results["planning"])
    if prediction is None:
        return _image_rows(results)
    rows: list[Row] = []
    for k, steps in enumerate(prediction["horizon"]):
        title = f"Error ratio, {counted(steps, 'step')} ahead"
        rows.append((title, number_text(prediction["error_ratio"][k]), "1.00 (copy or mean)"))
    for k, steps in enumerate(prediction["horizon"]):
        ours, copying = (number_text(prediction[name][k]) for name in ("centred_cosine", "copy_centred_cosine"))
        rows.append((f"Centred cosine, {counted(steps, 'step')} ahead", ours, f"{copying} (copy)"))
    rows += _spectrum_rows(spectrum)
    if probe is not None:
        rows.append(
            ("State R², linear probe", number_text(probe["r2"]), f"{number_text(probe['random_r2'])} (random encoder)")
        )
    rows.append(("Rank correlation of the cost", number_text(cost["rank_correlation"]), "0.00 (no order)"))
    rows += _pose_rows(results.get("pose_sensitivity"))
    if results["planning"] is not None:
        rows += planning_rows(results["planning"])
        for name in ("planner_alone", "cost_alone") if "split_episodes" in cost else ():
            rate = rate_text(cost[f"{name}_success"], cost[f"{name}_ci95"])
            count = counted(cost["split_episodes"], "episode")
            rows.append((f"{name.replace('_', ' ').capitalize()}, {count}", rate, ""))
    return rows


def _pose_rows(pose: Mapping[str, Any] | None) -> list[Row]:
    """Return what a change of each part of the pose is worth, beside pixels."""
    rows = []
    for part in [] if pose is None else pose["parts"]:
        ours, pixels = (short_text(part[name][0]) for name in ("latent", "pixels"))
        rows.append((f"Distance of {part['name']}, over random", ours, f"{pixels} (pixels)"))
    return rows


def _spectrum_rows(spectrum: Mapping[str, Any]) -> list[Row]:
    return [
        ("Effective rank", number_text(spectrum["effective_rank"]), "1.00 (collapse)"),
        ("Content share of the variance", number_text(spectrum["content_share"]), "0.00 (position only)"),
    ]


def _image_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return the numbers of a run on images, which predicts and plans nothing."""
    rows, told = _spectrum_rows(results["spectrum"]), results["class_probe"]
    if told is not None:
        ours, fresh = rate_text(told["accuracy"], told["ci95"]), rate_text(told["random_accuracy"], told["random_ci95"])
        rows.append((f"Class by a linear probe, {told['images']} images", ours, f"{fresh} (random encoder)"))
        rows.append(("", "", f"{told['largest_class']:.0%} (largest class)"))
    return rows


def planning_rows(planning: Mapping[str, Any]) -> list[Row]:
    ours = rate_text(planning["success_rate"], planning["ci95"])
    chance = rate_text(planning["random_success_rate"], planning["random_ci95"])
    planner = "Policy's" if planning["planner"] is None else planning["planner"].upper()
    by = f", {planning['protocol']}" if planning.get("protocol") else ""  # none of before there were protocols
    title = f"{planner} success{by}, {counted(planning['episodes'], 'episode')}"
    rows = [(title, ours, f"{chance} (random)")]
    if planning.get("by_start") is not None:  # on the lines of the success
        straight = rate_text(planning["straight_success_rate"], planning["straight_ci95"])
        rows.append(("", "", f"{straight} (moving straight)"))
    for key, why in (("presolved", "at the goal already"), ("starts_left_out", "not counted by the protocol")):
        if planning.get(key):
            rows.append((f"Starts left out, {why}", f"{planning[key]} of {planning['start_candidates']}", ""))
    if planning.get("by_start") is None:  # a region; or measured before starts were told apart
        at_start = f"{planning['solved_at_start']:.0%}"
        return [*rows, ("Solved before the first action", at_start, f"{at_start} (doing nothing)")]
    for kind, words in _STARTS.items():
        part = planning["by_start"][kind]
        if part["count"]:
            ours, chance = (
                rate_text(part[f"{policy}success_rate"], part[f"{policy}ci95"]) for policy in ("", "random_")
            )
            rows.append((f"Success of {counted(part['count'], 'start')} {words}", ours, f"{chance} (random)"))
    return rows


def verdicts(results: Mapping[str, Any]) -> str:
    """Return what the distance sees of the pose, where that was measured, and the verdict on the model below it."""
    pose = results.get("pose_sensitivity")
    return "\n".join([*([] if pose is None else [pose["verdict"]]), results["verdict"]])


def goal_rows(goal: Mapping[str, Any]) -> list[Row]:
    """Say how well the probe reads the variables of a goal that is given by the state."""
    return [(f"Held-out R² of {name}", number_text(r2), "0 (the mean)") for name, r2 in goal.get("r2", {}).items()]
