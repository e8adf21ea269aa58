"""Result tables, as they are before they are written."""

import math
from datetime import UTC, datetime

import pytest

import tta_core
from analysis import schema
from grid.store.tables import failure_table, result_tables
from tta_core.run.config import RunConfig

SMALL = {"preset": "digits-c", "severity": 4, "samples_per_domain": 20, "domains": ["fog", "contrast"]}


@pytest.fixture(scope="module")
def result():
    values = {"method": "moetta", "stream": "continual", "batch_size": 8, "diagnostics": "all", "diagnostics_every": 2}
    return tta_core.run(values | SMALL)


@pytest.fixture(scope="module")
def tables(result):
    return result_tables(result, sweep="s", git_commit="abc")


def test_tables_have_the_stored_schema(tables):
    assert tables["diagnostics"].schema == schema.DIAGNOSTICS
    assert tables["samples"].schema == schema.SAMPLES
    assert tables["samples"]["segment"].to_pylist() == [0] * 20 + [1] * 20


def test_every_measurement_is_a_row_in_its_place(result, tables):
    rows = tables["diagnostics"].to_pylist()
    usage = [row for row in rows if row["quantity"] == "expert_usage"]
    assert len(rows) == len(result.measurements) + len(usage)
    assert {row["cell"] for row in rows} == {result.cell}
    for layer, shares in result.diagnostics["expert_usage"].items():
        assert [row["value"] for row in usage if row["layer"] == layer] == shares
        assert {(row["step"], row["domain"], row["against"]) for row in usage} == {(None, "", "")}
    places = ("quantity", "value", "step", "layer", "domain", "against", "item")
    stored = [tuple(row[place] for place in places) for row in rows if row["quantity"] != "expert_usage"]
    assert stored == [tuple(getattr(one, place) for place in places) for one in result.measurements]
    assert {row["step"] for row in rows if row["quantity"] == "load_balance"} == {0, 2, 4, 5}
    assert all(math.isfinite(row["value"]) for row in rows)


def test_a_cell_says_what_its_method_needs_and_what_is_scored(tables):
    row = tables["cell"].to_pylist()[0]
    assert (row["needs"], row["artefact"], row["scored_logits"]) == ("", "", "pre-update")


@pytest.mark.parametrize(
    ("settings", "needs"), [({}, "source images"), ({"retrieval": "none"}, "")], ids=["needy", "not"]
)
def test_needs_are_those_of_the_settings_and_the_artefact_is_named(settings, needs):
    result = tta_core.run({"method": "imse", "settings": {"source_samples": 20} | settings} | SMALL)
    row = result_tables(result, sweep="s", git_commit="")["cell"].to_pylist()[0]
    assert (row["needs"], row["artefact"]) == (needs, result.artefact)
    assert bool(result.artefact) == bool(needs)


def test_a_failed_cell_says_what_its_method_needs():
    config = RunConfig.from_values({"method": "imse"} | SMALL)
    table = failure_table(config, "no luck", sweep="s", git_commit="", started_at=datetime.now(UTC))
    row = table.to_pylist()[0]
    assert (row["needs"], row["artefact"], row["scored_logits"]) == ("source images", "", "pre-update")


def test_a_cell_without_diagnostics_has_an_empty_table():
    result = tta_core.run({"method": "source", "diagnostics": "none"} | SMALL)
    table = result_tables(result, sweep="s", git_commit="")["diagnostics"]
    assert table.num_rows == 0
    assert table.schema == schema.DIAGNOSTICS
