from __future__ import annotations

import pytest

from analysis.figures.segments import segment_panel
from analysis.results.configurations import sections
from analysis.results.load import open_results


def _panel(results, numbers=(0,)):
    con = open_results(results.folder)
    (section,) = sections(con)
    return segment_panel(con, section, numbers)


def test_rounds_of_a_recurring_stream(results) -> None:
    domains = ["snow", "snow", "fog", "fog"] * 2
    segments = [0, 0, 1, 1, 2, 2, 3, 3]
    results.add("tent", 0, (1, 1, 0, 0, 1, 1, 1, 0), domains=domains, segments=segments)
    results.add("tent", 1, (0, 0, 0, 0, 1, 0, 0, 0), domains=domains, segments=segments)
    panel = _panel(results)
    assert panel.title == "accuracy in each round"
    assert panel.x_label == "round of 2 segments"
    curve = panel.curves[0]
    assert (curve.x, curve.mean) == ((1, 2), pytest.approx((25, 50)))
    assert (curve.lowest, curve.highest) == (pytest.approx((0, 25)), pytest.approx((50, 75)))


def test_segments_of_a_gradual_stream(results) -> None:
    domains = ["snow"] * 4 + ["fog"] * 2
    results.add("tent", 0, (1, 1, 1, 0, 0, 0), domains=domains, segments=[0, 0, 1, 1, 2, 2])
    panel = _panel(results)
    assert panel.title == "accuracy in each segment"
    assert (panel.curves[0].x, panel.curves[0].mean) == ((1, 2, 3), (100, 50, 0))
    assert panel.borders == (2.5,)


def test_one_segment_a_domain_says_nothing_new(results) -> None:
    results.add("tent", 0, (1, 0, 1, 0), domains=["snow", "snow", "fog", "fog"], segments=[0, 0, 1, 1])
    assert _panel(results) is None


def test_mixed_streams_have_one_segment(results) -> None:
    results.add("tent", 0, (1, 0, 1, 0), domains=["snow", "fog"] * 2)
    assert _panel(results) is None
