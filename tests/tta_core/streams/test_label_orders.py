"""Correlated labels, and SAR's label shift against a slow version written from its description."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_core.streams.label_orders import PUBLISHED_RATIOS, correlated_order, label_shift

SORTED_50 = np.repeat(np.arange(1000), 50)


def described_label_shift(seed: int, ratio: int) -> np.ndarray:
    """mixed §5.6, item 2, step by step with the global generators, for 1,000 classes of 50 images."""
    before = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        for reached in (1, 1000, 2000, 3000, 4000, 5000, 500_000):
            order = list(range(1000))
            random.shuffle(order)
            if reached == ratio:
                break
        np.random.seed(2022)
        minor = 1 / (ratio + 999)
        labels = []
        for t in range(100_000):
            if t % 100 == 0:
                probabilities = np.full(1000, minor)
                probabilities[order[t // 100]] = ratio * minor
                cumulative = probabilities.cumsum()
                cumulative /= cumulative[-1]
            labels.append(cumulative.searchsorted(np.random.random_sample(), side="right"))
        drawn, index = np.array(labels), np.full(100_000, -1)
        for i in range(1000):
            positions = np.flatnonzero(drawn == i)
            if len(positions) > 0:
                for t, draw in zip(positions, np.random.randint(0, 50, len(positions)), strict=True):
                    index[t] = 50 * i + draw
        return index
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@pytest.mark.parametrize(("seed", "ratio"), [(2022, 500_000), (2023, 1), (2021, 3000)])
def test_the_label_shift_is_the_described_one(seed, ratio):
    assert (label_shift(SORTED_50, ratio, seed) == described_label_shift(seed, ratio)).all()


def test_the_default_shift_is_nearly_pure_and_misses_some_images():
    """Both numbers are stated of the published files (mixed §5.6)."""
    index = label_shift(SORTED_50, 500_000, 2022)
    blocks = (index // 50).reshape(1000, 100)
    major = np.array([np.bincount(block, minlength=1000).argmax() for block in blocks])
    assert sorted(major.tolist()) == list(range(1000))
    assert (blocks == major[:, None]).mean() == pytest.approx(0.998, abs=5e-4)
    assert len(np.unique(index)) == pytest.approx(43_300, rel=5e-3)


def test_the_seed_orders_the_classes_and_the_ratios_share_a_generator():
    orders = {
        (seed, ratio): tuple(
            np.bincount(block, minlength=40).argmax()
            for block in (label_shift(np.arange(40).repeat(3), ratio, seed) // 3).reshape(40, 100)
        )
        for seed in (0, 1)
        for ratio in PUBLISHED_RATIOS[1:]
    }
    assert len(set(orders.values())) == len(orders)


@st.composite
def labelled(draw):
    """Labels of images: unequal classes, with gaps in their numbers, in any order."""
    return np.array(draw(st.lists(st.sampled_from([0, 1, 2, 5, 9]), min_size=1, max_size=60)), dtype=np.int64)


@given(labelled(), st.sampled_from([1, 7, 1000, 500_000, 10**9]), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_label_shift_of_unequal_classes_draws_from_every_class_that_there_is(labels, ratio, seed):
    index = label_shift(labels, ratio, seed)
    classes = np.unique(labels)
    assert len(index) == 100 * len(classes)
    assert 0 <= index.min() <= index.max() < len(labels)
    if ratio >= 500_000:
        majors = [np.bincount(labels[block]).argmax() for block in index.reshape(len(classes), 100)]
        assert sorted(majors) == classes.tolist()
    assert (index == label_shift(labels, ratio, seed)).all()


@given(st.permutations(range(30)), st.sampled_from([1, 500_000]))
@settings(max_examples=20, deadline=None)
def test_a_label_shift_follows_the_images_of_a_class_wherever_they_lie(places, ratio):
    """Moving images about moves the indices with them, as long as each class keeps its own order."""
    tidy = np.repeat(np.arange(6), 5)
    untidy = tidy[list(places)]
    where = np.concatenate([np.flatnonzero(untidy == label) for label in range(6)])
    assert (label_shift(untidy, ratio, 3) == where[label_shift(tidy, ratio, 3)]).all()


@given(labelled(), st.sampled_from([1e-4, 0.05, 0.1, 1.0, 1e3]), st.integers(1, 8), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_a_correlated_order_holds_each_image_once(labels, alpha, slots, seed):
    order = correlated_order(labels, alpha, slots, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    # In each slot each class comes in one stretch.
    stretches = 1 + np.count_nonzero(np.diff(labels[order]))
    assert stretches <= slots * len(np.unique(labels))


def test_concentration_goes_from_sorted_classes_to_slots_that_are_alike():
    labels = np.arange(2000) % 10

    def most_frequent_share(alpha):
        """Mean share of a batch's most frequent class, within batches as long as a slot."""
        order = correlated_order(labels, alpha, 10, np.random.default_rng(0))
        return np.mean([np.bincount(batch).max() / 200 for batch in labels[order].reshape(10, 200)])

    sorted_, usual, alike = (most_frequent_share(alpha) for alpha in (1e-4, 0.1, 1e4))
    assert sorted_ > 0.95
    assert sorted_ > usual > alike + 0.2
    assert alike < 0.12


def test_one_slot_is_class_after_class():
    labels = np.arange(60) % 6
    assert 1 + np.count_nonzero(np.diff(labels[correlated_order(labels, 0.1, 1, np.random.default_rng(0))])) == 6


def test_the_shares_are_drawn_from_a_dirichlet_distribution():
    """In two slots the first one's share of a class is Beta(alpha, alpha): mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    labels = np.repeat(np.arange(400), 100)
    ordered = labels[correlated_order(labels, 2.0, 2, np.random.default_rng(0))]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(starts, append=len(ordered))
    # A class's first stretch is its part in the first slot.
    _, first = np.unique(ordered[starts], return_index=True)
    shares = lengths[first] / 100
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(0.05, abs=0.01)
