"""Orders of samples: complete, repeatable, nested."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_core.data.streams import STREAMS, stream_order

DOMAINS = ("fog", "snow", "frost")
shapes = st.tuples(
    st.sampled_from(sorted(STREAMS)), st.integers(1, 4), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9)
)


def build(shape):
    stream, domains, images, chosen, seed = shape
    return stream_order(stream, [f"d{i}" for i in range(domains)], images, min(images, chosen), seed)


@given(shapes)
@settings(max_examples=60, deadline=None)
def test_each_chosen_image_comes_once_and_each_domain_equally_often(shape):
    order = build(shape)
    pairs = list(zip(order.domain.tolist(), order.index.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == shape[1] * min(shape[2], shape[3])
    assert set(np.bincount(order.domain)) == {min(shape[2], shape[3])}
    assert order.index.max() < shape[2]


@given(shapes, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_batches_cover_the_stream_once_and_cross_no_border(shape, batch_size):
    order = build(shape)
    batches = list(order.batches(batch_size))
    positions = [p for batch in batches for p in range(batch.start, batch.stop)]
    assert positions == list(range(len(order)))
    for batch in batches:
        assert 1 <= batch.stop - batch.start <= batch_size
        if shape[0] != "mixed":
            assert len(set(order.domain[batch.start : batch.stop])) == 1
    assert sum(batch.reset for batch in batches) == (shape[1] if shape[0] == "single" else 0)


@given(shapes)
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_order_and_hash(shape):
    one, other = build(shape), build(shape)
    assert one.order_hash() == other.order_hash()
    assert (one.index == other.index).all()


def test_seeds_and_streams_have_orders_of_their_own():
    hashes = {stream_order(s, DOMAINS, 20, 10, seed).order_hash() for s in STREAMS for seed in range(3)}
    assert len(hashes) == 3 * len(STREAMS)


@pytest.mark.parametrize("stream", sorted(STREAMS))
def test_a_smaller_choice_is_contained_in_a_larger_one(stream):
    def images(count):
        order = stream_order(stream, DOMAINS, 50, count, 1)
        return set(zip(order.domain.tolist(), order.index.tolist(), strict=True))

    assert images(7) < images(20)


def test_the_choice_in_a_domain_does_not_depend_on_the_other_domains():
    alone = stream_order("continual", ["snow"], 50, 10, 1)
    among = stream_order("continual", DOMAINS, 50, 10, 1)
    assert (among.index[among.domain == 1] == alone.index).all()


def test_continual_keeps_the_order_of_the_domains():
    assert stream_order("continual", DOMAINS, 5, 2, 0).domain.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_order_is_the_one_that_published_results_rest_on():
    """A change here makes every stored result incomparable: raise the stream's part of the protocol instead."""
    assert stream_order("mixed", DOMAINS, 899, 427, 0).order_hash() == "22082dd56bb719f9"
