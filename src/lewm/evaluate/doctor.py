"""What the numbers say together: whether the model learnt, and which part fails if it does not plan."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lewm.evaluate.closed_loop import newcombe_interval
from lewm.evaluate.telling import (
    FEWEST_EPISODES,
    episodes_to_tell,
    episodes_to_tell_ratio,
    policies_told_apart,
    told_apart,
)

LEARNT_RATIO = 0.9
"""One-step error, as a share of the better trivial rival's, below which something was clearly learnt."""
COLLAPSED_RANK = 2.0
"""Effective rank below which representations are as good as one direction."""
COLLAPSED_STD = 1e-3
"""Standard deviation of features below which representations are as good as constant."""
POSITION_ONLY = 0.1
"""Content share below which tokens tell little but their position, where prediction failed as well."""
READABLE = 0.5
"""R^2 from which the state counts as readable."""


def verdict(results: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Judge an evaluation.

    A model has learnt when its representation is not collapsed, its one-step error is clearly below that of the better
    trivial rival, and, where it planned, the interval of its success lies above the random policy's. One of images has
    learnt when the interval of its probe's accuracy lies above a random encoder's, and above the largest class. A
    policy, which does not predict, has learnt when it reaches more goals than the random one.

    Args:
        results: The content of `eval.json`; missing measurements are None.

    Returns:
        Whether the model learnt, None where too little was measured to tell, and one sentence that says why, with the
        numbers it rests on. A second one names the parts of the pose that the distance is blind to, if there are any.
    """
    learnt, sentence = _verdict(results)
    blind = (results.get("pose_sensitivity") or {}).get("blind")
    return learnt, f"{sentence} Its distance is blind to {_listed(blind)}." if blind else sentence


def _verdict(results: Mapping[str, Any]) -> tuple[bool | None, str]:
    if results["spectrum"] is None:
        return _judge_policy(results["planning"])
    failure = _representation_failure(results)
    if failure is None and results["prediction"] is None:
        return _judge_images(results)
    few = None if failure else _too_few_to_predict(results)
    failure = failure or (None if few else _prediction_failure(results))
    if failure is not None:
        return False, f"The model learnt nothing: {failure}."
    good = _prediction_numbers(results)
    planning = results.get("planning")
    if planning is None:
        if few is not None:
            return None, f"{few[0]} whether the model learnt: {good}; {few[1]}."
        return True, f"The model learnt to predict: {good}; it was not tried in closed loop, for want of a known task."
    told = policies_told_apart(planning)
    reached = _reached(planning)
    if told == "better":  # also where the error alone tells too little
        return True, f"The model learnt: {good}, and {reached}{_weakest_part(results)}."
    if few is not None:
        return None, f"{few[0]} whether the model learnt: {good}, and {reached}; {few[1]}."
    if told is None:
        return None, (
            f"{_few(planning['episodes'])} whether the model plans: {good}, and {reached}; {_more_episodes(planning)}."
        )
    return False, f"The model predicts but does not plan: {good}, yet {reached}; {_planning_failure(results)}."


def pose_verdict(pose: Mapping[str, Any]) -> str:
    """Say in one sentence which part of the pose the distance of representations is blind to, or tells apart the least.

    Args:
        pose: The `pose_sensitivity` part of `eval.json`.
    """
    seen = [part for part in pose["parts"] if part["weight"] is not None]
    if not seen:
        return "Whether the distance is blind to a part of the pose cannot be told: no change moves the representation."
    best, least = (choose(seen, key=lambda part: part["weight"]) for choose in (max, min))
    if pose["blind"]:
        weighs = "weighs" if len(pose["blind"]) == 1 else "weigh"
        told = [f"{part['weight']:.1%}" for part in seen if part["name"] in pose["blind"]]
        return (
            f"The distance is blind to {_listed(pose['blind'])}: changed by the tolerance of success, this {weighs} "
            f"{_listed(told)} of what {best['name']} does, at most."
        )
    if len(seen) == 1:
        return f"The distance sees the pose: changed by the tolerance of success, {_worth(best)} of {_RANDOM}."
    return (
        f"The distance sees every part of the pose: changed by the tolerance of success, {_worth(best)} of {_RANDOM}, "
        f"the most, and {_worth(least)}, the least."
    )


_RANDOM = "the squared distance of two random frames"


def _worth(part: Mapping[str, Any]) -> str:
    """Say what a part's tolerance of success is worth."""
    step = f"{math.degrees(part['step']):.3g} degrees" if part["angle"] else f"{part['step']:.3g}"
    return f"{part['name']} ({step}) gives {part['latent'][0]:.2g}"


def _listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def planning_verdict(planning: Mapping[str, Any]) -> str:
    """Say in one sentence what success in closed loop tells of planning, beside a random policy's.

    Args:
        planning: The `planning` part of `eval.json`.
    """
    told, reached = policies_told_apart(planning), _reached(planning)
    if told is None:
        count = _few(planning["episodes"])
        return f"{count} whether the model plans better than chance: {reached}; {_more_episodes(planning)}."
    what = {"better": "plans", "worse": "does harm", "no better": "does no better than chance"}
    return f"The model {what[told]}: {reached}."


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
    does = "holds" if results["hold"] else "reaches"
    numbers = f"it {does} {ours} of {results['episodes']} goals, a random policy {chance}"
    if results["distinct"] < results["episodes"]:  # the intervals are of independent episodes
        numbers += f"; of these, {results['distinct']} differ in start or goal, so the intervals are too narrow"
    told = policies_told_apart(results)
    if told == "better":
        return True, f"The controller plans: {numbers}."
    if told == "worse":
        return False, f"The controller does harm: {numbers}."
    if told == "no better":
        most = results["difference_ci95"][1]
        return False, f"The controller does no better than chance: {numbers}, at most {most:.0%} more."
    count = _few(results["episodes"])
    return None, f"{count} whether the controller does better than chance: {numbers}; {_more_episodes(results)}."


def _reached(planning: Mapping[str, Any]) -> str:
    """Return what was reached in closed loop, beside the rivals."""
    ours, chance = (
        _rate(planning, *keys) for keys in (("success_rate", "ci95"), ("random_success_rate", "random_ci95"))
    )
    who = "it" if planning["planner"] is None else planning["planner"].upper()
    by = f" by the {planning['protocol']} protocol" if planning.get("protocol") else ""
    reached = f"{who} reaches {ours} of {planning['episodes']} goals{by}, a random policy {chance}"
    if planning.get("straight_success_rate") is not None:  # to a region, no way is straight
        reached += f", moving straight {_rate(planning, 'straight_success_rate', 'straight_ci95')}"
    return reached


def _prediction_numbers(results: Mapping[str, Any]) -> str:
    """Return what was measured of predictions and of the state that can be read."""
    prediction = results["prediction"]
    ratio, interval = prediction["error_ratio"][0], prediction.get("error_ratio_ci95", [None])[0]
    good = f"one-step error is {_share(ratio, interval)} the better trivial rival's"
    probe = results.get("probe")
    if probe is None or probe["r2"] is None:
        return good
    count = results["data"]["episodes"]["held_out"]
    if count < FEWEST_EPISODES:
        return f"{good} and the state is read with an R^2 of {probe['r2']:.2f}, of {_counted(count)}"
    return f"{good} and the state is {'' if probe['r2'] >= READABLE else 'hardly '}readable (R^2 {probe['r2']:.2f})"


def _share(ratio: float, interval: Sequence[float | None] | None = None) -> str:
    """Write a ratio, with its interval, so that what it is measured by can follow: 0.03 of, or 3,869 times."""
    low, high = (None, None) if interval is None else interval
    among = "" if low is None or high is None else f" [{_plain(low)}, {_plain(high)}]"
    return f"{_plain(ratio)}{among} {'of' if ratio < 1 else 'times'}"


def _plain(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def _too_few_to_predict(results: Mapping[str, Any]) -> tuple[str, str] | None:
    """Say that an error is of too few episodes to tell on which side of `LEARNT_RATIO` it is, and what would tell."""
    prediction = results["prediction"]
    ratio, interval = prediction["error_ratio"][0], prediction.get("error_ratio_ci95", [None])[0]
    if ratio is None or interval is None:  # no rival errs; or measured before there were intervals
        return None
    count = prediction["episodes"]
    few = f"{_counted(count)} {'is' if count == 1 else 'are'} too few to tell"
    there = sum(results["data"]["episodes"].values())
    if None in interval:
        return few, _hold_out(FEWEST_EPISODES, there)
    if (ratio < LEARNT_RATIO) == (interval[1 if ratio < LEARNT_RATIO else 0] < LEARNT_RATIO):
        return None
    enough = episodes_to_tell_ratio(ratio, interval, LEARNT_RATIO, count)
    if enough is None:
        return few, "no number within reach would tell"
    return few, f"about {enough} would tell, if they are alike: {_hold_out(enough, there)}"


def _hold_out(count: int, there: int) -> str:
    """Say how a new training holds out so many of the episodes that are there."""
    share = math.ceil(100 * count / there) / 100
    if share > 0.5:
        return "collect more episodes and train again"
    return f"train again with more held out (--data.held-out {share:g})"


def _few(count: int) -> str:
    return f"{count} episodes are too few to tell" if count > 1 else "1 episode is too few to tell"


def _counted(count: int) -> str:
    return f"{count} held-out episode{'' if count == 1 else 's'}"


def _more_episodes(planning: Mapping[str, Any]) -> str:
    return _would_tell(planning["success_rate"], planning["random_success_rate"], planning["episodes"])


def _would_tell(rate: float, other: float, count: int) -> str:
    """Say how many would tell two rates apart that were measured on so many."""
    enough = episodes_to_tell(rate, other, count)
    return "no number within reach would tell" if enough is None else f"about {enough} would tell, if rates stay so"


def _judge_policy(planning: Mapping[str, Any] | None) -> tuple[bool | None, str]:
    """Judge a policy, of which the closed loop alone is measured."""
    if planning is None:
        return (
            None,
            "Whether the policy learnt cannot be told: it was not tried in closed loop, for want of a known task.",
        )
    told, reached = policies_told_apart(planning), _reached(planning)
    if told is None:
        count = _few(planning["episodes"])
        return None, f"{count} whether the policy learnt: {reached}; {_more_episodes(planning)}."
    return told == "better", f"The policy {'learnt' if told == 'better' else 'learnt nothing'}: {reached}."


def _judge_images(results: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Judge a run on images, whose representation is not collapsed, by what a linear probe tells of their classes."""
    told, rank = results["class_probe"], results["spectrum"]["effective_rank"]
    if told is None:
        return None, (
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
    rival, interval = max(
        (told["random_accuracy"], told["random_ci95"]), (told["largest_class"], [told["largest_class"]] * 2)
    )
    if told_apart(told["accuracy"], told["ci95"], rival, interval) in (None, "better"):
        return None, (
            f"{told['images']} images are too few to tell whether the encoder learnt: {numbers}; "
            f"{_would_tell(told['accuracy'], rival, told['images'])}."
        )
    return False, f"Nothing shows that the encoder learnt: {numbers}; train longer."


def _rate(numbers: Mapping[str, Any], rate: str, interval: str) -> str:
    low, high = numbers[interval]
    return f"{numbers[rate]:.0%} [{low:.0%}, {high:.0%}]"


def _representation_failure(results: Mapping[str, Any]) -> str | None:
    spectrum = results["spectrum"]
    rank, std = spectrum["effective_rank"], spectrum["feature_std"]
    remedy = "train again with a larger --model.regulariser-weight, where the family has it"
    if rank is None or rank < COLLAPSED_RANK:
        told = "not finite" if rank is None else f"{rank:.1f}"
        return f"its representation collapsed (effective rank {told}); {remedy}"
    if std is not None and std < COLLAPSED_STD:
        return f"its representation collapsed (standard deviation of a feature {std:.1g}); {remedy}"
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
            f"{_share(ratio)} the better trivial rival's; train again with "
            "--model.centre position or --model.apply-to frame"
        )
    copying = prediction["copy_error"][0] <= prediction["mean_error"][0]
    rival = "copying the present frame" if copying else "predicting each position's mean"
    return (
        f"at {step} step{'s' if step > 1 else ''} its error is {_share(ratio)} that of {rival}; train again with "
        "more --train.steps or another --train.learning-rate, and see whether whole frames are seen in training"
    )


def _planning_failure(results: Mapping[str, Any]) -> str:
    """Name the first part that does not do better than chance: planner, then cost, then model."""
    cost, planning = results["cost"], results["planning"]
    if cost.get("planner_alone_success") is None:
        return "planner, cost and model were not told apart"
    alone, latent = f"planner alone {cost['planner_alone_success']:.0%}", f"cost alone {cost['cost_alone_success']:.0%}"
    chance = planning["random_success_rate"], planning["random_ci95"]
    planner, known = (
        told_apart(cost[f"{part}_success"], cost[f"{part}_ci95"], *chance) for part in ("planner_alone", "cost_alone")
    )
    if planner in ("worse", "no better"):
        return (
            f"the planner fails: {alone}; give more --plan.candidates or --plan.iterations, or another --plan.horizon"
        )
    correlation = cost["rank_correlation"]
    ordering = "" if correlation is None else f", rank correlation with steps to go {correlation:.2f}"
    if planner is None or known is None:
        return f"{_few(cost['split_episodes'])} which part fails: {alone}, {latent}{ordering}"
    part = "the model's rollouts fail" if known == "better" else "the cost fails"
    return f"{part}: {alone}, {latent}{ordering}"


def _weakest_part(results: Mapping[str, Any]) -> str:
    """Say where the remaining failures come from, when the three-way test was made."""
    cost = results["cost"]
    if cost.get("planner_alone_success") is None:
        return ""
    alone, latent, rate = (cost[f"{part}_success"] for part in ("planner_alone", "cost_alone", "model"))
    losses = {"the planner": 1.0 - alone, "the cost": alone - latent, "the model's rollouts": latent - rate}
    worst = max(losses, key=losses.__getitem__)
    split, count = f"planner alone {alone:.0%}, cost alone {latent:.0%}", cost["split_episodes"]
    if losses[worst] <= 0.05:
        return f" ({split})"
    solved = [count, *(round(share * count) for share in (alone, latent, rate))]
    before = dict(zip(losses, itertools.pairwise(solved), strict=True))[worst]
    if newcombe_interval(before[0], count, before[1], count)[0] <= 0.0:
        return f" ({split}; {_few(count)} to what the rest is lost)"
    return f" ({split}; most of the rest is lost to {worst})"
