"""What methods need beyond the stream, in the tables."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from analysis import schema
from analysis.aggregate.standings import leaderboard
from analysis.figures.table import NOT_AVAILABLE, markdown
from analysis.report.leaderboard import cost_table, leaderboard_latex, leaderboard_markdown, leaderboard_table
from analysis.report.report import report_markdown, write_report
from analysis.report.summary import summary
from analysis.results import needs
from analysis.results.configurations import configurations, sections
from analysis.results.load import open_results, rows
from analysis.results.needs import need_words, needs_note, read_needs
from tta_core.methods.spec import HELD_OUT_IMAGES, HELD_OUT_LABELS, LABELLED_SOURCE_IMAGES, NEEDS, SOURCE_IMAGES

NEW_COLUMNS = ("needs", "artefact", "scored_logits")


@pytest.fixture
def needy(results):
    """Source, tent, imse (source images) and mgtta (held-out corruptions with labels), one seed each."""
    results.add("source", 0, (1, 0, 0, 0))
    results.add("tent", 0, (1, 1, 0, 0))
    results.add("imse", 0, (1, 1, 1, 0), needs=SOURCE_IMAGES, artefact="0123456789ab")
    results.add("mgtta", 0, (1, 1, 1, 1), needs=f"{HELD_OUT_IMAGES}, {HELD_OUT_LABELS}")
    return results


def _old(folder) -> None:
    """Rewrites a cell as version 2 wrote it."""
    file = folder / "cell.parquet"
    table = pq.read_table(file).drop_columns(list(NEW_COLUMNS))
    pq.write_table(table.replace_schema_metadata({schema.VERSION_KEY: b"2"}), file)


def test_the_words_stand_for_all_that_a_method_can_need() -> None:
    known = (needs.SOURCE_IMAGES, needs.LABELLED_SOURCE_IMAGES, needs.HELD_OUT_IMAGES, needs.HELD_OUT_LABELS)
    assert known == tuple(NEEDS)
    assert not any(schema.NEEDS_SEPARATOR in need for need in NEEDS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), []),
        ((SOURCE_IMAGES,), ["clean"]),
        ((LABELLED_SOURCE_IMAGES,), ["clean+"]),
        ((HELD_OUT_IMAGES,), ["held-out"]),
        ((HELD_OUT_IMAGES, HELD_OUT_LABELS), ["held-out+"]),
        (tuple(NEEDS), ["clean", "clean+", "held-out+"]),
        (("a text encoder", SOURCE_IMAGES), ["clean", "a text encoder"]),
    ],
)
def test_words(given, words) -> None:
    assert need_words(given) == words
    assert read_needs(schema.NEEDS_SEPARATOR.join(given)) == given


def test_the_note_explains_the_words_that_are_used() -> None:
    assert needs_note([(), None]) == ""
    note = needs_note([(SOURCE_IMAGES,), (), None, ("a text encoder",)])
    assert note.endswith("clean: clean images of the source, without labels; a text encoder.")
    assert "held-out" not in note


def test_every_table_shows_what_is_needed(needy) -> None:
    con = open_results(needy.folder)
    (section,) = sections(con)
    for table in (leaderboard_table(leaderboard(section), section), cost_table(section)):
        column = table.headers.index("Needs")
        names = [row[table.headers.index("Configuration")] for row in table.rows]
        assert dict(zip(names, (row[column] for row in table.rows), strict=True)) == {
            "mgtta": "held-out+",
            "imse": "clean",
            "tent": "",
            "source": "",
        }
        assert len(table.numeric) == len(table.headers) == len(table.rows[0])
        assert not table.numeric[column]
        assert any(note.startswith("Needs: ") and "held-out+: images under" in note for note in table.notes)
    latex = leaderboard_latex(con)
    assert r"\begin{tabular}{llrrr}" in latex
    assert r"imse & clean & $75.0$ & $+50.0$ & 1 \\" in latex
    assert r"tent &  & $50.0$ & $+25.0$ & 1 \\" in latex
    assert latex.index(r"\end{tabular}") < latex.index("Needs: what a method is given") < latex.index(r"\end{table}")
    assert "mgtta needs more than the stream: held-out corruptions and labels of held-out" in summary(
        leaderboard(section)
    )
    page = write_report(needy.folder).read_text()
    assert page.count('<th scope="col">Needs</th>') == 2
    assert page.count("Needs: what a method is given before the stream") == 2


def test_the_leaderboard_fits_a_terminal(needy) -> None:
    lines = leaderboard_markdown(open_results(needy.folder)).splitlines()
    assert max(len(line) for line in lines if line.startswith("|")) <= 120


def test_without_needs_there_is_no_column(quickstart) -> None:
    con = open_results(quickstart.folder)
    assert "Needs" not in report_markdown(con)
    assert "Needs" not in leaderboard_latex(con)
    assert "Needs" not in write_report(quickstart.folder).read_text()


def test_all_protocols_show_the_column_and_one_note(needy) -> None:
    needy.add("tent", 0, protocol={"stream": "continual"})
    text = leaderboard_markdown(open_results(needy.folder))
    assert text.count("| Needs") == 2
    assert text.count("Needs: what a method is given") == 1


def test_results_of_an_older_version_lack_the_columns(results) -> None:
    for folder in (results.add("source", 0, (1, 0)), results.add("imse", 0, (1, 1)), results.fail("tent", 0)):
        _old(folder)
    con = open_results(results.folder)
    assert rows(con, f"select distinct {', '.join(NEW_COLUMNS)} from cells") == [(None, None, None)]
    assert [each.needs for each in configurations(con)] == [None, None, None]
    assert "Needs" not in report_markdown(con)
    assert write_report(results.folder).exists()


def test_older_and_newer_cells_of_one_folder(needy) -> None:
    _old(needy.add("tent", 1, (1, 1, 0, 0)))  # the newest cell of tent, but an older one says what it needs
    _old(needy.add("moetta", 0, (1, 0, 0, 0)))
    con = open_results(needy.folder)
    (section,) = sections(con)
    found = {each.method: each.needs for each in section.configurations}
    assert found == {
        "source": (),
        "tent": (),
        "moetta": None,
        "imse": (SOURCE_IMAGES,),
        "mgtta": (HELD_OUT_IMAGES, HELD_OUT_LABELS),
    }
    text = markdown(leaderboard_table(leaderboard(section), section))
    assert f"| moetta        | {NOT_AVAILABLE} " in text
    assert "under Needs: written by a version that did not record it" in text
