"""The verdict: one sentence for each way to fail, and for success."""

import copy
import re
from typing import Any

import pytest

from lewm.evaluate.closed_loop import newcombe_interval, wilson_interval
from lewm.evaluate.doctor import env_verdict, planning_verdict, verdict

GOOD: dict[str, Any] = {
    "data": {"episodes": {"train": 90, "held_out": 10}},
    "spectrum": {"effective_rank": 12.0, "content_share": 0.5, "condition_number": 9.0, "feature_std": 1.0},
    "prediction": {"horizon": [1, 2], "error_ratio": [0.2, 0.4], "copy_error": [1.0, 1.5], "mean_error": [2.0, 2.0]},
    "probe": {"r2": 0.97},
    "cost": {
        "rank_correlation": 0.81,
        "split_episodes": 50,
        "planner_alone_success": 1.0,
        "planner_alone_ci95": [0.9, 1.0],
        "cost_alone_success": 0.9,
        "cost_alone_ci95": [0.8, 0.96],
        "model_success": 0.72,
    },
    "planning": {
        "planner": "cem",
        "episodes": 50,
        "success_rate": 0.72,
        "ci95": [0.58, 0.83],
        "random_success_rate": 0.12,
        "random_ci95": [0.06, 0.24],
    },
}
FAILED = {
    "episodes": 800,
    "success_rate": 0.14,
    "ci95": list(wilson_interval(112, 800)),
    "random_success_rate": 0.12,
    "random_ci95": list(wilson_interval(96, 800)),
}


def judged(changes: dict[str, Any]) -> tuple[bool | None, str]:
    """Return the verdict on good results with some of them replaced, by dotted name."""
    results = copy.deepcopy(GOOD)
    for name, value in changes.items():
        *path, last = name.split(".")
        part = results
        for key in path:
            part = part[key]
        part[last] = value
    return verdict(results)


def test_success_is_told_with_its_numbers() -> None:
    learnt, sentence = judged({})
    assert learnt
    for part in ("0.20", "R^2 0.97", "CEM", "72% [58%, 83%]", "of 50 goals", "12% [6%, 24%]"):
        assert part in sentence
    assert "moving straight" not in sentence  # not measured
    assert "(planner alone 100%, cost alone 90%; most of the rest is lost to the model's rollouts)" in sentence
    assert "lost to the cost" in judged({"cost.cost_alone_success": 0.75})[1]
    assert "lost to the planner" in judged({"cost.planner_alone_success": 0.75, "cost.cost_alone_success": 0.72})[1]


def test_moving_straight_stands_beside_the_model() -> None:
    straight = {"planning.straight_success_rate": 0.6, "planning.straight_ci95": [0.46, 0.72]}
    beside = "a random policy 12% [6%, 24%], moving straight 60% [46%, 72%]"
    assert beside in judged(straight)[1]
    failed = {f"planning.{name}": value for name, value in FAILED.items()}
    beside = "a random policy 12% [10%, 14%], moving straight 60% [46%, 72%]"
    assert f"yet CEM reaches 14% [12%, 17%] of 800 goals, {beside}; " in judged(straight | failed)[1]
    region = {"planning.straight_success_rate": None, "planning.straight_ci95": None}
    assert "moving straight" not in judged(region)[1]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"spectrum.effective_rank": 1.2}, "representation collapsed (effective rank 1.2)"),
        ({"spectrum.effective_rank": None}, "representation collapsed (effective rank not finite)"),
        ({"spectrum.feature_std": 1e-5}, "representation collapsed"),
        ({"prediction.error_ratio": [None, None]}, "no error at all"),
        ({"prediction.error_ratio": [1.3, 1.5]}, "1.30 times that of copying the present frame"),
        ({"prediction.error_ratio": [0.95, 0.9]}, "0.95 of that of copying"),  # not clearly better
        (
            {"prediction.error_ratio": [1.3, 1.5], "prediction.mean_error": [0.5, 0.5]},
            "times that of predicting each position's mean",
        ),
        ({"prediction.error_ratio": [1.3, 1.5], "spectrum.content_share": 0.04}, "little but their position"),
    ],
)
def test_nothing_learnt(changes: dict[str, Any], cause: str) -> None:
    learnt, sentence = judged(changes)
    assert not learnt
    assert sentence.startswith("The model learnt nothing: ")
    assert cause in sentence


def test_a_small_content_share_is_no_failure_of_a_model_that_predicts() -> None:
    assert judged({"spectrum.content_share": 0.04})[0]


@pytest.mark.parametrize(
    ("cost", "cause"),
    [
        (
            {"planner_alone_success": 0.1, "planner_alone_ci95": list(wilson_interval(10, 100))},
            "the planner fails: planner alone 10%; give more --plan.candidates",
        ),
        (
            {"cost_alone_success": 0.1, "cost_alone_ci95": list(wilson_interval(10, 100))},
            "the cost fails: planner alone 100%, cost alone 10%, rank correlation with steps to go 0.81.",
        ),
        ({}, "the model's rollouts fail: planner alone 100%, cost alone 90%, rank correlation"),
    ],
)
def test_failing_part_of_planning(cost: dict[str, Any], cause: str) -> None:
    changes = {f"planning.{name}": value for name, value in FAILED.items()}
    learnt, sentence = judged(changes | {f"cost.{name}": value for name, value in cost.items()})
    assert not learnt
    assert sentence.startswith("The model predicts but does not plan: ")
    assert cause in sentence


def test_planning_interval_must_be_disjoint() -> None:
    assert judged({"planning.ci95": [0.25, 0.5]})[0]
    assert not judged({"planning.ci95": [0.24, 0.5]})[0]


IMAGES: dict[str, Any] = {
    "spectrum": GOOD["spectrum"],
    **dict.fromkeys(("prediction", "probe", "cost", "planning")),
    "class_probe": {
        "images": 400,
        "accuracy": 0.61,
        "ci95": [0.56, 0.66],
        "random_accuracy": 0.35,
        "random_ci95": [0.3, 0.4],
        "largest_class": 0.22,
    },
}


def judged_images(**changes: Any) -> tuple[bool | None, str]:
    return verdict({**IMAGES, "class_probe": {**IMAGES["class_probe"], **changes}})


def test_images_are_judged_by_their_classes() -> None:
    learnt, sentence = judged_images()
    assert learnt
    assert sentence == (
        "The encoder learnt: a linear probe tells the class of 61% [56%, 66%] of 400 held-out images, with a random "
        "encoder 35% [30%, 40%], and the largest class is 22%."
    )
    for changes in (
        {"random_accuracy": 0.53, "random_ci95": [0.48, 0.58]},
        {"largest_class": 0.6, "ci95": [0.5, 0.72]},
    ):
        learnt, sentence = judged_images(**changes)
        assert learnt is None
        assert sentence.startswith("400 images are too few to tell whether the encoder learnt: ")
        assert re.search(r"; about \d+ would tell, if rates stay so\.$", sentence)
    learnt, sentence = judged_images(random_accuracy=0.61, random_ci95=[0.58, 0.64])
    assert learnt is False
    assert sentence.startswith("Nothing shows that the encoder learnt: ")


def test_images_without_classes_are_not_judged() -> None:
    learnt, sentence = verdict({**IMAGES, "class_probe": None})
    assert learnt is None
    assert "cannot be told: its representation has not collapsed (effective rank 12.0)" in sentence


def test_a_collapse_on_images_comes_first() -> None:
    learnt, sentence = verdict({**IMAGES, "spectrum": {**GOOD["spectrum"], "effective_rank": 1.2}})
    assert not learnt
    assert "collapsed (effective rank 1.2)" in sentence


def test_without_the_split_no_part_is_blamed() -> None:
    changes = {f"planning.{name}": value for name, value in FAILED.items()}
    learnt, sentence = judged(changes | {"cost": {"rank_correlation": 0.5}})
    assert not learnt
    assert "not told apart" in sentence
    assert judged({"cost": {"rank_correlation": 0.5}})[1].endswith("12% [6%, 24%].")


def test_without_a_task_prediction_decides() -> None:
    learnt, sentence = judged({"planning": None, "probe": None})
    assert learnt
    assert "not tried in closed loop" in sentence
    assert "hardly readable (R^2 0.10)" in judged({"planning": None, "probe": {"r2": 0.1}})[1]


@pytest.mark.parametrize(
    ("ours", "chance", "count", "better", "told"),
    [
        (
            40,
            10,
            50,
            True,
            "The controller plans: it reaches 80% [67%, 89%] of 50 goals, a random policy 20% [11%, 33%].",
        ),
        (10, 40, 50, False, "The controller does harm: it reaches 20%"),
        (
            60,
            60,
            400,
            False,
            "The controller does no better than chance: it reaches 15% [12%, 19%] of 400 goals, a random",
        ),
        (
            3,
            1,
            5,
            None,
            "5 episodes are too few to tell whether the controller does better than chance: it reaches 60% [23%, 88%]",
        ),
        (1, 0, 1, None, "1 episode is too few to tell whether the controller does better than chance: it reaches 100%"),
    ],
)
def test_a_controller_beside_a_random_policy(
    ours: int, chance: int, count: int, better: bool | None, told: str
) -> None:
    results = {
        "episodes": count,
        "distinct": count,
        "hold": 0,
        "success_rate": ours / count,
        "ci95": wilson_interval(ours, count),
        "random_success_rate": chance / count,
        "random_ci95": wilson_interval(chance, count),
        "difference_ci95": newcombe_interval(ours, count, chance, count),
    }
    judged, sentence = env_verdict(results)
    assert judged is better
    assert sentence.startswith(told)
    assert env_verdict(results | {"hold": 10})[1] == sentence.replace("reaches", "holds")


def planned(ours: int, chance: int, count: int) -> dict[str, Any]:
    """Return changes of the results: so many starts reached, and so many by a random policy."""
    return {
        "planning.episodes": count,
        "planning.success_rate": ours / count,
        "planning.ci95": list(wilson_interval(ours, count)),
        "planning.random_success_rate": chance / count,
        "planning.random_ci95": list(wilson_interval(chance, count)),
    }


@pytest.mark.parametrize(
    ("ours", "chance", "count", "learnt", "told"),
    [
        (3, 1, 5, None, "5 episodes are too few to tell whether the model plans: "),
        (1, 1, 5, None, "5 episodes are too few to tell"),  # nor is a failure told
        (0, 0, 5, None, "5 episodes are too few to tell"),
        (1, 0, 1, None, "1 episode is too few to tell"),
        (7, 6, 50, None, "50 episodes are too few to tell"),  # as much as 15 points more
        (5, 0, 5, True, "The model learnt: "),
        (6, 1, 10, None, "10 episodes are too few to tell"),  # the intervals overlap
        (8, 1, 10, True, "The model learnt: "),
        (60, 60, 400, False, "The model predicts but does not plan: "),
        (10, 40, 50, False, "The model predicts but does not plan: "),
    ],
)
def test_success_of_few_episodes_is_not_told(
    ours: int, chance: int, count: int, learnt: bool | None, told: str
) -> None:
    changes = planned(ours, chance, count)
    judged_so, sentence = judged(changes)
    assert judged_so is learnt
    assert sentence.startswith(told)
    low, high = wilson_interval(ours, count)
    assert f"CEM reaches {ours / count:.0%} [{low:.0%}, {high:.0%}] of {count} goals" in sentence
    planning = GOOD["planning"] | {name.partition(".")[2]: value for name, value in changes.items()}
    assert ("too few to tell whether the model plans better than chance: " in planning_verdict(planning)) == (
        learnt is None
    )
    better = env_verdict(planning | {"hold": 0, "distinct": count, "difference_ci95": [-1.0, 0.05]})
    assert better[0] is learnt  # the same rule wherever a rate stands beside a random policy's


@pytest.mark.parametrize(("ours", "chance", "count"), [(3, 1, 5), (1, 1, 5), (7, 6, 50), (24, 20, 40)])
def test_as_many_episodes_as_are_named_would_tell(ours: int, chance: int, count: int) -> None:
    enough = re.search(r"; about (\d+) would tell, if rates stay so\.$", judged(planned(ours, chance, count))[1])
    assert enough is not None
    more = int(enough[1])
    assert more > count
    assert judged(planned(round(ours / count * more), round(chance / count * more), more))[0] is not None
    assert (
        judged(planned(round(ours / count * more * 0.8), round(chance / count * more * 0.8), round(more * 0.8)))[0]
        is None
    )


@pytest.mark.parametrize(
    ("ratio", "interval", "count", "learnt", "told", "remedy"),
    [
        (0.2, [0.1, 0.3], 5, True, "The model learnt to predict: one-step error is 0.20 [0.10, 0.30] of the", ""),
        (
            0.8,
            [0.6, 1.0],
            5,
            None,
            "5 held-out episodes are too few to tell whether the model learnt: one-step error is",
            # of 95 episodes, 5 * (0.2 / 0.1)^2 = 20, and a bit for the rounding of 0.9
            "; about 21 would tell, if they are alike: train again with more held out (--data.held-out 0.23).",
        ),
        (
            0.95,
            [0.7, 1.2],
            5,
            None,
            "5 held-out episodes are too few to tell",
            "collect more episodes and train again.",
        ),
        (1.3, [1.2, 1.4], 5, False, "The model learnt nothing: ", ""),
        (
            3869.29,
            [0.1, 9999.0],
            5,
            None,
            "5 held-out episodes are too few to tell whether the model learnt: one-step "
            "error is 3,869 [0.10, 9,999] times the better trivial rival's",
            "(--data.held-out 0.14).",
        ),
        (0.2, [None, None], 1, None, "1 held-out episode is too few to tell", "held out (--data.held-out 0.05)."),
        (
            0.8,
            [0.4, 1.2],
            3,
            None,
            "3 held-out episodes are too few to tell",
            "are alike: collect more episodes and train again.",
        ),
    ],
)
def test_errors_of_few_held_out_episodes_are_not_told(
    ratio: float, interval: list[float | None], count: int, learnt: bool | None, told: str, remedy: str
) -> None:
    prediction = GOOD["prediction"] | {
        "error_ratio": [ratio, 0.9], "error_ratio_ci95": [interval, interval], "episodes": count
    }  # fmt: skip
    held_out = {"data.episodes.held_out": count}
    judged_so, sentence = judged(held_out | {"planning": None, "prediction": prediction})
    assert judged_so is learnt
    assert sentence.startswith(told)
    if learnt is None:
        assert sentence.endswith(remedy)
    if count < 4:
        assert f"read with an R^2 of 0.97, of {count} held-out episode" in sentence
        assert "readable" not in sentence
    assert judged({"prediction": prediction})[0] is (learnt is not False)  # it plans, so it predicts


def test_the_failing_part_is_not_named_from_few_episodes() -> None:
    failed = {f"planning.{name}": value for name, value in FAILED.items()}
    few = {
        "cost.split_episodes": 5,
        "cost.planner_alone_success": 0.4,
        "cost.planner_alone_ci95": list(wilson_interval(2, 5)),
    }
    sentence = judged(failed | few)[1]
    assert "5 episodes are too few to tell which part fails: planner alone 40%, cost alone 90%" in sentence
    assert "fails:" not in sentence.replace("which part fails:", "")
    rest = {"cost.split_episodes": 5, "cost.model_success": 0.6, "cost.cost_alone_success": 0.8}
    assert judged(rest)[1].endswith("cost alone 80%; 5 episodes are too few to tell to what the rest is lost).")
