"""The class probe: what it can tell it tells, what it cannot it does not, and its rivals are honest."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.evaluate import wilson_interval
from lewm.evaluate.class_probe import ClassReport, LabelledImages, measure_classes


def images(count: int, seed: int, labels: tuple[int, ...] = (2, 5, 9)) -> LabelledImages:
    """Return images of 2 x 2 pixels whose first pixel tells their class, and the others nothing."""
    rng = np.random.default_rng(seed)
    label = rng.choice(labels, count)
    frames = rng.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    frames[:, 0, 0] = label[:, None]
    return LabelledImages(frames, label, np.arange(count) // 10)


def first_pixel(frames: NDArray[np.uint8]) -> Tensor:
    """Represent images by one-hot first pixels, (M, 2, 12); only the mean over tokens has them whole."""
    one_hot = torch.eye(12)[torch.from_numpy(frames[:, 0, 0, 0].astype(np.int64))]
    noise = torch.from_numpy(frames[:, 1, 1, :1].astype(np.float32))
    return torch.stack([one_hot + noise, one_hot - noise], dim=1)


def noise(frames: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames[:, 1].astype(np.float32))


def measure(train: LabelledImages, test: LabelledImages, encode: Callable = first_pixel) -> ClassReport:
    report = measure_classes(train, test, encode, noise, seed=0)
    assert report is not None
    return report


def test_tells_what_is_there_and_not_what_is_not() -> None:
    report = measure(images(300, 0), images(200, 1))
    assert (report.classes, report.train_images, report.images) == (3, 300, 200)
    assert report.accuracy == 1.0
    assert report.random_accuracy == pytest.approx(1 / 3, abs=0.15)
    assert report.ci95 == wilson_interval(200, 200)
    assert report.random_ci95[0] < report.random_accuracy < report.random_ci95[1]


def test_largest_class_is_that_of_the_training_images() -> None:
    train, test = images(100, 0, (4, 4, 4, 7)), images(100, 1, (4, 7, 7, 7))
    assert measure(train, test).largest_class == pytest.approx((test.label == 4).mean())


def test_classes_that_were_not_trained_on_are_missed() -> None:
    test = images(200, 1, (2, 3))
    assert measure(images(300, 0), test).accuracy == pytest.approx((test.label == 2).mean())


def test_one_class_tells_nothing() -> None:
    assert measure_classes(images(50, 0, (3,)), images(20, 1), first_pixel, noise, seed=0) is None


def test_labels_are_not_looked_at_in_the_test() -> None:
    train, test = images(300, 0), images(200, 1)
    wrong = LabelledImages(test.frames, np.full(200, 11), test.group)
    assert measure(train, wrong).accuracy == 0.0
