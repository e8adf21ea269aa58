from __future__ import annotations

import math

import pytest

from analysis.aggregate.estimates import effective_number, estimate
from analysis.aggregate.standings import (
    cost_relative_to_source,
    domain_accuracies,
    expert_usage,
    leaderboard,
    paired_difference,
)
from analysis.results.configurations import configurations, sections
from analysis.results.load import open_results

# Tabulated quantiles of Student's t: t(0.975, 1) and t(0.975, 2).
T_1, T_2 = 12.7062, 4.3027


def test_estimate_by_hand() -> None:
    found = estimate([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3)
    assert found.half_width == pytest.approx(T_2 * math.sqrt(0.07 / 3), rel=1e-4)
    assert not found.excludes_zero
    assert found.interval == pytest.approx((0.3 - found.half_width, 0.3 + found.half_width))


def test_estimate_of_one_value_has_no_interval() -> None:
    found = estimate([0.4])
    assert (found.mean, found.half_width, found.interval, found.count) == (0.4, None, None, 1)
    assert not found.excludes_zero


def test_estimate_of_equal_values() -> None:
    assert estimate([0.5, 0.5]).half_width == 0
    assert estimate([0.5, 0.5]).excludes_zero


def test_effective_number() -> None:
    assert effective_number([0.25] * 4) == pytest.approx(4)
    assert effective_number([1.0, 0.0]) == pytest.approx(1)
    assert effective_number([0.5, 0.25, 0.25]) == pytest.approx(2**1.5)
    assert effective_number([2.0, 2.0]) == pytest.approx(2)
    assert effective_number([0.0, 0.0]) is None


def test_paired_difference_uses_shared_seeds_only() -> None:
    found = paired_difference({0: 0.5, 1: 0.9, 7: 0.1}, {0: 0.4, 1: 0.6, 3: 0.0})
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx(0.2), 2)
    assert found.half_width == pytest.approx(T_1 * 0.1, rel=1e-4)  # s = 0.1 * sqrt(2), n = 2
    assert paired_difference({0: 0.5}, {1: 0.5}) is None


def test_leaderboard_by_hand(quickstart) -> None:
    (section,) = sections(open_results(quickstart.folder))
    found = leaderboard(section)
    assert [each.configuration.label for each in found] == [
        "moetta num_experts=9",
        "moetta num_experts=5",
        "source",
        "tent",
    ]
    assert [each.rank for each in found] == [1, 2, 3, 4]
    assert [each.accuracy.mean for each in found] == pytest.approx([0.75, 0.6, 0.55, 0.4])
    best, second, source, tent = found
    assert (best.lowest, best.highest) == (0.7, 0.8)
    assert best.difference is not None
    assert best.difference.mean == pytest.approx(0.2)  # 0.3 and 0.1
    assert best.difference.half_width == pytest.approx(T_1 * 0.1, rel=1e-4)
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(0.05)
    assert source.difference is None
    assert tent.difference is not None
    assert tent.difference.mean == pytest.approx(-0.15)
    assert tent.accuracy.half_width == pytest.approx(0.0)


def test_equal_means_share_a_rank(results) -> None:
    for method, hits in {"a": (1, 1), "b": (1, 0), "c": (1, 0), "d": (0, 0)}.items():
        results.add(method, hits=hits)
    (section,) = sections(open_results(results.folder))
    assert [each.rank for each in leaderboard(section)] == [1, 2, 2, 4]


def test_labels_name_only_what_varies(results) -> None:
    results.add("moetta", settings={"zeta": 9, "lr": 0.1, "alpha": 0.2, "list": [1, 2]})
    results.add("moetta", settings={"zeta": 9, "lr": 0.1, "alpha": 1e-5, "list": [1, 3], "new": True})
    results.add("tent", settings={"lr": 0.1})
    labels = {each.label for each in configurations(open_results(results.folder))}
    assert labels == {"moetta alpha=0.2 list=[1, 2]", "moetta alpha=1e-05 list=[1, 3] new=true", "tent"}


def test_an_ablation_is_labelled_by_what_each_configuration_lacks(results) -> None:
    full = {"filter": True, "weight": True, "lambda": 0.2}
    for change in ({}, {"filter": False}, {"weight": False}, {"lambda": 0.0}):
        results.add("moetta", settings=full | change)
    labels = {each.label for each in configurations(open_results(results.folder))}
    assert labels == {"moetta", "moetta filter=false", "moetta weight=false", "moetta lambda=0"}


def test_labels_stay_different_when_rounding_would_make_them_equal(results) -> None:
    results.add("tent", settings={"lr": 0.123456})
    results.add("tent", settings={"lr": 0.123457})
    labels = [each.label for each in configurations(open_results(results.folder))]
    assert labels == ["tent lr=0.123456", "tent lr=0.123457"]


def test_preset_and_order_of_settings_do_not_matter(results) -> None:
    results.add("tent", 0, settings={"lr": 1, "top": 2}, preset="paper", cell="a", folder="a")
    results.add("tent", 1, settings={"top": 2, "lr": 1}, preset="official", cell="b", folder="b")
    (found,) = configurations(open_results(results.folder))
    assert [cell.seed for cell in found.cells] == [0, 1]
    assert found.label == "tent"


def test_newest_cell_of_a_seed_counts(results) -> None:
    results.add("tent", hits=(0, 0), cell="a", folder="a")
    results.add("tent", hits=(1, 1), cell="b", folder="b")
    (found,) = configurations(open_results(results.folder))
    assert found.accuracies == {0: 1.0}


def test_cell_without_accuracy_is_in_no_mean(results) -> None:
    results.add("tent", 0, accuracy=math.nan)
    results.add("tent", 1, (1, 1))
    results.add("sar", 0, accuracy=math.nan)
    (section,) = sections(open_results(results.folder))
    assert [each.accuracies for each in section.configurations] == [{1: 1.0}]


def test_sections_are_named_by_what_differs(results) -> None:
    results.add("source")
    results.add("source", protocol={"stream": "continual", "stream_order_at_seed_0": "f00"})
    found = sections(open_results(results.folder))
    assert [each.heading for each in found] == ["stream continual", "stream mixed"]
    assert [len(each.configurations) for each in found] == [1, 1]


def test_sections_with_different_domains_have_short_headings(results) -> None:
    results.add("source")
    domains = [f"domain_{number}" for number in range(15)]
    results.add("source", fingerprint="other", protocol={"domains": domains}, cell="b", folder="b")
    headings = [each.heading for each in sections(open_results(results.folder))]
    assert headings == ["domains domain_0 … domain_14 (15)", "domains snow, fog"]


def test_differences_never_cross_protocols(results) -> None:
    results.add("source", hits=(1, 1))
    results.add("tent", hits=(0, 0), protocol={"stream": "continual"})
    for section in sections(open_results(results.folder)):
        assert [each.difference for each in leaderboard(section)] == [None]


def test_domains_by_hand(quickstart) -> None:
    con = open_results(quickstart.folder)
    (section,) = sections(con)
    found = domain_accuracies(con, section)
    assert found.domains == ("snow", "fog")  # the order of the protocol, not of the alphabet
    # Of ten samples the first five are snow and the hits come first: 8 hits are 5 of 5 and 3 of 5.
    assert found.values[0] == pytest.approx((1.0, 0.5))
    assert found.values[2] == pytest.approx((1.0, 0.1))
    assert found.values[3] == pytest.approx((0.8, 0.0))
    assert found.differences[0] == pytest.approx((0.0, 0.4))
    assert found.differences[2] == pytest.approx((0.0, 0.0))
    assert found.differences[3] == pytest.approx((-0.2, -0.1))


def test_domain_differences_are_paired(results) -> None:
    results.add("source", 0, (0, 0))
    results.add("source", 1, (1, 1))
    results.add("tent", 1, (1, 0))
    con = open_results(results.folder)
    (section,) = sections(con)
    tent = [each.method for each in section.configurations].index("tent")
    assert domain_accuracies(con, section).differences[tent] == (-0.5,)


def test_domain_differences_without_source(results) -> None:
    results.add("tent")
    con = open_results(results.folder)
    (section,) = sections(con)
    assert domain_accuracies(con, section).differences == ((None,),)


def test_experts_are_sorted_before_the_mean(quickstart) -> None:
    con = open_results(quickstart.folder)
    (section,) = sections(con)
    found = expert_usage(con, section)
    assert [each.configuration.label for each in found] == ["moetta num_experts=9", "moetta num_experts=5"]
    assert found[0].layers == ("blocks.0.norm1",)
    assert found[0].shares[0] == pytest.approx((0.875, 0.125))  # (0.75, 0.25) and (1, 0)
    uneven = math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert found[0].effective == pytest.approx(((uneven + 1) / 2,))


def test_layers_are_in_the_order_of_the_network(results) -> None:
    results.add("moetta", usage={f"blocks.{number}.norm": [0.5, 0.5] for number in (10, 2, 0)})
    con = open_results(results.folder)
    (section,) = sections(con)
    assert expert_usage(con, section)[0].layers == ("blocks.0.norm", "blocks.2.norm", "blocks.10.norm")


def test_cost_is_relative_to_source_of_the_same_sweep(results) -> None:
    results.add("source", 0, (1, 1), seconds=2.0)
    results.add("source", 1, (1, 1), seconds=4.0)
    results.add("tent", 0, (1, 0), seconds=6.0)
    results.add("sar", 0, (0, 0), seconds=6.0, sweep="later")
    (section,) = sections(open_results(results.folder))
    assert [each.method for each in section.configurations] == ["source", "tent", "sar"]
    assert cost_relative_to_source(section) == [1.0, 2.0, None]


def test_the_source_with_several_views_is_a_row_and_no_reference(results) -> None:
    """The control of methods that score several views: averaged into the reference, it would move all differences."""
    results.add("source", hits=(1, 0, 0, 0), settings={"views": 1})
    results.add("source", hits=(1, 1, 1, 0), settings={"views": 6})
    results.add("tent", hits=(1, 1, 0, 0))
    con = open_results(results.folder)
    (found,) = sections(con)
    assert [each.settings for each in found.sources] == ['{"views": 1}']
    assert [None if (gain := each.difference) is None else gain.mean for each in leaderboard(found)] == [
        0.5,
        0.25,
        None,
    ]
    domains = domain_accuracies(con, found)
    assert [set(row) for row in domains.differences][-1] == {0.0}
