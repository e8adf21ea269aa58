"""Leaderboard, cost and failures as tables: made once as text cells, then written as Markdown, LaTeX or HTML."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import duckdb

from analysis import schema
from analysis.aggregate.estimates import Estimate
from analysis.aggregate.standings import Standing, cost_relative_to_source, leaderboard
from analysis.figures.table import Table, interval_text, markdown, markdown_cell
from analysis.report.pixels import pixel_tables
from analysis.results.configurations import Cell, Configuration, Section, configurations, sections
from analysis.results.needs import Needs, need_words, needs_note
from analysis.schema import METRICS
from analysis.texts import MINUS, NOT_AVAILABLE, TIMES, percent, points, printable
from analysis.vocabulary import PRE_UPDATE, SCORED

SKIPPED_MARK = "\u2020"
"""Beside configurations that left damaged images out."""

INTERVAL_NOTE = (
    "95 % interval: Student-t interval of the mean over seeds. It says how well the mean is known for other seeds of "
    "the stream and the method, not for other data, and it is not corrected for comparing many configurations. "
    "Min to max: worst and best seed."
)
DIFFERENCE_NOTE = "Difference: accuracy minus that of source on the same stream, seed by seed, in percentage points."
MIOU_NOTE = (
    "mIoU: mean over the classes with any pixel of intersection over union, of all images of a segment together; mean "
    "over the segments of the stream. Methods that score several views are to be compared with source with the same "
    "views, which learns nothing."
)
_ONE_SEED = f"{NOT_AVAILABLE} in place of an interval: one seed, so there is none."
_NO_PAIR = f"{NOT_AVAILABLE} in place of a difference: no finished source cell with the same seed."
_NEEDS_UNKNOWN = f"{NOT_AVAILABLE} under Needs: written by a version that did not record it."
_TAKEN_OVER = (
    "source adapts nothing, so its logits are the same whenever they are scored. Where others than pre-update are "
    "scored, its cells are those of the protocol that differs in nothing else."
)
_REFERENCE = "reference"


def leaderboard_table(standings: Sequence[Standing], section: Section | None = None) -> Table:
    """The leaderboard of one section.

    Args:
        standings: from `aggregate.standings.leaderboard`.
        section: where they belong. It says which logits are scored, and what methods of other sections need.
    """
    needs = _needs_column([each.configuration for each in standings], section)
    word = _word(section)
    headers = (f"{word} %", "95 % interval", "Min to max", "Difference", "Its 95 % interval", "Seeds")
    rows = tuple(
        (
            str(each.rank),
            _marked(each.configuration),
            *needed,
            percent(each.accuracy.mean),
            interval_text(each.accuracy, percent),
            NOT_AVAILABLE if each.accuracy.count < 2 else f"{percent(each.lowest)} to {percent(each.highest)}",
            *_difference_words(each),
            str(each.accuracy.count),
        )
        for each, needed in zip(standings, needs.cells, strict=True)
    )
    notes = [INTERVAL_NOTE, *([MIOU_NOTE] if section is not None and section.metric == schema.MIOU else [])]
    compared = [each for each in standings if not each.configuration.is_reference]
    if any(each.difference for each in compared):
        notes.append(DIFFERENCE_NOTE if word == "Accuracy" else DIFFERENCE_NOTE.replace("accuracy", word))
    if any(each.accuracy.count < 2 for each in standings) or any(
        each.difference is not None and each.difference.count < 2 for each in compared
    ):
        notes.append(_ONE_SEED)
    if any(each.difference is None for each in compared):
        notes.append(_NO_PAIR)
    notes += _skipped_notes([each.configuration for each in standings])
    return Table(
        headers=("#", "Configuration", *needs.headers, *headers),
        rows=rows,
        numeric=(True, False, *(False for _ in needs.headers), True, True, True, True, True, True),
        kinds=tuple(_kind(each) for each in standings),
        notes=(*notes, *needs.notes, *_scored_notes(section)),
    )


def cost_table(section: Section) -> Table:
    """What each configuration cost; means over seeds."""
    needs = _needs_column(section.configurations, section)
    several_devices = len({cell.device for each in section.configurations for cell in each.cells}) > 1
    relative = cost_relative_to_source(section)
    headers = ["Seconds", "Images/s", f"{TIMES} source", "Peak memory MiB", "Trainable parameters"]
    rows = []
    for each, ratio, needed in zip(section.configurations, relative, needs.cells, strict=True):
        row = [
            each.label,
            *needed,
            _mean_text(each, lambda cell: cell.seconds, ",.1f"),
            _mean_text(each, lambda cell: cell.images_per_second, ",.0f"),
            NOT_AVAILABLE if ratio is None else f"{ratio:.2f}",
            _mean_text(each, lambda cell: cell.peak_memory_mib, ",.0f"),
            _mean_text(each, lambda cell: cell.trainable_parameters, ",.0f"),
        ]
        if several_devices:
            row.append(", ".join(sorted({cell.device for cell in each.cells})))
        rows.append(tuple(row))
    notes = [
        "Seconds: wall time of the online loop without loading, mean over seeds. Cells that ran side by side shared "
        "the machine, so only large differences in time mean something."
        + (" The time that a method took to prepare before the stream is not in them." if needs.headers else "")
    ]
    if any(ratio is None for ratio in relative):
        notes.append(f"{NOT_AVAILABLE} under {TIMES} source: no source cell in the same sweep on the same device.")
    return Table(
        headers=("Configuration", *needs.headers, *headers, *(["Device"] if several_devices else [])),
        rows=tuple(rows),
        numeric=(
            *(False, *(False for _ in needs.headers)),
            *(True, True, True, True, True, *([False] if several_devices else [])),
        ),
        kinds=tuple("reference" if each.is_reference else "" for each in section.configurations),
        notes=(*notes, *needs.notes),
    )


def failed_table(con: duckdb.DuckDBPyConnection) -> Table:
    """The cells that failed, with the reasons that they gave."""
    rows = tuple(
        (each.label, str(cell.seed), cell.cell, _lines(cell.reason) or "no reason was recorded")
        for each in configurations(con)
        for cell in each.failed
    )
    return Table(
        headers=("Configuration", "Seed", "Cell", "Reason"),
        rows=rows,
        numeric=(False, True, False, False),
        kinds=("",) * len(rows),
        notes=(
            "Failed cells are in no mean and no figure. Run the sweep again to try them once more; the traceback is in "
            f"{schema.FAILED_FOLDER}/CELL/traceback.txt in the results folder.",
        ),
    )


def leaderboard_markdown(con: duckdb.DuckDBPyConnection) -> str:
    """The leaderboards of all sections as Markdown, each under a heading that says what sets its protocol apart."""
    boards = [(section.heading, leaderboard_table(leaderboard(section), section)) for section in sections(con)]
    if not boards:
        return "No cell has finished."
    parts = [f"## {markdown_cell(heading)}\n\n{markdown(replace(board, notes=()))}" for heading, board in boards]
    for section in sections(con):
        for table in pixel_tables(con, section):
            heading = markdown_cell(f"{section.heading}: {table.caption}")
            parts.append(f"### {heading}\n\n{markdown(replace(table, caption=''))}")
    # The tables share most of their notes.
    notes = dict.fromkeys(note for _, board in boards for note in board.notes)
    return "\n\n".join([*parts, *notes])


def leaderboard_latex(con: duckdb.DuckDBPyConnection) -> str:
    """The leaderboards of all sections as LaTeX tables, for a document that uses `booktabs`.

    Accuracies and differences are given as mean, plus or minus half the 95 % interval where there is one.
    """
    tables = []
    for section in sections(con):
        standings = leaderboard(section)
        needs = _needs_column([each.configuration for each in standings], section)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(section.heading)}. {_word(section)} in per cent and paired difference to "
            r"source in percentage points, mean over seeds $\pm$ half the 95\,\% Student-t interval.}",
            rf"\begin{{tabular}}{{l{'l' * len(needs.headers)}rrr}}",
            r"\toprule",
            " & ".join(["Configuration", *needs.headers, _word(section), "Difference", r"Seeds \\"]),
            r"\midrule",
        ]
        for each, needed in zip(standings, needs.cells, strict=True):
            difference = "--" if each.difference is None else _latex_estimate(each.difference, points)
            accuracy = _latex_estimate(each.accuracy, percent)
            names = [_latex_text(text) for text in (_marked(each.configuration), *needed)]
            lines.append(" & ".join([*names, accuracy, difference, rf"{each.accuracy.count} \\"]))
        skipped = _skipped_notes([each.configuration for each in standings])
        notes = [_latex_text(note) for note in (*skipped, *needs.notes, *_scored_notes(section))]
        below = [r"\par\smallskip\footnotesize " + " ".join(notes)] if notes else []
        tables.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", *below, r"\end{table}"]))
    return "\n\n".join(tables) if tables else "% No cell has finished."


def _word(section: Section | None) -> str:
    """What scores are, at the head of a column."""
    word = METRICS[section.metric if section is not None else schema.ACCURACY]
    return word if word != schema.ACCURACY else word.capitalize()


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.strip().splitlines())


def _marked(configuration: Configuration) -> str:
    """The label, with a mark if images were left out."""
    return configuration.label + (f" {SKIPPED_MARK}" if configuration.skipped_images else "")


def _skipped_notes(shown: Sequence[Configuration]) -> list[str]:
    told = [
        f"{each.label}: {each.skipped_images:,} of {sum(cell.n_samples for cell in each.cells):,}"
        for each in shown
        if each.skipped_images
    ]
    if not told:
        return []
    return [f"{SKIPPED_MARK} Damaged images were skipped, so the numbers are of fewer images. {'; '.join(told)}."]


@dataclass(frozen=True, slots=True)
class _NeedsColumn:
    """A column that says what each configuration needs beyond the stream; without a header if nothing says it.

    Attributes:
        headers: none or one.
        cells: one tuple a configuration, as long as `headers`.
        notes: what the words mean.
    """

    headers: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def _needs_column(configurations: Sequence[Configuration], section: Section | None) -> _NeedsColumn:
    shown = [each.needs for each in configurations]
    everywhere = shown if section is None else section.needs
    note = needs_note(everywhere)
    if not note:
        return _NeedsColumn((), ((),) * len(shown), ())
    cells = tuple((_needs_words(needs),) for needs in shown)
    return _NeedsColumn(("Needs",), cells, (note, *([_NEEDS_UNKNOWN] if None in shown else [])))


def _needs_words(needs: Needs) -> str:
    return NOT_AVAILABLE if needs is None else ", ".join(need_words(needs))


def _scored_notes(section: Section | None) -> tuple[str, ...]:
    """What is scored in a section, if that is not what the network says before the update."""
    if section is None or section.scored == PRE_UPDATE:
        return ()
    meaning = f": {SCORED[section.scored]}" if section.scored in SCORED else ""
    return (f"Scored logits {section.scored}{meaning}.", *([_TAKEN_OVER] if section.lender else []))


def _kind(standing: Standing) -> str:
    if standing.configuration.is_reference:
        return "reference"
    return "best" if standing.rank == 1 else ""


def _difference_words(standing: Standing) -> tuple[str, str]:
    if standing.configuration.is_reference:
        return _REFERENCE, ""
    if standing.difference is None:
        return NOT_AVAILABLE, NOT_AVAILABLE
    return points(standing.difference.mean), interval_text(standing.difference, points)


def _mean_text(configuration: Configuration, value: Callable[[Cell], float | int | None], form: str) -> str:
    known = [number for number in map(value, configuration.cells) if number is not None]
    return format(statistics.fmean(known), form) if known else NOT_AVAILABLE


_LATEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2026": r"\ldots{}",
    SKIPPED_MARK: r"\dag{}",
    NOT_AVAILABLE: "--",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


def _latex_estimate(estimate: Estimate, words: Callable[[float], str]) -> str:
    mean = words(estimate.mean).replace(MINUS, "-")
    if estimate.half_width is None:
        return f"${mean}$"
    return rf"${mean} \pm {percent(estimate.half_width)}$"
