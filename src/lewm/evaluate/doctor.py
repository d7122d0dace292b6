"""What the numbers say together: whether the model learnt, and which part fails if it does not plan."""

from collections.abc import Mapping
from typing import Any

LEARNT_RATIO = 0.9
"""One-step error, as a share of the better trivial rival's, below which something was clearly learnt."""
COLLAPSED_RANK = 2.0
"""Effective rank below which representations are as good as one direction."""
COLLAPSED_STD = 1e-3
"""Standard deviation of features below which representations are as good as constant."""
POSITION_ONLY = 0.1
"""Content share below which tokens tell little but their position, where prediction failed as well."""
WORTHWHILE = 0.1
"""Difference of two success rates below which one policy counts as no better than another."""
READABLE = 0.5
"""R^2 from which the state counts as readable."""


def verdict(results: Mapping[str, Any]) -> tuple[bool, str]:
    """Judge an evaluation.

    A model has learnt when its representation is not collapsed, its one-step error is clearly below that of the better
    trivial rival, and, where it planned, the interval of its success lies above the random policy's. One of images has
    learnt when the interval of its probe's accuracy lies above a random encoder's, and above the largest class.

    Args:
        results: The content of `eval.json`; missing measurements are None.

    Returns:
        Whether the model learnt, and one sentence that says why, with the numbers it rests on.
    """
    failure = _representation_failure(results)
    if failure is None and results["prediction"] is None:
        return _judge_images(results)
    failure = failure or _prediction_failure(results)
    if failure is not None:
        return False, f"The model learnt nothing: {failure}."
    ratio = results["prediction"]["error_ratio"][0]
    good = f"one-step error is {ratio:.2f} of the better trivial rival's"
    probe = results.get("probe")
    if probe is not None and probe["r2"] is not None:
        good += f" and the state is {'' if probe['r2'] >= READABLE else 'hardly '}readable (R^2 {probe['r2']:.2f})"
    planning = results.get("planning")
    if planning is None:
        return True, f"The model learnt to predict: {good}; it was not tried in closed loop, for want of a known task."
    ours, chance = (
        _rate(planning, *keys) for keys in (("success_rate", "ci95"), ("random_success_rate", "random_ci95"))
    )
    reached = f"{planning['planner'].upper()} reaches {ours} of {planning['episodes']} goals, a random policy {chance}"
    if planning.get("straight_success_rate") is not None:  # to a region, no way is straight
        reached += f", moving straight {_rate(planning, 'straight_success_rate', 'straight_ci95')}"
    if planning["ci95"][0] > planning["random_ci95"][1]:
        return True, f"The model learnt: {good}, and {reached}{_weakest_part(results)}."
    return False, f"The model predicts but does not plan: {good}, yet {reached}; {_planning_failure(results)}."


def env_verdict(results: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Judge a controller in an environment of a user's own, beside a random policy.

    Args:
        results: What `evaluate_env` returns.

    Returns:
        Whether the controller is better, None where that cannot be told; and one sentence with the numbers.
    """
    ours, chance = (
        _rate(results, *keys) for keys in (("success_rate", "ci95"), ("random_success_rate", "random_ci95"))
    )
    low, high = results["difference_ci95"]
    does = "holds" if results["hold"] else "reaches"
    numbers = f"it {does} {ours} of {results['episodes']} goals, a random policy {chance}"
    if results["distinct"] < results["episodes"]:  # the intervals are of independent episodes
        numbers += f"; of these, {results['distinct']} differ in start or goal, so the intervals are too narrow"
    if low > 0:
        return True, f"The controller plans: {numbers}."
    if high < 0:
        return False, f"The controller does harm: {numbers}."
    if high < WORTHWHILE:
        return False, f"The controller does no better than chance: {numbers}, at most {high:.0%} more."
    count = results["episodes"]
    few = f"{count} episodes are" if count > 1 else "1 episode is"
    return None, f"{few} too few to tell: {numbers}; measure more, or easier goals."


def _judge_images(results: Mapping[str, Any]) -> tuple[bool, str]:
    """Judge a run on images, whose representation is not collapsed, by what a linear probe tells of their classes."""
    told, rank = results["class_probe"], results["spectrum"]["effective_rank"]
    if told is None:
        return False, (
            f"Whether the encoder learnt cannot be told: its representation has not collapsed (effective rank "
            f"{rank:.1f}), but the images have no classes."
        )
    ours, fresh = (_rate(told, *keys) for keys in (("accuracy", "ci95"), ("random_accuracy", "random_ci95")))
    numbers = (
        f"a linear probe tells the class of {ours} of {told['images']} held-out images, with a random encoder {fresh}, "
        f"and the largest class is {told['largest_class']:.0%}"
    )
    if told["ci95"][0] > max(told["random_ci95"][1], told["largest_class"]):
        return True, f"The encoder learnt: {numbers}."
    return False, f"Nothing shows that the encoder learnt: {numbers}; train longer, or measure on more images."


def _rate(numbers: Mapping[str, Any], rate: str, interval: str) -> str:
    low, high = numbers[interval]
    return f"{numbers[rate]:.0%} [{low:.0%}, {high:.0%}]"


def _representation_failure(results: Mapping[str, Any]) -> str | None:
    spectrum = results["spectrum"]
    rank, std = spectrum["effective_rank"], spectrum["feature_std"]
    if rank is None or rank < COLLAPSED_RANK or (std is not None and std < COLLAPSED_STD):
        told = "not finite" if rank is None else f"{rank:.1f}"
        return f"its representation collapsed (effective rank {told}); raise loss.weight"
    return None


def _prediction_failure(results: Mapping[str, Any]) -> str | None:
    prediction = results["prediction"]
    ratio, step = prediction["error_ratio"][0], prediction["horizon"][0]
    if ratio is None:
        return "a trivial rival makes no error at all, so frames never change or are all represented alike"
    if ratio < LEARNT_RATIO:
        return None
    share = results["spectrum"]["content_share"]
    if share is not None and share < POSITION_ONLY:
        return (
            f"its tokens tell little but their position (content is {share:.0%} of their variance) and its error is "
            f"{ratio:.2f} of the better trivial rival's; centre the regulariser by position or apply it to whole frames"
        )
    copying = prediction["copy_error"][0] <= prediction["mean_error"][0]
    rival = "copying the present frame" if copying else "predicting each position's mean"
    return (
        f"at {step} step{'s' if step > 1 else ''} its error is {ratio:.2f} of that of {rival}; train longer, or look "
        "at the learning rate and at whether whole frames are seen in training"
    )


def _planning_failure(results: Mapping[str, Any]) -> str:
    """Name the first part that does not do better than chance: planner, then cost, then model."""
    cost, chance = results["cost"], results["planning"]["random_ci95"][1]
    if cost.get("planner_alone_success") is None:
        return "planner, cost and model were not told apart"
    alone, latent = f"planner alone {cost['planner_alone_success']:.0%}", f"cost alone {cost['cost_alone_success']:.0%}"
    if cost["planner_alone_ci95"][0] <= chance:
        return f"the planner fails: {alone}; give it more candidates, iterations or another horizon"
    correlation = cost["rank_correlation"]
    ordering = "" if correlation is None else f", rank correlation with steps to go {correlation:.2f}"
    if cost["cost_alone_ci95"][0] <= chance:
        return f"the cost fails: {alone}, {latent}{ordering}"
    return f"the model's rollouts fail: {alone}, {latent}{ordering}"


def _weakest_part(results: Mapping[str, Any]) -> str:
    """Say where the remaining failures come from, when the split was measured."""
    cost = results["cost"]
    if cost.get("planner_alone_success") is None:
        return ""
    alone, latent, rate = (cost[f"{part}_success"] for part in ("planner_alone", "cost_alone", "model"))
    losses = {"the planner": 1.0 - alone, "the cost": alone - latent, "the model's rollouts": latent - rate}
    worst = max(losses, key=losses.__getitem__)
    split = f"planner alone {alone:.0%}, cost alone {latent:.0%}"
    return f" ({split}; most of the rest is lost to {worst})" if losses[worst] > 0.05 else f" ({split})"
