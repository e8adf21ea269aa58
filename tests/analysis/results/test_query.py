"""SQL of users: what reads is answered, what writes is refused before it runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from analysis.results.load import ResultsError, open_results
from analysis.results.query import query_results

READS = [
    "select method from cells",
    "SELECT method, avg(accuracy) FROM cells GROUP BY method;",
    "with a as (select 1 as x) from a union select 2 except select 3",
    "with recursive a as (select 1 as x union all select x + 1 from a where x < 3) from a",
    "with a as materialized (select 1) select (select count(*) from a)",
    "from cells",
    "table cells",
    "values (1, 'copy'), (2, 'x')",
    "(select 1)",
    "select count(*) from cells join samples using (cell) where cells.method in (select 'copy')",
    "select * from range(3), unnest([1, 2])",
    "select sum(seed) over (order by cell) from cells qualify row_number() over () = 1",
    "pivot cells on method in ('source', 'tent') using count(*)",
    "unpivot (select 1 as a, 2 as b) on a, b",
    "describe cells",
    "describe select 1",
    "show tables",
    "summarize cells",
    "explain select 1",
    "explain (select 1)",
    "EXPLAIN ANALYZE SELECT count(*) FROM samples",
    "explain (analyze, format json) select 1",
    "-- a word before\nexplain /* and one inside */ select 1",
    "select 1; select method from cells",
    "select json_extract(settings, '$.lr') from cells",
    "select column_name from duckdb_columns()",
]


@pytest.mark.parametrize("sql", READS)
def test_queries_are_answered(results, sql: str) -> None:
    results.add("source")
    names, rows = query_results(results.folder, sql)
    assert names
    assert rows


# {} is a file of a cell.
WRITES = [
    "copy (select 1) to '{}'",
    "COPY cells TO '{}' (FORMAT parquet)",
    "select 1; copy (select 1) to '{}'",
    "copy (select 1) to '{}'; select 1",
    "/* select */ copy (select 1) to '{}'",
    "with a as (copy (select 1) to '{}') select * from a",
    "from (with a as (copy (select 1) to '{}') select * from a)",
    "explain analyze copy (select 1) to '{}'",
    "explain (analyze) copy (select 1) to '{}'",
    "explain /* x */ analyze copy (select 1) to '{}'",
    "explain copy (select 1) to '{}'",
    "explain analyze with a as (copy (select 1) to '{}') select * from a",
    "explain analyze create table a as select 1",
    "from json_execute_serialized_sql(json_serialize_sql('with a as (copy (select 1) to ''{}'') from a'))",
    "from query('from json_execute_serialized_sql(''{{}}'')')",
    'select * from cells, lateral "QUERY"($$select 1$$)',
    "export database '{}'",
    "import database '{}'",
    "attach '{}' as a",
    "attach ':memory:' as a",
    "create table a as select 1",
    "create or replace view cells as select 1",
    "create macro a() as table select 1",
    "drop view cells",
    "insert into cells select * from cells",
    "with a as (delete from cells returning *) from a",
    "update cells set seed = 1",
    "set threads = 1",
    "set variable batches_files = ''",
    "reset threads",
    "use main",
    "pragma database_list",
    "pragma profile_output = '{}'",
    "call enable_logging()",
    "from enable_logging(storage := 'file', storage_path := '{}')",
    "select (select 1 from enable_profiling(save_location := '{}'))",
    "describe (from truncate_duckdb_logs())",
    "summarize from checkpoint()",
    "checkpoint",
    "vacuum",
    "begin",
    "prepare a as select 1",
    "execute a",
    "install httpfs",
    "load httpfs",
    "create secret a (type s3)",
    "comment on view cells is 'a'",
    "pivot cells on method using count(*)",
]


@pytest.mark.parametrize("sql", WRITES)
def test_what_would_change_something_is_refused_before_it_runs(results, tmp_path: Path, sql: str) -> None:
    target = results.add("source") / "samples.parquet"
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        ResultsError, match=r".*\. Allowed are SELECT .*: results are only read here; to keep an answer"
    ):
        query_results(results.folder, sql.format(target))
    assert before == {p: hashlib.sha256(p.read_bytes()).digest() for p in tmp_path.rglob("*") if p.is_file()}
    assert query_results(results.folder, "select count(*) from samples") == (["count_star()"], [(2,)])


def test_files_elsewhere_cannot_be_read(results, tmp_path: Path) -> None:
    results.add("source")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for sql in (
        f"from '{tmp_path}/secret.csv'",
        f"from read_text('{tmp_path}/secret.csv')",
        f"from read_text('{results.folder}/cells/../../secret.csv')",
        f"from glob('{tmp_path}/*')",
        "from read_csv('/etc/passwd')",
        "from 'https://example.org/a.parquet'",
    ):
        with pytest.raises(ResultsError, match="the query failed"):
            query_results(results.folder, sql)


@pytest.mark.parametrize("sql", ["", ";", "  -- nothing"])
def test_no_statement_is_said_to_be_none(results, sql: str) -> None:
    with pytest.raises(ResultsError, match=r"has no statement\. Allowed are SELECT"):
        query_results(results.folder, sql)


def test_a_mistake_is_told_with_the_views(results) -> None:
    with pytest.raises(ResultsError, match=r"the query failed: .*celsl(.|\n)*Views: cells, batches"):
        query_results(results.folder, "select * from celsl")


def test_a_connection_of_the_library_is_locked_but_for_what_users_tune(results) -> None:
    con = open_results(results.folder)
    con.sql("set threads = 1")
    con.sql("set TimeZone = 'Europe/Berlin'")
    for sql in ("set profile_output = 'a'", "call enable_logging()", "set allowed_configs = ['profile_output']"):
        with pytest.raises(Exception, match="locked"):
            con.sql(sql)


def test_an_answer_that_does_not_fit_into_memory_is_refused(results) -> None:
    results.add("source")
    with pytest.raises(ResultsError, match="more than 5,000,000 rows: add LIMIT"):
        query_results(results.folder, "from range(10_000_000_000)")


def test_text_of_no_encoding_is_refused(results) -> None:
    results.add("source")
    with pytest.raises(ResultsError, match="the query failed"):
        query_results(results.folder, "select '\ud800'")
