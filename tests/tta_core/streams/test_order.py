"""Orders of samples: complete, repeatable, nested."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_core.streams.order import IMPORTED, STREAMS, StreamOrder, stream_order, visited_domains, visits_per_domain

DOMAINS = ("fog", "snow", "frost")
MADE = sorted(set(STREAMS) - {IMPORTED})
TOGETHER = ["mixed", "mixed-correlated"]
LABELLED = [name for name, row in STREAMS.items() if row.labels]
BY_COUNT = sorted(set(MADE) - set(LABELLED))
ALL = sorted(set(MADE) - {"label_shift"})
ONCE = [name for name in ALL if STREAMS[name].rounds == "once" and not STREAMS[name].severities]
IN_SEGMENTS = sorted(set(ALL) - set(TOGETHER))
IN_NESTED_SEGMENTS = sorted(set(IN_SEGMENTS) - {"correlated"})


def labels_of(classes, counts):
    """Labels of domains, the same whenever they are asked for."""
    return lambda name: np.random.default_rng(len(name)).integers(0, classes, counts[name])


@st.composite
def shapes(draw, streams=ALL):
    """Arguments of `stream_order`, as a configuration would give them: domains of different sizes."""
    stream, names = draw(st.sampled_from(streams)), [f"d{i}" for i in range(draw(st.integers(1, 4)))]
    counts = {name: draw(st.integers(1, 30)) for name in names}
    rounds = 1 if STREAMS[stream].rounds == "once" else draw(st.integers(1, min(4, *counts.values(), 4)))
    shape = {
        "stream": stream,
        "domains": names,
        "images": counts,
        "samples_per_domain": draw(st.integers(1, max(counts.values()))),
        "seed": draw(st.integers(0, 9)),
        "rounds": rounds,
        "shuffled": draw(st.booleans()),
    }
    if STREAMS[stream].labels:
        shape |= {"labels": labels_of(draw(st.integers(1, 5)), counts)}
        shape |= {
            "dirichlet_alpha": draw(st.sampled_from([1e-3, 0.1, 1.0, 100.0])),
            "time_slots": draw(st.integers(1, 6)),
        }
    return shape


def per_visit(shape):
    """How many images of each domain one visit takes."""
    parts = shape["rounds"] if STREAMS[shape["stream"]].rounds == "split" else 1
    return {name: min(shape["samples_per_domain"], count // parts) for name, count in shape["images"].items()}


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
    total = sum(per_visit(shape).values()) * visits_per_domain(shape["stream"], shape["rounds"])
    assert len(order) == len(order.domain) == total
    assert set(order.domain.tolist()) == set(range(len(order.domains)))
    for number, name in enumerate(order.domains):
        index = order.index[order.domain == number]
        assert 0 <= index.min() <= index.max() < shape["images"][name.partition("@")[0]]


@given(shapes(ONCE))
@settings(max_examples=60, deadline=None)
def test_each_chosen_image_comes_once_and_each_domain_as_often_as_asked(shape):
    order = stream_order(**shape)
    pairs = list(zip(order.domain.tolist(), order.index.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert np.bincount(order.domain).tolist() == list(per_visit(shape).values())


@given(shapes(IN_SEGMENTS))
@settings(max_examples=60, deadline=None)
def test_a_segment_holds_different_images_of_one_domain(shape):
    order = stream_order(**shape)
    for name, images in visits(order):
        assert len(set(images)) == len(images) == per_visit(shape)[name.partition("@")[0]]
        assert order.domains.count(name) == 1
    for start, end in zip(order.segments, (*order.segments[1:], len(order)), strict=True):
        assert len(set(order.domain[start:end].tolist())) == 1


@given(shapes(MADE), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_batches_cover_the_stream_once_and_cross_no_border(shape, batch_size):
    order = stream_order(**shape)
    batches = list(order.batches(batch_size))
    positions = [p for batch in batches for p in range(batch.start, batch.stop)]
    assert positions == list(range(len(order)))
    for batch in batches:
        assert 1 <= batch.stop - batch.start <= batch_size
        assert not any(batch.start < border < batch.stop for border in order.segments)
    resets = [batch.start for batch in batches if batch.reset]
    assert resets == (list(order.segments) if shape["stream"] in ("single", "label_shift") else [])
    assert len(order.segments) == 1 if shape["stream"] in TOGETHER else len(order.segments) >= len(shape["domains"])


@given(shapes(MADE))
@settings(max_examples=40, deadline=None)
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
    for number, name in enumerate(shape["domains"]):
        seen = [image for one in rounds for image in one[number][1]]
        assert len(set(seen)) == len(seen)
        for other, another in enumerate(shape["domains"]):
            if shape["images"][name] == shape["images"][another]:
                assert all(one[number][1] == one[other][1] for one in rounds)


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
        rounds = 1 if STREAMS[stream].rounds == "once" else 3
        return stream_order(stream, DOMAINS, 20, 5, seed, rounds=rounds, labels=lambda name: np.arange(20))

    assert len({order(s, seed).order_hash() for s in MADE for seed in range(3)}) == 3 * len(MADE)


@given(shapes(IN_NESTED_SEGMENTS))
@settings(max_examples=30, deadline=None)
def test_a_smaller_choice_begins_a_larger_one(shape):
    count = shape["samples_per_domain"]
    whole = visits(stream_order(**shape))
    for fewer in {1, (count + 1) // 2}:
        part = visits(stream_order(**shape | {"samples_per_domain": fewer}))
        assert part == [(name, images[:fewer]) for name, images in whole]


@given(shapes(["correlated", "mixed-correlated"]))
@settings(max_examples=40, deadline=None)
def test_a_smaller_choice_keeps_the_order_of_a_larger_one_where_labels_are_correlated(shape):
    def pairs(order):
        return list(zip(order.domain.tolist(), order.index.tolist(), strict=True))

    whole = pairs(stream_order(**shape))
    for fewer in {1, (shape["samples_per_domain"] + 1) // 2}:
        part = pairs(stream_order(**shape | {"samples_per_domain": fewer}))
        assert part == [pair for pair in whole if pair in set(part)]


def test_a_smaller_choice_is_contained_in_a_larger_one_where_domains_mix():
    def images(count):
        order = stream_order("mixed", DOMAINS, 50, count, 1)
        return set(zip(order.domain.tolist(), order.index.tolist(), strict=True))

    assert images(7) < images(20)


@given(shapes(sorted(set(MADE) - {"mixed-correlated"})))
@settings(max_examples=60, deadline=None)
def test_what_comes_from_a_domain_does_not_depend_on_the_other_domains(shape):
    among, name = stream_order(**shape), shape["domains"][-1]
    alone = stream_order(**shape | {"domains": [name]})

    def own(order):
        return [
            (order.domains[d], i)
            for d, i in zip(order.domain, order.index, strict=True)
            if order.domains[d].partition("@")[0] == name
        ]

    if shape["stream"] == "mixed":
        assert sorted(own(among)) == sorted(own(alone))
    else:
        assert own(among) == own(alone)


@given(shapes(MADE), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_the_first_samples_are_the_beginning_of_the_stream(shape, samples):
    order = stream_order(**shape)
    part = order.first(samples)

    def named(one):
        return [(one.domains[d], i) for d, i in zip(one.domain.tolist(), one.index.tolist(), strict=True)]

    assert named(part) == named(order)[:samples]
    assert set(part.domain.tolist()) == set(range(len(part.domains)))
    assert part.segments == tuple(start for start in order.segments if start < samples)
    assert part.reset_at_segments == order.reset_at_segments
    assert (part.order_hash() == order.order_hash()) == (samples >= len(order))


@given(shapes(BY_COUNT), st.data())
@settings(max_examples=40, deadline=None)
def test_a_subset_gives_the_order_of_as_many_images_by_their_numbers(shape, data):
    """Choosing among listed images is choosing among that many, with the listed numbers in place of 0, 1, 2, ..."""
    whole = {name: data.draw(st.permutations(range(100, 100 + n))) for name, n in shape["images"].items()}
    plain = stream_order(**shape)
    listed = stream_order(**shape | {"images": {name: np.array(numbers) for name, numbers in whole.items()}})
    assert (listed.domains, listed.segments) == (plain.domains, plain.segments)
    assert (listed.domain == plain.domain).all()
    names = [plain.domains[number].partition("@")[0] for number in plain.domain]
    assert listed.index.tolist() == [whole[name][i] for name, i in zip(names, plain.index, strict=True)]


@pytest.mark.parametrize("stream", LABELLED)
def test_a_subset_limits_streams_that_are_made_from_labels(stream):
    numbers = np.array([3, 4, 17, 30, 41, 42])
    order = stream_order(stream, DOMAINS, dict.fromkeys(DOMAINS, numbers), 6, 0, labels=lambda name: np.arange(50) % 7)
    assert set(order.index.tolist()) <= set(numbers.tolist())


def test_hashes_tell_orders_borders_resets_and_domains_apart():
    base = StreamOrder(("a", "b"), np.array([0, 0, 1], np.int16), np.array([0, 1, 0], np.int32), (0, 2), False)
    others = [
        replace(base, domains=("a", "c")),
        replace(base, domain=np.array([0, 1, 0], np.int16)),
        replace(base, index=np.array([1, 0, 0], np.int32)),
        replace(base, segments=(0,)),
        replace(base, reset_at_segments=True),
    ]
    assert len({order.order_hash() for order in (base, *others)}) == 6


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
        ("correlated", 400, 1, "8df6abd0d6493142"),
        ("mixed-correlated", 400, 1, "51850f7b3a22ebfe"),
        ("label_shift", 1000, 1, "5f38801fa03e58b9"),
    ],
)
def test_the_order_is_the_one_that_published_results_rest_on(stream, samples, rounds, known):
    """A change here makes every stored result incomparable: raise the stream's part of the protocol instead."""
    order = stream_order(stream, DOMAINS, 899, samples, 0, rounds=rounds, labels=lambda name: np.arange(899) % 10)
    assert order.order_hash() == known
