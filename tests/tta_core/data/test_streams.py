"""Orders of samples: complete, repeatable, nested."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_core.data.streams import STREAMS, stream_order, visited_domains, visits_per_domain

DOMAINS = ("fog", "snow", "frost")
ONCE = [name for name, row in STREAMS.items() if row.rounds == "once" and not row.severities]
ALL = sorted(STREAMS)
IN_SEGMENTS = sorted(set(STREAMS) - {"mixed"})


@st.composite
def shapes(draw, streams=ALL):
    """Arguments of `stream_order`, as a configuration would give them."""
    stream, images = draw(st.sampled_from(streams)), draw(st.integers(1, 30))
    rounds = 1 if STREAMS[stream].rounds == "once" else draw(st.integers(1, min(4, images)))
    most = images // rounds if STREAMS[stream].rounds == "split" else images
    return {
        "stream": stream,
        "domains": [f"d{i}" for i in range(draw(st.integers(1, 4)))],
        "images_per_domain": images,
        "samples_per_domain": draw(st.integers(1, most)),
        "seed": draw(st.integers(0, 9)),
        "rounds": rounds,
        "shuffled": draw(st.booleans()),
    }


def visits(order):
    """Name of the domain and images of each segment."""
    ends = (*order.segments[1:], len(order))
    return [
        (order.domains[order.domain[start]], order.index[start:end].tolist())
        for start, end in zip(order.segments, ends, strict=True)
    ]


@given(shapes())
@settings(max_examples=60, deadline=None)
def test_the_names_and_the_length_are_those_that_are_announced(shape):
    order = stream_order(**shape)
    assert order.domains == visited_domains(shape["stream"], shape["domains"])
    per_domain = shape["samples_per_domain"] * visits_per_domain(shape["stream"], shape["rounds"])
    assert len(order) == len(order.domain) == per_domain * len(shape["domains"])
    assert set(order.domain.tolist()) == set(range(len(order.domains)))
    assert 0 <= order.index.min() <= order.index.max() < shape["images_per_domain"]


@given(shapes(ONCE))
@settings(max_examples=60, deadline=None)
def test_each_chosen_image_comes_once_and_each_domain_equally_often(shape):
    order = stream_order(**shape)
    pairs = list(zip(order.domain.tolist(), order.index.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(np.bincount(order.domain)) == {shape["samples_per_domain"]}


@given(shapes(IN_SEGMENTS))
@settings(max_examples=60, deadline=None)
def test_a_segment_holds_different_images_of_one_domain(shape):
    order = stream_order(**shape)
    for name, images in visits(order):
        assert len(set(images)) == len(images) == shape["samples_per_domain"]
        assert order.domains.count(name) == 1
    for start, end in zip(order.segments, (*order.segments[1:], len(order)), strict=True):
        assert len(set(order.domain[start:end].tolist())) == 1


@given(shapes(), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_batches_cover_the_stream_once_and_cross_no_border(shape, batch_size):
    order = stream_order(**shape)
    batches = list(order.batches(batch_size))
    positions = [p for batch in batches for p in range(batch.start, batch.stop)]
    assert positions == list(range(len(order)))
    for batch in batches:
        assert 1 <= batch.stop - batch.start <= batch_size
        assert not any(batch.start < border < batch.stop for border in order.segments)
    assert sum(batch.reset for batch in batches) == (len(shape["domains"]) if shape["stream"] == "single" else 0)


@given(shapes())
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_order_and_hash(shape):
    one, other = stream_order(**shape), stream_order(**shape)
    assert one.order_hash() == other.order_hash()
    assert (one.index == other.index).all()


@given(shapes(["recurring"]))
@settings(max_examples=30, deadline=None)
def test_rounds_share_no_image_and_their_domains_share_all(shape):
    found, width = visits(stream_order(**shape)), len(shape["domains"])
    rounds = [found[start : start + width] for start in range(0, len(found), width)]
    assert len(rounds) == shape["rounds"]
    for one in rounds:
        assert [name for name, _ in one] == shape["domains"]
        assert all(images == one[0][1] for _, images in one)
    seen = [image for one in rounds for image in one[0][1]]
    assert len(set(seen)) == len(seen)


@given(shapes(["recurring-same"]))
@settings(max_examples=30, deadline=None)
def test_each_round_on_the_same_images_is_the_continual_stream(shape):
    once = stream_order(**shape | {"stream": "continual", "rounds": 1})
    assert visits(stream_order(**shape)) == visits(once) * shape["rounds"]


@given(shapes(["gradual"]))
@settings(max_examples=30, deadline=None)
def test_gradual_raises_and_lowers_the_severity_on_the_images_of_the_continual_stream(shape):
    once = visits(stream_order(**shape | {"stream": "continual"}))
    ramp = [1, 2, 3, 4, 5, 4, 3, 2, 1]
    assert visits(stream_order(**shape)) == [(f"{name}@{s}", images) for name, images in once for s in ramp]


def test_the_published_gradual_stream_has_135_segments():
    order = stream_order("gradual", [f"d{i}" for i in range(15)], 100, 10, 0)
    assert len(order.segments) == 135
    assert len(order.domains) == 75


def test_seeds_and_streams_have_orders_of_their_own():
    def order(stream, seed):
        return stream_order(stream, DOMAINS, 20, 5, seed, rounds=1 if STREAMS[stream].rounds == "once" else 3)

    assert len({order(s, seed).order_hash() for s in STREAMS for seed in range(3)}) == 3 * len(STREAMS)


@given(shapes(IN_SEGMENTS))
@settings(max_examples=30, deadline=None)
def test_a_smaller_choice_begins_a_larger_one(shape):
    count = shape["samples_per_domain"]
    whole = visits(stream_order(**shape))
    for fewer in {1, (count + 1) // 2}:
        part = visits(stream_order(**shape | {"samples_per_domain": fewer}))
        assert part == [(name, images[:fewer]) for name, images in whole]


def test_a_smaller_choice_is_contained_in_a_larger_one_where_domains_mix():
    def images(count):
        order = stream_order("mixed", DOMAINS, 50, count, 1)
        return set(zip(order.domain.tolist(), order.index.tolist(), strict=True))

    assert images(7) < images(20)


def test_the_choice_in_a_domain_does_not_depend_on_the_other_domains():
    alone = stream_order("continual", ["snow"], 50, 10, 1)
    among = stream_order("continual", DOMAINS, 50, 10, 1)
    assert (among.index[among.domain == 1] == alone.index).all()


@pytest.mark.parametrize("stream", ["continual", "single", "gradual", "recurring-same"])
def test_a_published_list_is_taken_in_its_own_order(stream):
    order = stream_order(stream, DOMAINS, 50, 10, 1, rounds=2 if stream == "recurring-same" else 1, shuffled=False)
    assert all(images == list(range(10)) for _, images in visits(order))


def test_continual_keeps_the_order_of_the_domains():
    assert stream_order("continual", DOMAINS, 5, 2, 0).domain.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("stream", "samples", "rounds", "known"),
    [
        ("mixed", 427, 1, "22082dd56bb719f9"),
        ("gradual", 64, 1, "67d838e95ebf1feb"),
        ("recurring", 80, 10, "e7471bb03d58f58f"),
    ],
)
def test_the_order_is_the_one_that_published_results_rest_on(stream, samples, rounds, known):
    """A change here makes every stored result incomparable: raise the stream's part of the protocol instead."""
    assert stream_order(stream, DOMAINS, 899, samples, 0, rounds=rounds).order_hash() == known
