"""What searches chose and what it gained, as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import duckdb

from analysis.aggregate.estimates import estimate
from analysis.aggregate.studies import Choice, StudyResult, read_studies
from analysis.figures.table import Table, interval_text
from analysis.texts import NOT_AVAILABLE, percent, points, printable

CHOSEN_NOTE = (
    "Settings were chosen on other corruptions and seeds than those reported here. Gain: accuracy of the chosen "
    "settings minus that of the sweep's own, seed by seed, in percentage points, with its 95 % Student-t interval."
)
TRIED = "Best tried % (oracle)"
TRIED_NOTE = (
    f"{TRIED}: of all settings that were tried the best on the reported cells, which nobody can know: no result."
)
ORACLE_NOTE = "Oracle: chosen on the reported domains with their labels, so its gain is no result."


def selection_table(con: duckdb.DuckDBPyConnection) -> Table | None:
    """One row a study that has ended; None if there is none."""
    studies = [each for each in read_studies(con) if each.chosen is not None]
    if not studies:
        return None
    notes = [CHOSEN_NOTE] if any(not each.oracle for each in studies) else []
    notes += [ORACLE_NOTE] if any(each.oracle for each in studies) else []
    notes += [f"{printable(each.study)}: {'; '.join(each.warnings())}." for each in studies if each.warnings()]
    oracle = any(each.best_tried is not None for each in studies)
    notes += [TRIED_NOTE] if oracle else []
    headers = ("Study", "Rule", "Chosen settings", "Default %", "Tuned %", "Gain", "Its 95 % interval")
    return Table(
        headers=(*headers, "Trials", "Cells", "Cell hours", *((TRIED,) if oracle else ())),
        rows=tuple((*_row(each), *((_percent(each.best_tried),) if oracle else ())) for each in studies),
        numeric=(*(False,) * 3, *(True,) * (8 if oracle else 7)),
        kinds=tuple("alarm" if each.oracle else "" for each in studies),
        notes=tuple(notes),
    )


def _row(study: StudyResult) -> tuple[str, ...]:
    assert study.chosen is not None
    gain = estimate(study.gains) if study.gains else None
    return (
        study.study.rpartition(".")[0],
        study.chosen.rule,
        ", ".join(f"{name}={_value(value)}" for name, value in study.chosen.settings.items()),
        _mean(study.default),
        _mean(study.chosen),
        NOT_AVAILABLE if gain is None else points(gain.mean),
        NOT_AVAILABLE if gain is None else interval_text(gain, points),
        str(sum(study.states.values())),
        str(study.cells),
        f"{study.cell_seconds / 3600:.3g}",
    )


def _percent(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else percent(value)


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _mean(choice: Choice | None) -> str:
    values: Sequence[float] = [] if choice is None else list(choice.accuracies.values())
    return percent(math.fsum(values) / len(values)) if values else NOT_AVAILABLE
