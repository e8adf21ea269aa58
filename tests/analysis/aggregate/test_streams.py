from __future__ import annotations

import pytest

from analysis.aggregate.streams import default_window, domain_blocks, running_accuracies
from analysis.results.configurations import sections
from analysis.results.load import open_results


def _open(results):
    con = open_results(results.folder)
    (section,) = sections(con)
    return con, section


def test_running_accuracy_by_hand(results) -> None:
    results.add("tent", 0, (1, 1, 0, 0, 1))
    results.add("tent", 1, (0, 1, 0, 1, 1))
    con, section = _open(results)
    found = running_accuracies(con, section, window=2)
    assert found.window == 2
    (curve,) = found.curves
    assert curve.samples_seen == (2, 3, 4, 5)
    assert curve.mean == pytest.approx((0.75, 0.5, 0.25, 0.75))
    assert curve.lowest == pytest.approx((0.5, 0.5, 0.0, 0.5))
    assert curve.highest == pytest.approx((1.0, 0.5, 0.5, 1.0))


def test_windows_end_with_the_last_sample(results) -> None:
    hits = [1] * 40 + [0] * 7
    results.add("tent", 0, hits)
    con, section = _open(results)
    found = running_accuracies(con, section, window=20)
    (curve,) = found.curves
    assert curve.samples_seen == tuple(range(21, 48, 2))  # points 2 apart, the first full window starts at 1
    expected = [sum(hits[seen - 20 : seen]) / 20 for seen in curve.samples_seen]
    assert curve.mean == pytest.approx(expected)


def test_window_longer_than_the_stream(results) -> None:
    results.add("tent", 0, (1, 0))
    con, section = _open(results)
    assert running_accuracies(con, section, window=5).curves[0].samples_seen == ()


def test_default_window(results) -> None:
    results.add("tent", 0, (1, 0), n_samples=6405)
    assert default_window(_open(results)[1]) == 427


def test_default_window_of_a_short_stream(results) -> None:
    results.add("tent", 0, (1, 0, 1))
    con, section = _open(results)
    assert default_window(section) == 3
    assert running_accuracies(con, section).curves[0].samples_seen == (3,)


def test_blocks_of_a_continual_stream(results) -> None:
    for seed in (0, 1):
        results.add("tent", seed, (1, 0, 1, 1), domains=("snow", "snow", "fog", "snow"))
    assert domain_blocks(*_open(results)) == [(0, "snow"), (2, "fog"), (3, "snow")]


def test_mixed_streams_have_no_blocks(results) -> None:
    results.add("tent", 0, [1] * 100, domains=["snow", "fog"] * 50)
    assert domain_blocks(*_open(results)) == []


def test_blocks_that_differ_between_seeds(results) -> None:
    results.add("tent", 0, (1, 0), domains=("snow", "fog"))
    results.add("tent", 1, (1, 0), domains=("fog", "snow"))
    assert domain_blocks(*_open(results)) == []
