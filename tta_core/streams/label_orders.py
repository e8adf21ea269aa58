"""Orders that follow from labels: labels that arrive correlated in time, and SAR's label shift. Imports no torch."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

STEPS_PER_CLASS = 100
"""Draws of a label shift during which one class is the major one (mixed §5.6)."""

PUBLISHED_RATIOS = (1, 1000, 2000, 3000, 4000, 5000, 500_000)
"""Imbalance ratios for which SAR published orders: one generator shuffled the classes for one after the other."""

DRAW_SEED = 2022
"""Seed of the draws of labels and images, whatever the seed of the stream (mixed §5.6)."""


def correlated_order(
    labels: NDArray[np.int64], alpha: float, slots: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Puts images into an order in which their labels are correlated; each image comes once.

    The images of each class are shared among the slots in proportions drawn from a symmetric Dirichlet distribution.
    Slot follows slot; within one the classes follow each other in random order (NOTE, RoTTA).

    Args:
        labels: `(images,)`.
        alpha: concentration: near 0 each class falls into one slot, far above 1 all slots are alike.
        slots: number of time slots.
        generator: source of all random choices.

    Returns:
        `(images,)`, positions in `labels`.
    """
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    classes, counts = np.unique(labels, return_counts=True)
    shares = np.cumsum(generator.dirichlet(np.full(slots, alpha), size=len(classes)), axis=1)[:, :-1]
    borders = np.rint(shares * counts[:, None])
    slot = np.concatenate([np.searchsorted(own, np.arange(n), "right") for own, n in zip(borders, counts, strict=True)])
    number = np.repeat(np.arange(len(classes)), counts)
    turn = generator.permuted(np.tile(np.arange(len(classes)), (slots, 1)), axis=1)
    return by_class[np.lexsort((turn[slot, number], slot))]


def label_shift_length(num_classes: int) -> int:
    """Draws of the whole label shift of a domain with images of that many classes."""
    return STEPS_PER_CLASS * num_classes


def label_shift(labels: NDArray[np.int64], ratio: int, seed: int) -> NDArray[np.int64]:
    """Draws SAR's label shift: one class after the other is far more frequent than all others (mixed §5.6).

    For 1,000 classes of 50 images in order of class, and a published ratio, these are the indices that SAR published
    under the seeds 2022 and 2023. Otherwise: the classes are those that have images; an image is drawn uniformly from
    its class however many it has; a ratio between two published ones shuffles as often as the higher of the two.

    Args:
        labels: `(images,)`.
        ratio: how much more probable the major class is than each other.
        seed: seed of the order of the classes, and of nothing else.

    Returns:
        `(STEPS_PER_CLASS * classes,)`, positions in `labels`, drawn with replacement: most images come several times,
        some never.
    """
    order = _class_order(len(np.unique(labels)), ratio, seed)
    generator = np.random.RandomState(DRAW_SEED)
    minor = 1 / (ratio + len(order) - 1)
    uniform = generator.random_sample(STEPS_PER_CLASS * len(order)).reshape(len(order), STEPS_PER_CLASS)
    drawn = np.empty(uniform.shape, dtype=np.int64)
    for place, major in enumerate(order):
        probability = np.full(len(order), minor)
        probability[major] = ratio * minor
        cumulative = np.cumsum(probability)
        drawn[place] = np.searchsorted(cumulative / cumulative[-1], uniform[place], side="right")
    index = np.empty(drawn.size, dtype=np.int64)
    for number, label in enumerate(np.unique(labels)):
        images, positions = np.flatnonzero(labels == label), np.flatnonzero(drawn == number)
        # The dtype is numpy's own default on the platform that the published files were made on.
        if len(positions):
            index[positions] = images[generator.randint(0, len(images), len(positions), dtype=np.int64)]
    return index


def _class_order(classes: int, ratio: int, seed: int) -> list[int]:
    """Classes in the order in which they are the major one."""
    generator = random.Random(seed)
    order: list[int] = []
    for _ in range(1 + sum(published < ratio for published in PUBLISHED_RATIOS)):
        order = list(range(classes))
        generator.shuffle(order)
    return order
