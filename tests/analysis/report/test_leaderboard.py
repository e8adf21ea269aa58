from __future__ import annotations

from analysis.aggregate.standings import leaderboard
from analysis.figures.table import markdown
from analysis.report.leaderboard import (
    DIFFERENCE_NOTE,
    INTERVAL_NOTE,
    cost_table,
    failed_table,
    leaderboard_latex,
    leaderboard_markdown,
    leaderboard_table,
)
from analysis.report.summary import summary
from analysis.results.configurations import sections
from analysis.results.load import open_results
from analysis.texts import MINUS, NOT_AVAILABLE, join_words, points


def _section(results):
    (section,) = sections(open_results(results.folder))
    return section


def test_points_have_a_sign_unless_they_are_zero() -> None:
    assert [points(value) for value in (0.042, -0.003, 0.0004, -0.0004)] == ["+4.2", f"{MINUS}0.3", "0.0", "0.0"]


def test_leaderboard_rows(quickstart) -> None:
    table = leaderboard_table(leaderboard(_section(quickstart)))
    assert table.rows[0] == (
        "1", "moetta num_experts=9", "75.0", "11.5 to 138.5", "70.0 to 80.0", "+20.0", f"{MINUS}107.1 to +147.1", "2",
    )  # fmt: skip
    assert table.rows[2] == ("3", "source", "55.0", f"{MINUS}8.5 to 118.5".replace(MINUS, "-"), "50.0 to 60.0",
                             "reference", "", "2")  # fmt: skip
    assert table.kinds == ("best", "", "reference", "")
    assert table.notes == (INTERVAL_NOTE, DIFFERENCE_NOTE)


def test_one_seed_has_dashes_and_says_why(results) -> None:
    results.add("source", 0, (1, 0))
    results.add("tent", 0, (1, 1))
    table = leaderboard_table(leaderboard(_section(results)))
    assert table.rows[0] == ("1", "tent", "100.0", NOT_AVAILABLE, NOT_AVAILABLE, "+50.0", NOT_AVAILABLE, "1")
    assert any("one seed" in note for note in table.notes)


def test_without_source_there_is_no_difference(results) -> None:
    results.add("tent", 0)
    results.add("tent", 1)
    table = leaderboard_table(leaderboard(_section(results)))
    assert table.rows[0][5:] == (NOT_AVAILABLE, NOT_AVAILABLE, "2")
    assert any("no finished source cell" in note for note in table.notes)
    assert DIFFERENCE_NOTE not in table.notes


def test_markdown_has_aligned_columns(quickstart) -> None:
    lines = leaderboard_markdown(open_results(quickstart.folder)).splitlines()
    assert lines[0] == "## benchmark digits-c v1, stream mixed, severity 5"
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert len(table) == 2 + 4


def test_markdown_of_two_protocols_has_two_tables(results) -> None:
    results.add("source")
    results.add("source", protocol={"stream": "continual"})
    text = leaderboard_markdown(open_results(results.folder))
    assert [line for line in text.splitlines() if line.startswith("#")] == ["## stream continual", "## stream mixed"]


def test_cost_rows(quickstart) -> None:
    table = cost_table(_section(quickstart))
    assert table.rows[0] == ("moetta num_experts=9", "6.0", "5", "3.00", "100", "1,000")
    assert table.rows[2][3] == "1.00"


def test_cost_names_devices_where_there_are_several(results) -> None:
    results.add("source", 0)
    results.add("tent", 0, device="cuda")
    table = cost_table(_section(results))
    assert table.headers[-1] == "Device"
    assert {row[0]: row[3] for row in table.rows} == {"source": "1.00", "tent": NOT_AVAILABLE}


def test_failures_cannot_break_the_table_or_the_terminal(results) -> None:
    results.fail("tent", 3, "bad | value\n\x1b[31mred", settings={"lr": 1})
    table = failed_table(open_results(results.folder))
    assert table.rows == (("tent", "3", "tent-lr1-mixed-3", "bad | value\n [31mred"),)
    assert "bad \\| value [31mred" in markdown(table)
    assert "\x1b" not in markdown(table)


def test_latex(quickstart) -> None:
    text = leaderboard_latex(open_results(quickstart.folder))
    assert r"moetta num\_experts=9 & $75.0 \pm 63.5$ & $+20.0 \pm 127.1$ & 2 \\" in text
    assert r"source & $55.0 \pm 63.5$ & -- & 2 \\" in text
    assert r"tent & $40.0 \pm 0.0$ & $-15.0 \pm 63.5$ & 2 \\" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1


def test_nothing_finished(results) -> None:
    con = open_results(results.folder)
    assert leaderboard_markdown(con) == "No cell has finished."
    assert leaderboard_latex(con) == "% No cell has finished."


def test_words() -> None:
    assert [join_words(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_summary_says_that_an_interval_includes_zero(quickstart) -> None:
    text = summary(leaderboard(_section(quickstart)))
    assert "best configuration is moetta num_experts=9 with 75.0 % (mean of 2 seeds), 20.0 points above source" in text
    assert "includes 0" in text
    assert f"Below source: tent ({MINUS}15.0;" in text
    assert "two seeds" in text
    assert "significant" not in text


def test_summary_says_that_an_interval_excludes_zero(results) -> None:
    for seed in (0, 1):
        results.add("source", seed, (0, 0))
        results.add("tent", seed, (1, 1))
    text = summary(leaderboard(_section(results)))
    assert "excludes 0" in text
    assert "It does not fall below source." in text


def test_summary_when_nothing_beats_source(results) -> None:
    results.add("source", 0, (1, 1))
    results.add("tent", 0, (1, 0))
    text = summary(leaderboard(_section(results)))
    assert "The only configuration besides source is tent with 50.0 % (one seed), 50.0 points below source" in text
    assert "no interval" in text


def test_summary_without_source_and_with_source_only(results) -> None:
    results.add("tent", 0)
    assert "nothing can be said about a gain" in summary(leaderboard(_section(results)))


def test_summary_of_source_only(results) -> None:
    results.add("source", 0)
    assert summary(leaderboard(_section(results))).startswith("Only source was run: 50.0 % (one seed).")


def test_configurations_that_skipped_images_are_marked_in_every_form(results):
    results.add("source", hits=[1, 0])
    results.add("tent", hits=[1], n_samples=2, skipped_images=1)
    text = leaderboard_markdown(open_results(results.folder))
    assert "| tent † " in text
    assert "| source " in text
    assert "† Damaged images were skipped, so the numbers are of fewer images. tent: 1 of 2." in text
    latex = leaderboard_latex(open_results(results.folder))
    assert r"tent \dag{} &" in latex
    assert r"\dag{} Damaged images were skipped" in latex
