"""How well a linear probe tells the classes of held-out images, beside a random encoder and the largest class."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.evaluate.closed_loop import wilson_interval
from lewm.evaluate.probe import fit_linear, validation_part


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images and their classes.

    Args:
        frames: (M, height, width, 3) uint8.
        label: (M,) int64.
        group: (M,) the episode of each image.
    """

    frames: NDArray[np.uint8]
    label: NDArray[np.int64]
    group: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Shares of held-out images whose class is told, 0 to 1, with Wilson's 95% intervals.

    Args:
        classes: classes among the training images.
        train_images, images: images that the probe is fitted to and measured on.
        accuracy, ci95: a linear probe of the mean token.
        random_accuracy, random_ci95: the same for a freshly initialised encoder.
        largest_class: naming the most frequent class of the training images every time.
    """

    classes: int
    train_images: int
    images: int
    accuracy: float
    ci95: tuple[float, float]
    random_accuracy: float
    random_ci95: tuple[float, float]
    largest_class: float


def measure_classes(
    train: LabelledImages,
    test: LabelledImages,
    encode: Callable[[NDArray[np.uint8]], Tensor],
    encode_random: Callable[[NDArray[np.uint8]], Tensor],
    *,
    seed: int,
) -> ClassReport | None:
    """Fit a ridge regression from mean tokens to one-hot classes on training images; measure it on held-out ones.

    Args:
        train: Training images.
        test: Held-out images.
        encode: The trained encoder, frames (M, height, width, 3) to tokens (M, N, D).
        encode_random: The same encoder with fresh weights.
        seed: Seed of the validation part, which chooses the ridge.

    Returns:
        The accuracies, or None when the training images have fewer than two classes.
    """
    known, counts = np.unique(train.label, return_counts=True)
    if len(known) < 2:
        return None
    one_hot = torch.from_numpy(train.label[:, None] == known).float()  # (M, C)
    validation = validation_part(train.group, seed=seed)
    right = []
    for function in (encode, encode_random):
        x, x_test = (function(images.frames).mean(1).cpu() for images in (train, test))  # (M, D)
        named = known[fit_linear(x, one_hot, validation)(x_test).argmax(1).numpy()]
        right.append(int((named == test.label).sum()))
    count = len(test.label)
    return ClassReport(
        classes=len(known),
        train_images=len(train.label),
        images=count,
        accuracy=right[0] / count,
        ci95=wilson_interval(right[0], count),
        random_accuracy=right[1] / count,
        random_ci95=wilson_interval(right[1], count),
        largest_class=float((test.label == known[counts.argmax()]).mean()),
    )
