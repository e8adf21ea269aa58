"""Studies as Parquet in the results folder: `RESULTS/search/<study>`, see `analysis.schema`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis import schema
from grid.plan.objectives import OBJECTIVES
from grid.plan.studies import StudyPlan
from grid.search.importance import importance
from grid.search.study import Study
from grid.search.trials import Trial

Row = dict[str, Any]


class StudyFiles:
    """The folder of one study."""

    def __init__(self, results: Path, study: Study) -> None:
        self._folder = results / schema.SEARCH_FOLDER / study.plan.name
        self._study = study
        self._plan = study.plan

    def write(self) -> None:
        """Writes how the study stands, its trials, also those that run, and what it chose once it has ended."""
        self._folder.mkdir(parents=True, exist_ok=True)
        definition = self._folder / "study.json"
        if not definition.exists():
            definition.write_text(json.dumps(self._plan.values(), indent=2) + "\n")
        self._write("trials", [_trial_row(self._plan.name, trial) for trial in self._study.trials])
        if self._study.ended:
            self._write("selections", self._selections())
        self._write("study", [self._study_row()])

    def _write(self, name: str, rows: Sequence[Row]) -> None:
        _replace(self._folder / f"{name}.parquet", rows, schema.SEARCH_FILES[name])

    def _study_row(self) -> Row:
        plan, study = self._plan, self._study
        found = importance(study) if study.ended else {}
        return {
            "study": plan.name,
            "sweep": plan.sweep,
            "method": plan.method,
            "per": json.dumps(dict(plan.per)),
            "definition": json.dumps(plan.definition),
            "maximise": OBJECTIVES[plan.search.objectives[0]].maximise,
            "oracle": plan.search.oracle,
            "state": study.state if study.ended else "open",
            "length_ratio": plan.length_ratio,
            "best_trial": None if study.best is None else study.best.number,
            "front": [trial.number for trial in study.front] if len(plan.search.objectives) > 1 else [],
            "references": list(plan.all_references),
            "importance": json.dumps(found) if found else "",
            "cells": sum(len(trial.scores) for trial in study.trials),
            "cell_seconds": sum(trial.seconds for trial in study.trials),
        }

    def _selections(self) -> list[Row]:
        """What was chosen, and the sweep's own settings beside it; earlier choices stay, as such."""
        plan, rows = self._plan, list[Row]()
        if plan.search.reported != "best":
            rows.append(self._selection("default", self._study.default, plan.own_settings, {}))
        rows += [self._selection(plan.rule, trial, trial.settings, trial.settings) for trial in self._study.picked]
        rows += [
            self._selection(schema.CANDIDATE, trial, trial.settings, trial.settings) for trial in self._study.candidates
        ]
        now = {(row["rule"], cell) for row in rows for cell in row["cells"]}
        for row in _rows(self._folder / "selections.parquet"):
            if left := [cell for cell in row["cells"] if (row["rule"], cell) not in now]:
                rows.append(row | {"current": False, "cells": left})
        return rows

    def _selection(self, rule: str, trial: Trial | None, shown: Mapping[str, Any], settings: Mapping[str, Any]) -> Row:
        return {
            "study": self._plan.name,
            "rule": rule,
            "current": True,
            "trials": len(self._study.trials),
            "trial": None if trial is None else trial.number,
            "settings": json.dumps(dict(shown)),
            "estimate": None if trial is None else trial.value,
            "cells": [config.cell_id() for config in self._plan.reported(settings)],
        }


def supersede(results: Path, plans: Sequence[StudyPlan]) -> None:
    """Marks the studies that these replace: of the same sweep and the same place in it, with another definition."""
    places = {(plan.sweep, json.dumps(dict(plan.per))) for plan in plans}
    names = {plan.name for plan in plans}
    for folder in sorted((results / schema.SEARCH_FOLDER).glob("*/")):
        for row in _rows(folder / "study.parquet"):
            if (row["sweep"], row["per"]) not in places or row["study"] in names:
                continue
            _replace(folder / "study.parquet", [row | {"state": schema.SUPERSEDED}], schema.STUDY)
            chosen = [one | {"current": False} for one in _rows(folder / "selections.parquet")]
            _replace(folder / "selections.parquet", chosen, schema.SELECTIONS)


def write_sweep_cells(results: Path, sweep: str, cells: Sequence[str]) -> None:
    """Writes which cells a sweep names itself: these are reported even if a study chooses by them too."""
    folder = results / schema.SWEEPS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"sweep": sweep, "cell": cell} for cell in cells]
    _replace(folder / f"{sweep}.parquet", rows, schema.SWEEP_CELLS)


def _rows(file: Path) -> list[Row]:
    return pq.read_table(file).to_pylist() if file.exists() else []


def _trial_row(study: str, trial: Trial) -> Row:
    values = [score.value for score in trial.scores]
    return {
        "study": study,
        "trial": trial.number,
        "state": trial.state,
        "origin": trial.origin,
        "settings": json.dumps(trial.settings),
        "value": trial.value,
        "measures": json.dumps(trial.means),
        "standard_error": trial.standard_error,
        "by_instance": [
            {
                "seed": instance.seed,
                "point": instance.point,
                "samples_per_domain": instance.config.samples_per_domain,
                "cell": instance.cell,
                "value": values[number] if number < len(values) else None,
                "reused": instance.cell in trial.reused,
            }
            for number, instance in enumerate(trial.instances)
        ],
        "cells": len(values),
        "seconds": trial.seconds,
        "reason": trial.reason,
        "started_at": trial.started_at,
        "ended_at": trial.ended_at,
    }


def _replace(file: Path, rows: Sequence[Row], kind: pa.Schema) -> None:
    """Writes beside the file and renames, so that no reader sees half of it."""
    temporary = file.with_name(f".{file.name}.tmp")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=kind), temporary, compression="zstd")
    temporary.replace(file)
