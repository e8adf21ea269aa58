from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import schema
from analysis.results.load import ResultsError, open_results, rows


def test_empty_folder_gives_empty_typed_views(results) -> None:
    con = open_results(results.folder)
    for view, file in schema.VIEWS.items():
        assert rows(con, f"select count(*) from {view}") == [(0,)]
        computed = ["role"] if view == "cells" else []
        assert con.sql(f"select * from {view}").columns == [*schema.FILES[file].names, *computed]
    for view in ("studies", "trials", "trial_cells", "selections"):
        assert rows(con, f"select count(*) from {view}") == [(0,)]
    types = dict(rows(con, "select column_name, column_type from (describe cells)"))
    assert types["seed"] == "BIGINT"
    assert types["accuracy"] == "DOUBLE"
    assert types["severity"] == "INTEGER"
    assert types["settings"] == "VARCHAR"
    assert types["started_at"] == "TIMESTAMP"


def test_views_see_cells_and_columns_that_come_later(results) -> None:
    con = open_results(results.folder)
    results.add("source")
    assert rows(con, "select count(*) from cells") == [(1,)]
    results.add("moetta", scalars={"threshold": [0.5]})
    assert rows(con, "select count(*), count(threshold) from batches") == [(2, 1)]
    assert rows(con, "select count(*) from samples") == [(4,)]


def test_start_is_utc_and_can_be_fetched(results) -> None:
    results.add("source")
    (started,) = rows(open_results(results.folder), "select started_at from cells")[0]
    assert started == datetime(2026, 1, 2, 3, 4, 6)


def test_failure_is_hidden_once_the_cell_has_finished(results) -> None:
    results.fail("tent", seed=0)
    results.fail("tent", seed=1)
    con = open_results(results.folder)
    assert rows(con, "select seed, status from cells order by seed") == [(0, "failed"), (1, "failed")]
    results.add("tent", seed=0)
    assert rows(con, "select seed, status from cells order by seed") == [(0, "done"), (1, "failed")]


def test_hidden_folders_are_not_cells(results) -> None:
    target = results.add("source")
    shutil.copytree(target, target.with_name(".staging"))
    assert rows(open_results(results.folder), "select count(*) from cells") == [(1,)]


@pytest.mark.parametrize("name", ["it's", "a [b] *c?", "größe"])
def test_any_folder_name(results, tmp_path: Path, name: str) -> None:
    results.add("source")
    moved = results.folder.rename(tmp_path / name)
    assert rows(open_results(moved), "select method from cells") == [("source",)]


def test_folder_may_be_read_only(results) -> None:
    results.add("source")
    before = sorted(results.folder.rglob("*"))
    folders = [results.folder, *(path for path in before if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        assert rows(open_results(results.folder), "select count(*) from samples") == [(2,)]
    finally:
        for path in folders:
            path.chmod(0o755)
    assert sorted(results.folder.rglob("*")) == before


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"nowhere.* does not exist.*tta-grid run"):
        open_results(tmp_path / "nowhere")


def test_file_and_strange_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ResultsError, match="is a file"):
        open_results(tmp_path / "notes.txt")
    with pytest.raises(ResultsError, match="not a results folder"):
        open_results(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 500])
def test_torn_file_is_named(results, size: int) -> None:
    results.add("source")
    target = results.add("tent")
    with (target / "samples.parquet").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ResultsError, match=r"tent-mixed-0/samples\.parquet cannot be read.*delete the folder.*again"):
        open_results(results.folder)


def test_file_torn_after_opening(results) -> None:
    target = results.add("source")
    con = open_results(results.folder)
    (target / "samples.parquet").write_bytes(b"")
    with pytest.raises(ResultsError, match=r"samples\.parquet.*delete the folder"):
        rows(con, "select count(*) from samples where label = 1")


def _rewrite(file: Path, metadata: dict[bytes, bytes] | None) -> None:
    pq.write_table(pq.read_table(file).replace_schema_metadata(metadata), file)


def test_newer_version(results) -> None:
    target = results.add("source")
    _rewrite(target / "batches.parquet", {schema.VERSION_KEY: str(schema.SCHEMA_VERSION + 1).encode()})
    message = rf"batches\.parquet has schema version {schema.SCHEMA_VERSION + 1}.*reads up to {schema.SCHEMA_VERSION}"
    with pytest.raises(ResultsError, match=message + r".*upgrade"):
        open_results(results.folder)


def test_file_of_someone_else(results) -> None:
    target = results.fail("tent")
    pq.write_table(pa.table({"a": [1]}), target / "cell.parquet")
    with pytest.raises(ResultsError, match="has no schema version"):
        open_results(results.folder)


def test_no_access_beyond_the_results(results, tmp_path: Path) -> None:
    results.add("source")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    con = open_results(results.folder)
    for sql in (
        f"select * from '{tmp_path}/secret.csv'",
        f"copy (select 1) to '{tmp_path}/out.csv'",
        "install httpfs",
        "set enable_external_access = true",
    ):
        with pytest.raises(duckdb.Error):
            con.sql(sql)
    assert not (tmp_path / "out.csv").exists()
    assert rows(con, "select count(*) from cells") == [(1,)]


def test_a_column_of_another_type_is_one_message(results) -> None:
    file = results.add("source") / "cell.parquet"
    table = pq.read_table(file)
    place = table.column_names.index("accuracy")
    pq.write_table(table.set_column(place, "accuracy", pa.array(["high"])), file)
    with pytest.raises(ResultsError, match=r"the results could not be read: .*high"):
        rows(open_results(results.folder), "select accuracy from cells")


def test_cells_of_before_segmentation_have_their_accuracy_as_score(results) -> None:
    for folder in (results.add("source", 0, (1, 0)), results.fail("tent", 0)):
        file = folder / "cell.parquet"
        table = pq.read_table(file, partitioning=None)
        pq.write_table(table.drop_columns(["metric", "score", "class_accuracy"]), file)
    found = open_results(results.folder).sql("select metric, score, accuracy from cells order by status").fetchall()
    assert found == [("accuracy", 0.5, 0.5), ("accuracy", None, None)]
