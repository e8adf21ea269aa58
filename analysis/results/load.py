"""Opens a results folder as SQL views over its Parquet files.

The views are `cells`, `batches`, `samples`, `diagnostics` and `classes`, and of a search `studies`, `trials`,
`trial_cells` and `selections`; their columns are those of `analysis.schema`. They read the files anew for each query,
so cells that finish later appear in an open connection.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import schema
from analysis.results.reading import UNREADABLE, ResultsError, first_line, found_below, retried

__all__ = ["FINISHED", "ResultsError", "open_results", "rows", "scalar_fields"]

# Writers stage a cell under a hidden name before they rename it; `[!.]*` keeps such folders out of the views.
_CELL_FOLDERS = "[!.]*"

_SQL_TYPES: dict[pa.DataType, str] = {
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
}

# DuckDB hands out timestamps with a zone only if pytz is installed, which is not a dependency of ours. `started_at` is
# therefore a plain timestamp, in UTC, in the view.
_UTC_TIMESTAMP = "TIMESTAMP"

FINISHED = f"status = '{schema.DONE}'"
"""SQL: whether a row of `cells` is of a finished cell."""

_REPAIR = (
    "Allowed are complete Parquet files: tta-grid check DIR --repair moves damaged cells away (or delete the folder of "
    "the cell that is named here), and running the sweep again makes them anew"
)

_FOLDER = "results_folder"
"""Variable of the connection."""

IN_TABLES = f"role = '{schema.REPORTED}'"
"""SQL: whether a row of `cells` stands in tables. Those that only chose settings do not."""

_ROLE = f"""
case when cell in (select cell from sweep_cells)
    or cell in (select unnest(cells) from selections where current and rule <> '{schema.CANDIDATE}')
    then '{schema.REPORTED}'
when cell in (select unnest(cells) from selections where current) then '{schema.CANDIDATE}'
when cell in (select unnest(cells) from selections) then '{schema.SUPERSEDED}'
when cell in (select cell from trial_cells union all select unnest("references") from studies)
    then '{schema.SELECTION}'
else '{schema.REPORTED}' end as role
"""

_BATCHES_FILES = "batches_files"
"""Variable of the connection; the fields' metadata cannot be had from the view."""


def open_results(folder: str | Path) -> duckdb.DuckDBPyConnection:
    """Opens a results folder.

    Args:
        folder: the folder that a sweep wrote to; it is only read.

    Returns:
        A connection to an in-memory database with the views `cells` (finished and failed cells; a failure is not shown
        once the cell has finished), `batches`, `samples`, `diagnostics`, `classes`, and those of a search. The column
        `cells.role` says whether a cell stands in tables. `cells.started_at` is in UTC. The
        connection may open no file outside the folder and loads no extension, and of its configuration only threads,
        memory limit and time zone can be changed. It would still run `COPY ... TO` a file in the folder: SQL of others
        goes through `analysis.results.query.query_results`.

    Raises:
        ResultsError: if the folder is missing, is not a results folder, holds a file that cannot be read, or holds
            results of a newer version of this package.
    """
    path = results_folder(folder)
    con = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            # Otherwise a mistyped view name could resolve to a variable of the calling Python code.
            "python_enable_replacements": False,
        },
    )
    # DuckDB compares patterns and the files that they match with this list, so it holds both spellings of the path.
    spellings = {str(path), _literal_glob(path)}
    allowed = ", ".join(
        _quoted(f"{spelling}/{root}/")
        for spelling in sorted(spellings)
        for root in (schema.CELLS_FOLDER, schema.FAILED_FOLDER, schema.SEARCH_FOLDER, schema.SWEEPS_FOLDER)
    )
    con.sql("set TimeZone = 'UTC'")
    con.sql(f"set allowed_directories = [{allowed}]")
    con.sql("set enable_external_access = false")
    _check_files(con, path)
    try:
        retried(lambda: _create_views(con, path))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    batches = f"{_literal_glob(path)}/{schema.CELLS_FOLDER}/{_CELL_FOLDERS}/{schema.VIEWS['batches']}.parquet"
    con.sql(f"set variable {_BATCHES_FILES} = {_quoted(batches)}")
    con.sql(f"set variable {_FOLDER} = {_quoted(str(path))}")
    con.sql("set allowed_configs = ['threads', 'memory_limit', 'TimeZone']")
    con.sql("set lock_configuration = true")
    return con


def rows(
    con: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any] | dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """Runs a statement of this package on a connection from `open_results` and returns all rows.

    Raises:
        ResultsError: if a file is damaged.
    """
    try:
        found: list[tuple[Any, ...]] = retried(lambda: con.execute(sql, params or None).fetchall())
    except UNREADABLE as error:
        raise ResultsError(f"the results could not be read: {first_line(error)}. {_REPAIR}") from error
    return found


def scalar_fields(con: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, str]]:
    """Unit and meaning of the columns that methods add to `batches`, as the files give them; by name.

    Args:
        con: connection from `open_results` to a folder with at least one finished cell.
    """
    found: dict[str, tuple[str, str]] = {}
    for (encoded,) in rows(
        con,
        f"""
        select distinct value from parquet_kv_metadata([getvariable('{_BATCHES_FILES}')])
        where key::varchar = 'ARROW:schema' order by value
        """,
    ):
        for each in pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded))):
            if each.name not in schema.BATCHES.names:
                words = {key.decode(): text.decode() for key, text in (each.metadata or {}).items()}
                unit, meaning = found.get(each.name, (words.get("unit", ""), words.get("meaning", "")))
                if words.get("meaning", "") not in meaning:  # Two methods use one name.
                    meaning = f"{meaning}, or {words['meaning']}"
                found[each.name] = (unit, meaning)
    return found


def folder_of(con: duckdb.DuckDBPyConnection) -> Path:
    """The folder that a connection from `open_results` reads."""
    return Path(rows(con, f"select getvariable('{_FOLDER}')")[0][0])


def results_folder(given: str | Path, *, layout: bool = True) -> Path:
    """The absolute path of a results folder.

    Args:
        given: the folder.
        layout: whether to look at its layout.

    Raises:
        ResultsError: if there is none, or one of a newer layout.
    """
    advice = "give the folder that `tta-grid run` wrote to"
    try:
        path = Path(given).expanduser().resolve()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise ResultsError(f"results folder {str(given)!r} cannot be looked at ({error}): {advice}") from None
    if not exists:
        raise ResultsError(f"results folder {str(given)!r} does not exist: {advice}")
    if not is_folder:
        raise ResultsError(f"{str(given)!r} is a file; allowed is a results folder: {advice}")
    if not any((path / name).is_dir() for name in (schema.CELLS_FOLDER, schema.FAILED_FOLDER)):
        raise ResultsError(
            f"{str(given)!r} is not a results folder: it has neither a folder {schema.CELLS_FOLDER!r} nor a folder "
            f"{schema.FAILED_FOLDER!r}; {advice}"
        )
    if layout:
        check_layout(path)
    return path


def check_layout(path: Path) -> None:
    """Looks whether this version knows where the files of a results folder lie.

    Raises:
        ResultsError: if a newer version made the folder, or its `store.json` cannot be read.
    """
    file = path / schema.STORE_FILE
    try:
        layout = json.loads(file.read_bytes())["layout"]
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{file} cannot be read ({type(error).__name__}): delete it, and the next run makes a new one"
        ) from None
    if layout != schema.LAYOUT:
        raise ResultsError(
            f"{file} states layout {layout!r}; this `tta-grid` knows {schema.LAYOUT}: upgrade `tta-grid`, or use "
            "another results folder"
        )


def _check_files(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Raises ResultsError for files that cannot be read or that a newer version wrote."""
    try:
        found = retried(lambda: _versions(con, path))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    for file_name, version in found:
        _check_version(str(file_name), version)


def _versions(con: duckdb.DuckDBPyConnection, path: Path) -> list[tuple[str, str | None]]:
    """The schema version of each file."""
    patterns = [
        f"{_literal_glob(path)}/{root}/{_CELL_FOLDERS}/{name}.parquet"
        for root in (schema.CELLS_FOLDER, schema.FAILED_FOLDER)
        for name in schema.FILES
        if _any_file(path / root, name)
    ]
    patterns += [
        f"{_literal_glob(path)}/{schema.SEARCH_FOLDER}/*/{name}.parquet"
        for name in schema.SEARCH_FILES
        if _any_file(path / schema.SEARCH_FOLDER, name)
    ]
    if not patterns:
        return []
    listed = ", ".join(_quoted(pattern) for pattern in patterns)
    key = _quoted(schema.VERSION_KEY.decode())
    found: list[tuple[str, str | None]] = con.sql(
        "select file_name, max(value::varchar) filter (where key::varchar = " + key + ") "
        f"from parquet_kv_metadata([{listed}]) group by file_name order by file_name"
    ).fetchall()
    return found


def _check_version(file_name: str, version: str | None) -> None:
    if version is None or not version.isdecimal():
        raise ResultsError(
            f"{file_name} has no schema version, so `tta-grid` did not write it. Allowed are files with schema "
            f"version up to {schema.SCHEMA_VERSION}: move it out of the results folder, or delete the cell's folder "
            "and run the sweep again"
        )
    if int(version) > schema.SCHEMA_VERSION:
        raise ResultsError(
            f"{file_name} has schema version {version}; this `tta-grid` reads up to {schema.SCHEMA_VERSION}: "
            "upgrade `tta-grid`, or use another results folder"
        )


def _unreadable(path: Path, error: Exception) -> ResultsError:
    """Finds which file is torn, which DuckDB's message does not always say."""
    for file in _parquet_files(path):
        try:
            pq.read_metadata(file)
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException) as reason:
            return ResultsError(f"{file} cannot be read ({first_line(reason)}). {_REPAIR}")
    return ResultsError(f"the results in {path} cannot be read ({first_line(error)}). {_REPAIR}")


def _parquet_files(path: Path) -> Iterator[Path]:
    for root in (schema.CELLS_FOLDER, schema.FAILED_FOLDER):
        for name in schema.FILES:
            yield from found_below(path, f"{root}/{_CELL_FOLDERS}/{name}.parquet")
    yield from found_below(path, f"{schema.SEARCH_FOLDER}/*/*.parquet")


def _any_file(root: Path, name: str) -> bool:
    return bool(found_below(root, f"{_CELL_FOLDERS}/{name}.parquet"))


def _create_views(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    for file, fields in schema.SEARCH_FILES.items():
        found = _typed(fields, _files(path, schema.SEARCH_FOLDER, file), keep_others=False)
        con.sql(f"create or replace view {'studies' if file == 'study' else file} as {found}")
    con.sql(
        "create or replace view trial_cells as "
        "select study, trial, each.seed, each.point, each.samples_per_domain, each.cell, each.value, each.reused "
        "from (select study, trial, unnest(by_instance) as each from trials)"
    )
    sweeps = f"{_literal_glob(path)}/{schema.SWEEPS_FOLDER}/[!.]*.parquet"
    listed = f"read_parquet([{_quoted(sweeps)}], union_by_name = true, allow_empty = true)"
    con.sql(f"create or replace view sweep_cells as {_typed(schema.SWEEP_CELLS, listed, keep_others=False)}")
    for view, file in schema.VIEWS.items():
        fields = schema.FILES[file]
        finished = _typed(fields, _files(path, schema.CELLS_FOLDER, file), keep_others=view == "batches")
        if view == "cells":
            failed = _typed(fields, _files(path, schema.FAILED_FOLDER, file), keep_others=False)
            finished = f"with finished as ({finished}) from finished union all by name from ({failed}) as failed"
            finished += " where not exists (from finished where finished.cell = failed.cell)"
            # Files of before have no score.
            scored = f"coalesce(metric, '{schema.ACCURACY}') as metric, coalesce(score, accuracy) as score"
            finished = f"select * replace ({scored}), {_ROLE} from ({finished})"
        con.sql(f"create or replace view {view} as {finished}")


def _files(path: Path, root: str, file: str) -> str:
    pattern = f"{_literal_glob(path)}/{root}/{_CELL_FOLDERS}/{file}.parquet"
    # union_by_name: each method adds its own columns to `batches`. allow_empty: a sweep may not have finished a cell.
    return f"read_parquet([{_quoted(pattern)}], union_by_name = true, allow_empty = true)"


def _typed(fields: pa.Schema, files: str, keep_others: bool) -> str:
    """A query with the columns and types of the schema, whatever is in the files, and whether or not there are any."""
    types = {field.name: _sql_type(field.type) for field in fields}
    empty = ", ".join(f'NULL::{kind} as "{name}"' for name, kind in types.items())
    source = f"(select {empty} where false union all by name from {files})"
    casts = ", ".join(f'"{name}"::{kind} as "{name}"' for name, kind in types.items())
    if keep_others:
        # With no files at all, DuckDB invents one column named `empty`.
        return f"select columns(lambda name: name <> 'empty') from (select * replace ({casts}) from {source})"
    return f"select {casts} from {source}"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = [f'"{each.name}" {_sql_type(each.type)}' for each in kind]
        return f"STRUCT({', '.join(fields)})"
    return _UTC_TIMESTAMP if pa.types.is_timestamp(kind) else _SQL_TYPES[kind]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literal_glob(path: Path) -> str:
    """The path with the characters that a glob would interpret put in brackets."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in str(path))
