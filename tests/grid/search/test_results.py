"""What is stored of a search: honest tables, roles, choices that labels of reported cells cannot move."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from analysis import schema
from analysis.aggregate.studies import read_studies
from analysis.report.leaderboard import leaderboard_markdown
from analysis.report.selections import selection_table
from analysis.results.checks import check_results
from analysis.results.configurations import configurations
from analysis.results.load import open_results
from grid.commands.main import main
from grid.search.scores import ForeignCellError, StoredScores
from tests.grid.search.conftest import SEARCHED, history

FEW = ["search.trials=6", "search.space={tent.lr: {low: 0.0001, high: 1.0, log: true}}"]


@pytest.fixture
def done(driver):
    made = driver(overrides=FEW)
    made.run()
    return made


def permute_reported_labels(store, cells):
    for cell in cells:
        file = store.cell_folder(cell) / "samples.parquet"
        table = pq.read_table(file)
        labels = pa.array([1 - label for label in table["label"].to_pylist()], pa.int32())
        pq.write_table(
            table.set_column(table.schema.get_field_index("label"), table.schema.field("label"), labels), file
        )


def test_reported_labels_do_not_move_the_choice(driver):
    """All right predictions of the reported cells become wrong: a search that looked would choose another setting."""
    plain = driver(folder="plain", overrides=FEW)
    expected = plain.run()
    other = driver(folder="other", overrides=FEW)
    write = other.store.write_result

    def write_permuted(result, **more):
        write(result, **more)
        if "fog" in result.config.domains:
            permute_reported_labels(other.store, [result.cell])

    other.store.write_result = write_permuted
    assert history(other.run()) == history(expected)
    assert other.search.studies[0].best.settings == expected.studies[0].best.settings


def test_a_study_reads_no_foreign_cell(done):
    (study,) = done.search.studies
    reported = study.plan.reported({})[0]
    scores = StoredScores(done.store, ["accuracy"])
    with pytest.raises(ForeignCellError):
        scores.of(reported.cell_id(), study.plan.instances({})[0].config)


def test_only_chosen_and_default_cells_stand_in_tables(done):
    con = open_results(done.store.folder)
    roles = dict(con.sql("select role, count(*) from cells group by role").fetchall())
    (study,) = done.search.studies
    chosen = {config.cell_id() for config in study.chosen()}
    assert roles["reported"] == len(set(done.plan.cells) | chosen)
    assert roles["selection"] == len(done.ran) - roles["reported"]
    assert {cell for (cell,) in con.sql("select cell from cells where role = 'reported'").fetchall()} == (
        set(done.plan.cells) | chosen
    )
    labels = {each.label for each in configurations(con)}
    assert labels == {"source", "tent", "tent, tuned (held-out, 6 trials)"}
    assert "tuned (held-out, 6 trials)" in leaderboard_markdown(con)
    assert check_results(con) == []


def test_a_default_that_nothing_beat_has_one_row(driver):
    done = driver(overrides=[*FEW, "search.first=presets", "search.trials=1", "search.seeds=[1000]"])
    (study,) = done.run().studies
    con = open_results(done.store.folder)
    assert {each.label for each in configurations(con)} == {"source", "tent, default = tuned (held-out, 1 trials)"}
    assert "no setting was better than the default" in read_studies(con)[0].warnings()
    assert study.chosen()[0].cell_id() in done.plan.cells


def test_what_a_killed_search_left_stands_in_no_table(driver):
    killed = driver(overrides=FEW)
    killed.run(stop_after=5)
    con = open_results(killed.store.folder)
    assert con.sql("select count(*) from cells where role = 'reported'").fetchall() == [(0,)]
    assert con.sql("select distinct state from studies").fetchall() == [("open",)]
    assert "No cell has finished" in leaderboard_markdown(con)


def test_views_have_studies_trials_and_choices(done):
    con = open_results(done.store.folder)
    (study,) = done.search.studies
    assert con.sql("select study, state, best_trial from studies").fetchall() == [
        (study.plan.name, "done", study.best.number)
    ]
    rows = con.sql("select trial, settings, value, cells from trials order by trial").fetchall()
    assert [(number, json.loads(text), value, cells) for number, text, value, cells in rows] == [
        (trial.number, trial.settings, trial.value, len(trial.scores)) for trial in study.trials
    ]
    recount = con.sql(
        "select trial, avg(hits) from (select cell, avg((label = prediction)::int) as hits from samples group by cell) "
        "join trial_cells using (cell) where value is not null group by trial order by trial"
    ).fetchall()
    assert dict(recount) == pytest.approx({trial.number: trial.value for trial in study.trials})
    rules = con.sql("select rule, current, len(cells) from selections order by rule").fetchall()
    assert rules == [("default", True, 2), ("held-out", True, 2)]
    for file, kind in schema.SEARCH_FILES.items():
        stored = pq.read_schema(done.store.folder / "search" / study.plan.name / f"{file}.parquet")
        assert stored.names == kind.names
        assert stored.metadata[schema.VERSION_KEY] == str(schema.SCHEMA_VERSION).encode()


def test_a_study_that_went_on_and_chose_anew_reports_its_new_choice_only(driver):
    # A first trial that any other beats.
    asked = ["search.ahead=1", "search.first=[{tent.lr: 1.0, tent.momentum: 0.9}]"]
    few = driver(folder="on", overrides=["search.trials=1", *asked])
    first = few.run().studies[0].best
    more = driver(folder="on", overrides=["search.trials=12", *asked])
    (study,) = more.run().studies
    assert study.best.settings != first.settings
    con = open_results(more.store.folder)
    labels = [each.label for each in configurations(con) if each.method == "tent"]
    assert sorted(labels) == ["tent", "tent, tuned (held-out, 12 trials)"]
    assert con.sql("select count(*) from cells where role = 'superseded'").fetchall() == [(2,)]
    other = driver(folder="on", overrides=["search.trials=3", *asked, "search.sampler=random"])
    other.run()
    assert [each.study for each in read_studies(open_results(more.store.folder))] == [other.plan.studies[0].name]


def test_an_oracle_is_marked_everywhere(driver):
    done = driver(overrides=[*FEW, "search.oracle=true"])
    done.run()
    con = open_results(done.store.folder)
    assert "tuned on the reported stream (oracle)" in leaderboard_markdown(con)
    table = selection_table(con)
    assert table.kinds == ("alarm",)
    assert "no result" in " ".join(table.notes)


def test_the_selection_table_recounts(done):
    con = open_results(done.store.folder)
    (row,) = selection_table(con).rows
    means = dict(
        con.sql(
            "select rule, avg(accuracy) from (select rule, unnest(cells) as cell from selections) "
            "join cells using (cell) group by rule"
        ).fetchall()
    )
    assert float(row[3]) == pytest.approx(100 * means["default"], abs=0.05)
    assert float(row[4]) == pytest.approx(100 * means["held-out"], abs=0.05)


def test_show_and_export(done):
    folder = str(done.store.folder)
    shown = CliRunner().invoke(main, ["search", "show", folder])
    assert shown.exit_code == 0, shown.output
    assert "held-out" in shown.output
    (values,) = json.loads(CliRunner().invoke(main, ["search", "show", folder, "--json"]).output)
    best = done.search.studies[0].best
    assert values["choices"][1]["settings"] == best.settings
    exported = CliRunner().invoke(main, ["search", "export", folder]).output
    assert f"tent.lr: {best.settings['lr']}" in exported
    missing = CliRunner().invoke(main, ["search", "show", folder, "--study", "nothing"])
    assert missing.exit_code == 2
    assert "give one of these" in missing.output


def test_folders_of_before_have_no_search(driver):
    plain = driver(SEARCHED.partition("search:")[0])
    for config in plain.plan.cells.values():
        plain.store.write_result(plain.result(config), sweep="tuned", git_commit="")
    con = open_results(plain.store.folder)
    assert con.sql("select distinct role from cells").fetchall() == [("reported",)]
    assert con.sql("from trials").fetchall() == []
    assert selection_table(con) is None
    done = CliRunner().invoke(main, ["search", "show", str(plain.store.folder)])
    assert done.exit_code == 2
    assert "has no studies" in done.output
