"""The results on one page: Markdown for the terminal, and self-contained HTML that needs no network."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import jinja2

from analysis import schema
from analysis.aggregate.standings import leaderboard
from analysis.aggregate.studies import read_studies
from analysis.diagnosis.diagnosis import diagnosis_markdown
from analysis.diagnosis.overview import OVERVIEW_NOTE
from analysis.figures.pictures import MANY_DOTS_PER_INCH, picture
from analysis.figures.search_plots import study_drawing
from analysis.figures.table import Table, markdown
from analysis.report.leaderboard import cost_table, failed_table, leaderboard_table
from analysis.report.rules import RULES_TITLE, rule_table
from analysis.report.section_page import MOST_DIAGNOSED, section_page
from analysis.report.selections import selection_table
from analysis.report.summary import summary
from analysis.results.checks import CHECKS, Problem, check_results
from analysis.results.configurations import configurations, sections
from analysis.results.load import FINISHED, IN_TABLES, ResultsError, open_results, rows
from analysis.results.protocols import flattened, read_protocols
from analysis.texts import NOT_AVAILABLE, join_words, printable, spaced

REPORT_NAME = "report.html"
MOST_PROBLEMS = 30
"""So many failed checks are listed in full."""

QUERY = f"""select fingerprint, method, settings, count(*) as seeds, round(100 * avg(accuracy), 1) as accuracy
from cells where {FINISHED} group by all order by fingerprint, accuracy desc"""


def report_markdown(con: duckdb.DuckDBPyConnection) -> str:
    """The results as Markdown for a terminal: summary, leaderboards, cost, diagnostics, checks, failed cells.

    Args:
        con: connection from `open_results`.
    """
    parts = [f"# Results of {_title(con)}"]
    found = sections(con)
    if not found:
        parts.append(_nothing_finished(con))
    for section in found:
        standings = leaderboard(section)
        parts += [
            f"## {printable(section.heading)}",
            summary(standings),
            markdown(leaderboard_table(standings, section)),
            "### Cost",
            markdown(cost_table(section)),
            *diagnosis_markdown(con, section),
        ]
    chosen = selection_table(con)
    parts += ["## Chosen settings", markdown(chosen)] if chosen else []
    rules = rule_table(con)
    parts += [f"## {RULES_TITLE}", markdown(rules)] if rules else []
    parts += ["## Checks", _checks_markdown(check_results(con))]
    failed = failed_table(con)
    if failed.rows:
        parts += [f"## Failed cells: {len(failed.rows)}", markdown(failed)]
    return "\n\n".join(parts) + "\n"


def write_report(folder: str | Path, output: Path | None = None) -> Path:
    """Writes the report of a results folder as one HTML page; an older report is replaced in one step.

    Args:
        folder: results folder.
        output: file to write; `report.html` in the folder by default.

    Returns:
        The file that was written.

    Raises:
        ResultsError: if the folder cannot be read or the file cannot be written.
    """
    con = open_results(folder)
    target = Path(folder).expanduser() / REPORT_NAME if output is None else Path(output)
    if target.is_dir():
        raise ResultsError(f"the report cannot be written to {target}, which is a folder: give a file in it")
    page = render(con, name=str(folder))
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ResultsError(
            f"the report cannot be written to {target} ({error.strerror or error}): give a file in a folder that "
            "exists and that you may write to"
        ) from error
    return target


def render(con: duckdb.DuckDBPyConnection, name: str) -> str:
    """The HTML page.

    Args:
        con: connection from `open_results`.
        name: results folder as the reader would type it.
    """
    found = sections(con)
    problems = check_results(con)
    counts = dict(rows(con, f"select status, count(*) from cells where {IN_TABLES} group by status"))
    shown = {each.fingerprint for each in configurations(con)}
    protocols = {key: flattened(value) for key, value in read_protocols(con).items() if key in shown}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=_title(con),
        name=name,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        finished=counts.get(schema.DONE, 0),
        failed_count=counts.get(schema.FAILED, 0),
        seeds=rows(con, f"select count(distinct seed) from cells where {FINISHED} and {IN_TABLES}")[0][0],
        configuration_count=sum(bool(each.cells) for each in configurations(con)),
        nothing="" if found else _nothing_finished(con),
        pages=[section_page(con, section, number) for number, section in enumerate(found)],
        chosen=selection_table(con),
        searches=[
            (each.study, picture(drawing.draw, drawing.alt, MANY_DOTS_PER_INCH))
            for each in read_studies(con)
            if (drawing := study_drawing(each)) is not None
        ],
        rules=rule_table(con),
        rules_title=RULES_TITLE,
        problems=problems[:MOST_PROBLEMS],
        problem_count=len(problems),
        checks=list(CHECKS),
        failed=failed_table(con),
        protocols=_protocol_table(protocols),
        environments=_environment_table(con),
        overview_note=OVERVIEW_NOTE,
        tiles=schema.TILES,
        most_diagnosed=MOST_DIAGNOSED,
        command=f'tta-grid query {shlex.quote(name)} "{QUERY}"',
    )


def _title(con: duckdb.DuckDBPyConnection) -> str:
    names = [name for (name,) in rows(con, "select distinct sweep from cells order by sweep")]
    return printable(join_words(names)) or "an empty results folder"


def _nothing_finished(con: duckdb.DuckDBPyConnection) -> str:
    failed = sum(len(each.failed) for each in configurations(con))
    if failed:
        return (
            f"No cell has finished; {failed} failed, with the reasons given below. Mend them and run the sweep again."
        )
    return "No cell has finished yet. Run a sweep into this folder, or wait for its first cell, and write this again."


def _checks_markdown(problems: Sequence[Problem]) -> str:
    if not problems:
        return "All checks passed:\n\n" + "\n".join(f"- {name}" for name in CHECKS)
    lines = [f"- {printable(problem.message)}" for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"- and {len(problems) - MOST_PROBLEMS} more")
    return f"**{_count(len(problems), 'problem')} found:**\n\n" + "\n".join(lines)


def _protocol_table(protocols: Mapping[str, Mapping[str, str]]) -> Table:
    """One column a protocol; rows that differ between protocols are marked `best`, which the page sets in bold."""
    names = list(dict.fromkeys(name for each in protocols.values() for name in each))
    values = [[each.get(name, NOT_AVAILABLE) for each in protocols.values()] for name in names]
    return Table(
        headers=("", *protocols),
        rows=tuple((spaced(name), *row) for name, row in zip(names, values, strict=True)),
        numeric=(False,) * (1 + len(protocols)),
        kinds=tuple("best" if len(set(row)) > 1 else "" for row in values),
        notes=("What differs between the protocols is in bold.",) if len(protocols) > 1 else (),
    )


def _environment_table(con: duckdb.DuckDBPyConnection) -> Table:
    """What computed the results: commit, device and versions, with the number of cells."""
    found = rows(
        con,
        """
        select git_commit, device, versions, count(*), strftime(min(started_at), '%Y-%m-%d %H:%M'),
            strftime(max(started_at), '%Y-%m-%d %H:%M')
        from cells group by git_commit, device, versions order by min(started_at), git_commit, device, versions
        """,
    )
    notes = []
    if len({row[0] for row in found}) > 1 or len({row[2] for row in found}) > 1:
        notes.append("Cells were computed by different code or versions: small differences may come from that.")
    if any(row[0].endswith("-dirty") for row in found):
        notes.append("A commit that ends in -dirty had uncommitted changes: the commit alone does not give the result.")
    return Table(
        headers=("Commit", "Device", "Versions", "Cells", "First and last start (UTC)"),
        rows=tuple(
            (
                commit or "not known",
                device,
                _versions(versions),
                str(count),
                first if first == last else f"{first} to {last}",
            )
            for commit, device, versions, count, first, last in found
        ),
        numeric=(False, False, False, True, False),
        kinds=("",) * len(found),
        notes=tuple(notes),
    )


def _versions(text: str) -> str:
    try:
        return ", ".join(f"{name} {value}" for name, value in flattened(json.loads(text)).items())
    except (ValueError, AttributeError):
        return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
