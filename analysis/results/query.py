"""Answers a user's SQL about a results folder, and refuses what would change anything.

DuckDB 2 writes in more ways than by statements of their own. `WITH x AS (COPY ... TO ...) SELECT ...` counts as a
SELECT, `EXPLAIN ANALYZE` runs what it explains, and some functions run text as SQL. So all parts of a parsed statement
are looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from analysis.results.load import open_results
from analysis.results.reading import UNREADABLE, ResultsError, retried

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""DuckDB's names for the parts of a statement that only read; COPY_QUERY_NODE and INSERT_QUERY_NODE are others."""

TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "json_each", "json_tree", "histogram", "histogram_values"),
        *("read_parquet", "parquet_scan", "parquet_schema", "parquet_metadata", "parquet_file_metadata"),
        *("parquet_kv_metadata", "read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_text", "read_blob"),
        *("glob", "duckdb_columns", "duckdb_functions", "duckdb_settings", "duckdb_types", "duckdb_views"),
    }
)
"""Functions that may stand in FROM. Of the others some run text as SQL, write logs or change the connection."""

MOST_ROWS = 5_000_000
"""All rows of an answer are in memory at once."""

ALLOWED = "Allowed are SELECT (also WITH, FROM, VALUES and UNION), DESCRIBE, SUMMARIZE, SHOW, and EXPLAIN of these"
TO_KEEP = "to keep an answer, add --format csv and send it to a file with > answer.csv"

_EXPLAIN = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*explain\b\s*", re.IGNORECASE | re.DOTALL)
_EXPLAIN_OPTION = re.compile(r"(?:analyze\b|\((?:\s|,|analyze\b|format\s+\w+)*\))\s*", re.IGNORECASE)


def query_results(folder: str | Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Runs SQL on a results folder.

    Args:
        folder: the folder that a sweep wrote to.
        sql: one statement, or several with semicolons: then the last one's answer counts.

    Returns:
        Names of the columns, and the rows.

    Raises:
        ResultsError: if the folder is none, DuckDB does not understand the SQL, a statement would do more than read,
            or the answer has more than `MOST_ROWS`.
    """
    connection = open_results(folder)
    try:
        sql.encode()  # DuckDB takes no text that came from bytes of no encoding.
        statements = duckdb.extract_statements(sql)
        if not statements:
            raise ResultsError(f"the query {sql!r} has no statement. {ALLOWED}: such as SELECT method FROM cells")
        for statement in statements:
            _check_reads_only(connection, statement)
        return retried(lambda: _answer(connection, sql), named_by_user=True)
    except (*UNREADABLE, UnicodeEncodeError) as error:
        raise ResultsError(
            f"the query failed: {error}\nViews: cells, batches, samples, diagnostics, and of a search studies, "
            "trials, trial_cells, selections; their columns: DESCRIBE cells"
        ) from None


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    answer = connection.execute(sql)
    rows = answer.fetchmany(MOST_ROWS + 1)
    if len(rows) > MOST_ROWS:
        raise ResultsError(f"the answer has more than {MOST_ROWS:,} rows: add LIMIT or WHERE, or group them")
    return [column[0] for column in answer.description or ()], rows


def _check_reads_only(connection: duckdb.DuckDBPyConnection, statement: Any) -> None:
    """Raises ResultsError for a statement that is not one of those allowed, with all that is in it."""
    parsed, kind = None, statement.type.name
    if kind == "SELECT":
        parsed = _parsed(connection, statement.query)
    elif kind == "EXPLAIN":
        parsed = _parsed_explained(connection, statement.query)
    if parsed is None:
        pivot = " (PIVOT: only with its values, ON column IN (a, b))" if kind == "MULTI" else ""
        raise _refused(f"{_shown(statement.query)} is not a query that only reads{pivot}")
    for part in _parts(parsed):
        name = str(part.get("type", ""))
        if name.endswith("_NODE") and name not in QUERY_NODES:
            raise _refused(f"{_shown(statement.query)} has {name.split('_')[0]} in it, which changes something")
        if name == "TABLE_FUNCTION":
            function = str(part["function"]["function_name"])
            if function not in TABLE_FUNCTIONS:
                raise _refused(f"{_shown(statement.query)} calls {function}, which may do more than read")


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """DuckDB's syntax tree of a query; None if the text is not one."""
    ((text,),) = connection.execute("select json_serialize_sql(?::varchar)", [sql]).fetchall()
    found = json.loads(text)
    return None if found["error"] else found["statements"]


def _parsed_explained(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The syntax tree of the query that is explained; None if something else is."""
    match = _EXPLAIN.match(sql)
    while match:
        sql = sql[match.end() :]
        found = _parsed(connection, sql)
        if found is not None:
            return found
        match = _EXPLAIN_OPTION.match(sql)
    return None


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """All parts of a syntax tree."""
    left = [node]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left += node.values()
        elif isinstance(node, list):
            left += node


def _refused(what: str) -> ResultsError:
    return ResultsError(f"{what}. {ALLOWED}: results are only read here; {TO_KEEP}")


def _shown(sql: str) -> str:
    text = " ".join(sql.split())
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
