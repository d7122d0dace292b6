"""Pose sensitivity: with encoders that are known to ignore a part, to weigh it, or to see nothing at all."""

from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lewm.envs import PosePart, Task, TwoRoom
from lewm.envs.task import Behaviour
from lewm.evaluate.doctor import pose_verdict, verdict
from lewm.evaluate.pose_sensitivity import TIMES, PoseSensitivity, measure_pose_sensitivity

STEP, TURN = 0.05, 0.2


class Dial(Task):
    """A point and a hand: the frame's left half is as bright as the place, the right half as the hand's sine."""

    name: ClassVar[str] = "dial"
    state_names: ClassVar[tuple[str, ...]] = ("place", "hand", "speed")
    action_kind: ClassVar[Literal["continuous", "discrete"]] = "continuous"
    action_size: ClassVar[int] = 1
    pose: ClassVar[tuple[PosePart, ...]] = (
        PosePart(name="the place", entries=("place",), step=STEP),
        PosePart(name="the hand's angle", entries=("hand",), step=TURN, angle=True),
    )
    _state = np.zeros(3, dtype=np.float32)

    @property
    def state(self) -> NDArray[np.float32]:
        return self._state

    def set_state(self, state: ArrayLike) -> None:
        array = np.asarray(state, dtype=np.float32)
        if not 0.0 <= array[0] <= 1.0:
            raise ValueError("off the line")
        self._state = array

    def success(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        raise NotImplementedError

    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        raise NotImplementedError

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float32]:
        raise NotImplementedError

    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray:
        raise NotImplementedError

    def render_states(self, states: ArrayLike) -> NDArray[np.uint8]:
        array = np.asarray(states)
        assert ((array[:, 0] >= 0) & (array[:, 0] <= 1)).all()  # no impossible state is drawn
        frames = np.zeros((len(array), 16, 16, 3), dtype=np.uint8)
        frames[:, :, :8] = np.rint(255 * array[:, 0]).astype(np.uint8)[:, None, None, None]
        frames[:, :, 8:] = np.rint(127.5 + 127.5 * np.sin(array[:, 1])).astype(np.uint8)[:, None, None, None]
        return frames

    def behaviour(self, seed: int) -> Behaviour:
        raise NotImplementedError

    def _draw_initial_state(self, rng: np.random.Generator) -> NDArray[np.float32]:
        raise NotImplementedError


def weighing(place: float, hand: float):
    """Return an encoder of two numbers a frame, so much of each part."""

    def encode(frames: NDArray[np.uint8]) -> Tensor:
        halves = torch.from_numpy(frames[:, 0, [0, 15], 0].copy()).float() / 255  # (M, 2)
        return (halves * torch.tensor([place, hand]))[:, None]

    return encode


@pytest.fixture
def states() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return rng.uniform((0, -np.pi, -9), (1, np.pi, 9), (100, 3)).astype(np.float32)


def measured(states: NDArray[np.float32], place: float, hand: float) -> PoseSensitivity:
    found = measure_pose_sensitivity(Dial(16), states, weighing(place, hand), seed=0)
    assert found is not None
    return found


@pytest.mark.parametrize(("place", "hand", "blind"), [(1.0, 0.0, 1), (0.0, 1.0, 0), (1.0, 0.02, 1)])
def test_the_part_that_an_encoder_ignores_is_named(
    states: NDArray[np.float32], place: float, hand: float, blind: int
) -> None:
    found = measured(states, place, hand)
    assert found.blind == (Dial.pose[blind].name,)
    assert found.parts[1 - blind].weight == 1.0
    if 0.0 in (place, hand):
        assert found.parts[blind].latent == (0.0, 0.0, 0.0)
    assert min(found.parts[blind].pixels) > 0  # pyright: ignore[reportArgumentType]  # frames do show it
    told = pose_verdict({"parts": [vars_of(part) for part in found.parts], "blind": list(found.blind)})
    assert told.startswith(f"The distance is blind to {Dial.pose[blind].name}: ")
    assert Dial.pose[1 - blind].name in told


def vars_of(part: object) -> dict[str, object]:
    return {name: getattr(part, name) for name in ("name", "step", "angle", "latent", "weight")}


def test_an_encoder_of_both_parts_is_blind_to_none(states: NDArray[np.float32]) -> None:
    found = measured(states, 1.0, 1.0)
    assert found.blind == ()
    told = pose_verdict({"parts": [vars_of(part) for part in found.parts], "blind": []})
    assert told.startswith("The distance sees every part of the pose")
    assert "11.5 degrees" in told  # radians are for programs


def test_the_ratios_are_those_of_the_formula(states: NDArray[np.float32]) -> None:
    """An encoder of the place alone: (k step)^2 over the mean squared difference of all pairs."""
    place = measured(states, 1.0, 0.0).parts[0]
    x = np.rint(255 * states[:, 0].astype(np.float64)) / 255
    pairs = ((x[:, None] - x[None]) ** 2).sum() / (100 * 99)
    expected = [(k * STEP) ** 2 / pairs for k in TIMES]
    np.testing.assert_allclose(
        np.array(place.latent, dtype=np.float64), expected, rtol=0.02
    )  # grey levels are whole numbers
    assert place.frames == 100  # every place can be left in one direction
    both = measured(states, 1.0, 1.0).parts[0]
    for beside, pixels in zip(both.latent, place.pixels, strict=True):
        assert pixels == pytest.approx(beside, rel=1e-5)  # the pixels are both halves, too


def test_a_constant_encoder_has_no_sensitivity(states: NDArray[np.float32]) -> None:
    found = measured(states, 0.0, 0.0)
    assert found.blind == ()
    assert [part.latent for part in found.parts] == [(None, None, None)] * 2
    assert "cannot be told" in pose_verdict({"parts": [vars_of(part) for part in found.parts], "blind": []})


def test_a_part_that_cannot_be_changed_is_counted_and_has_no_weight(states: NDArray[np.float32]) -> None:
    class Fixed(Dial):
        def possible(self, state: ArrayLike) -> bool:
            return bool(np.isin(np.asarray(state, dtype=np.float32)[0], states[:, 0]))

    found = measure_pose_sensitivity(Fixed(16), states, weighing(1.0, 1.0), seed=0)
    assert found is not None
    assert [part.frames for part in found.parts] == [0, 100]
    assert found.parts[0].weight is None
    assert found.blind == ()


def test_a_task_without_parts_is_not_measured(states: NDArray[np.float32]) -> None:
    class Bare(Dial):
        pose: ClassVar[tuple[PosePart, ...]] = ()

    assert measure_pose_sensitivity(Bare(16), states, weighing(1.0, 1.0), seed=0) is None


def test_the_same_seed_measures_the_same(states: NDArray[np.float32]) -> None:
    task, places = TwoRoom(16), np.array([[0.2, 0.2], [0.8, 0.3], [0.3, 0.7]], dtype=np.float32)

    def encode(frames: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(frames.reshape(len(frames), 1, -1).copy()).float()

    first, again, other = (measure_pose_sensitivity(task, places, encode, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first is not None
    for ours, pixels in zip(first.parts[0].latent, first.parts[0].pixels, strict=True):
        assert ours == pytest.approx(pixels)


def test_the_verdict_on_a_model_names_what_it_is_blind_to() -> None:
    results = {
        "spectrum": {"effective_rank": 1.0, "content_share": 0.5, "feature_std": 1.0},
        "prediction": {},
        "pose_sensitivity": {"blind": ["the disc's position", "the block's angle"]},
    }
    assert verdict(results)[1].endswith(". Its distance is blind to the disc's position and the block's angle.")
    assert "blind" not in verdict(results | {"pose_sensitivity": {"blind": []}})[1]
    assert "blind" not in verdict(results | {"pose_sensitivity": None})[1]
