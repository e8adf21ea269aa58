"""Methods whose scored logits are not those before the update, and the source that they are compared with."""

from __future__ import annotations

import pytest

from analysis.aggregate.standings import cost_relative_to_source, domain_accuracies, leaderboard
from analysis.report.leaderboard import leaderboard_latex, leaderboard_markdown, leaderboard_table
from analysis.report.report import report_markdown, write_report
from analysis.results.checks import CHECKS, check_results
from analysis.results.configurations import sections
from analysis.results.load import open_results
from analysis.results.protocols import heading_order, headings
from analysis.vocabulary import SCORED

AFTER = {"scored_logits": "post-update"}
BEFORE = {"scored_logits": "pre-update"}


@pytest.fixture
def mixed(results):
    """Source and tent, scored before the update; foa, scored after it; two seeds of four samples each.

    Accuracies at seeds 0 and 1: source 0.5, 0.25; tent 0.5, 0.5; foa 0.75, 0.75.
    """
    for method, protocol, hits in (("source", BEFORE, (2, 1)), ("tent", BEFORE, (2, 2)), ("foa", AFTER, (3, 3))):
        for seed, count in enumerate(hits):
            results.add(
                method,
                seed,
                [1] * count + [0] * (4 - count),
                domains=["snow", "snow", "fog", "fog"],
                protocol=protocol,
                seconds={"source": 2.0, "tent": 4.0, "foa": 20.0}[method],
            )
    return results


def _by_method(section):
    return {each.configuration.method: each for each in leaderboard(section)}


def test_source_is_taken_over_and_nothing_else(mixed) -> None:
    before, after = sections(open_results(mixed.folder))
    assert [each.method for each in before.configurations] == ["tent", "source"]
    assert [each.method for each in after.configurations] == ["foa", "source"]
    assert (before.lender, after.lender) == ("", before.fingerprint)
    assert (before.scored, after.scored) == ("pre-update", "post-update")


def test_differences_cost_and_domains_have_their_reference(mixed) -> None:
    con = open_results(mixed.folder)
    _, after = sections(con)
    found = _by_method(after)
    assert found["foa"].difference is not None
    assert found["foa"].difference.mean == pytest.approx(0.375)  # 0.25 and 0.5
    assert found["foa"].difference.count == 2
    assert (found["foa"].rank, found["source"].rank, found["source"].difference) == (1, 2, None)
    assert cost_relative_to_source(after) == [10.0, 1.0]
    domains = domain_accuracies(con, after)
    assert domains.domains == ("snow", "fog")
    assert domains.values == ((1.0, 0.5), (0.75, 0.0))
    assert domains.differences == ((0.25, 0.5), (0.0, 0.0))


def test_headings_say_what_is_scored_the_usual_first(mixed) -> None:
    mixed.add("sar", 0, (1, 0, 0, 0), protocol={"scored_logits": "perturbed"})
    start = "benchmark digits-c v1, stream mixed, severity 5, scored logits "
    found = [each.heading for each in sections(open_results(mixed.folder))]
    assert found == [start + "pre-update", start + "perturbed", start + "post-update"]


def test_headings_name_scored_logits_beside_what_else_differs(mixed) -> None:
    mixed.add("source", 0, protocol=BEFORE | {"stream": "continual"})
    found = [each.heading for each in sections(open_results(mixed.folder))]
    assert found == [
        "stream continual, scored logits pre-update",
        "stream mixed, scored logits pre-update",
        "stream mixed, scored logits post-update",
    ]


def test_one_protocol_says_what_is_scored_unless_it_is_the_usual() -> None:
    one = {"benchmark": "digits-c v1", "stream": "mixed", "severity": 5}
    assert headings({"a": one | BEFORE}) == {"a": "benchmark digits-c v1, stream mixed, severity 5"}
    assert headings({"a": one | AFTER})["a"].endswith("severity 5, scored logits post-update")
    assert sorted(headings({"a": AFTER, "b": BEFORE}).values(), key=heading_order) == [
        "scored logits pre-update",
        "scored logits post-update",
    ]


@pytest.mark.parametrize("other", [{"severity": 3}, {"stream": "continual"}, {"batch_size": 1}])
def test_source_of_another_protocol_is_not_taken_over(mixed, other) -> None:
    mixed.add("lame", 0, protocol=AFTER | other, fingerprint="other", cell="other", folder="other")
    (found,) = [each for each in sections(open_results(mixed.folder)) if each.fingerprint == "other"]
    assert [each.method for each in found.configurations] == ["lame"]
    assert [each.difference for each in leaderboard(found)] == [None]


def test_a_section_with_a_source_of_its_own_takes_over_none(mixed) -> None:
    mixed.add("source", 0, (1, 1, 1, 1), protocol=AFTER, cell="own", folder="own")
    after = sections(open_results(mixed.folder))[-1]
    assert after.lender == ""
    assert [each.accuracies for each in after.sources] == [{0: 1.0}]


def test_source_that_is_only_a_reference_elsewhere_has_no_section_of_its_own(results) -> None:
    results.add("source", 0, (1, 0), protocol=BEFORE)
    results.add("foa", 0, (1, 1), protocol=AFTER)
    (found,) = sections(open_results(results.folder))
    assert [each.method for each in found.configurations] == ["foa", "source"]
    results.add("source", 0, protocol=BEFORE | {"stream": "continual"})
    assert len(sections(open_results(results.folder))) == 2


def test_without_a_finished_source_there_is_no_difference(results) -> None:
    results.fail("source", 0)
    results.add("foa", 0, (1, 1), protocol=AFTER)
    (found,) = sections(open_results(results.folder))
    assert [each.difference for each in leaderboard(found)] == [None]


def test_results_that_do_not_say_what_is_scored_count_as_the_usual(results) -> None:
    results.add("source", 0, (1, 0))
    results.add("foa", 0, (1, 1), protocol=AFTER)
    (found,) = sections(open_results(results.folder))
    assert found.lender == "print-mixed"


def test_seeds_and_orders_are_checked_across_what_is_scored(mixed) -> None:
    assert check_results(open_results(mixed.folder)) == []
    mixed.add("foa", 2, (1, 1, 1, 1), protocol=AFTER)
    mixed.add("lame", 0, (1, 1, 1, 1), protocol=AFTER, stream_order="other")
    order, seeds = (
        "cells of one protocol and seed saw the same stream",
        "each configuration has finished with every seed",
    )
    assert {order, seeds} <= set(CHECKS)
    problems = [(each.check, each.message) for each in check_results(open_results(mixed.folder))]
    assert {check for check, _ in problems} == {order, seeds}
    messages = [message for _, message in problems]
    assert any("protocols print-mixed, print-mixed-post-update, seed 0: 2 stream orders" in each for each in messages)
    assert "source (protocol print-mixed): no result with seed 2; seeds here are 0, 1, 2" in messages
    assert "lame (protocol print-mixed-post-update): no result with seed 1, 2; seeds here are 0, 1, 2" in messages


def test_tables_say_what_is_scored_and_where_source_comes_from(mixed) -> None:
    con = open_results(mixed.folder)
    before, after = sections(con)
    note = f"Scored logits post-update: {SCORED['post-update']}."
    assert note in leaderboard_table(leaderboard(after), after).notes
    assert not any("Scored logits" in each for each in leaderboard_table(leaderboard(before), before).notes)
    for text in (leaderboard_markdown(con), report_markdown(con), leaderboard_latex(con)):
        assert note in text
        assert "source adapts nothing" in text
    assert r"foa & $75.0 \pm 0.0$ & $+37.5 \pm" in leaderboard_latex(con)


def test_page(mixed) -> None:
    text = write_report(mixed.folder).read_text()
    assert "source under protocol <code>print-mixed</code>" in text
    assert text.count("Difference to source in each domain") == 2
    assert "<dt>Configurations</dt><dd>3</dd>" in text  # source counts once
