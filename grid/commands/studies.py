"""What `tta-grid search` prints of the studies in a results folder. Imports no torch, ray, mlflow or optuna."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Any

from analysis import schema
from analysis.aggregate.estimates import estimate
from analysis.aggregate.studies import Choice, StudyResult, TrialRow, read_studies
from analysis.figures.table import interval_text
from analysis.results.load import open_results
from analysis.texts import counted, points
from grid.plan.studies import settings_text
from tta_core.errors import InputError, first_names


def find_studies(results: str, name: str | None) -> list[StudyResult]:
    """The studies of a results folder, or those whose names begin like one.

    Raises:
        InputError: if there is none.
        ResultsError: if the folder is none.
    """
    found = read_studies(open_results(results))
    if not found:
        raise InputError(f"{results} has no studies: run a sweep with `search:` into it, see the README")
    wanted = [each for each in found if name is None or each.study.startswith(name)]
    if not wanted:
        raise InputError(f"no study in {results} begins with {name!r}. There are {_names(found)}: give one of these")
    return wanted


def studies_values(studies: Sequence[StudyResult]) -> list[dict[str, Any]]:
    """For machines."""
    rows = []
    for each in studies:
        row = asdict(each) | {"gains": each.gains, "warnings": each.warnings(), "states": each.states}
        row["trials"] = [asdict(trial) | {"values": _cells(trial)} for trial in each.trials]
        row |= {name: [_choice_values(one) for one in getattr(each, name)] for name in ("choices", "tried")}
        rows.append(row)
    return rows


def _cells(trial: TrialRow) -> list[dict[str, Any]]:
    return [
        {"samples_per_domain": samples, "seed": seed, "point": point, "value": value}
        for (samples, seed, point), value in trial.values.items()
    ]


def studies_text(studies: Sequence[StudyResult], results: str) -> str:
    """For people."""
    parts = ["\n".join(_lines(each)) for each in studies]
    if any(each.chosen for each in studies):
        parts.append(f"the settings as YAML: tta-grid search export {results} --study {studies[0].study}")
    return "\n\n".join(parts)


def _lines(study: StudyResult) -> list[str]:
    counts = ", ".join(f"{count} {state}" for state, count in study.states.items())
    facts = [("trials", f"{counts}; {counted(study.cells, 'cell')}, {study.cell_seconds / 3600:.3g} cell hours")]
    facts += [(each.rule, _choice_text(each, study)) for each in study.choices]
    if len(study.front) > 1:
        facts.append(("front", f"trials {', '.join(map(str, study.front))}: none is better in all objectives"))
    if study.gains:
        gain = estimate(study.gains)
        interval = "one seed, no interval" if gain.interval is None else f"95 % {interval_text(gain, points)}"
        facts.append(("gain", f"{points(gain.mean)} points over the default where reported ({interval})"))
    for samples, (tau, count) in study.rank_agreement().items():
        facts.append(
            ("ladder", f"{samples} samples per domain rank {count} settings as the whole stream: tau {tau:.2f}")
        )
    if study.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in study.importance.items())
        facts.append(("weight", f"{shares} of the spread (PED-ANOVA)"))
    facts += [("warning", words) for words in study.warnings()]
    return [f"study {study.study}: {study.state}", *(f"  {name:<10}{what}" for name, what in facts)]


def _choice_text(choice: Choice, study: StudyResult) -> str:
    tried = "not tried on the choosing cells"
    measures = next((each.measures for each in study.trials if each.trial == choice.trial), {})
    if measures:
        words = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
        tried = f"{words} on the choosing cells, trial {choice.trial}"
    return f"{settings_text(choice.settings)} ({tried})"


def _choice_values(choice: Choice) -> dict[str, Any]:
    reported = [
        {"fingerprint": fingerprint, "seed": seed, "accuracy": accuracy}
        for (fingerprint, seed), accuracy in choice.accuracies.items()
    ]
    return asdict(choice) | {"accuracies": reported}


def export_text(studies: Sequence[StudyResult], name: str) -> str:
    """What the one study chose, as YAML.

    Raises:
        InputError: if there are several, or it has chosen nothing.
    """
    if len(studies) > 1:
        raise InputError(f"there are {len(studies)} studies: {_names(studies)}; give one with --study")
    (study,) = studies
    if study.chosen is None:
        raise InputError(f"{study.study} has chosen nothing ({study.state}): run its sweep again, it goes on")
    settings = study.chosen.settings
    oracle = ["# ORACLE: chosen on the reported domains with their labels"] if study.oracle else []
    return "\n".join(
        [
            f"# {name}: chosen by {study.study} ({study.chosen.rule}, {sum(study.states.values())} trials)",
            *oracle,
            "base:",
            *(f"  {study.method}.{key}: {json.dumps(value)}" for key, value in settings.items()),
            f"# as a preset in the spec of {study.method}:",
            f"# presets={{{json.dumps(name)}: {dict(settings)!r}}}",
            "",
        ]
    )


def dashboard_command(results: str) -> str:
    """The command that serves the studies of a results folder on this machine.

    Raises:
        InputError: if there are none in the folder, or the package that serves them is not installed.
    """
    find_studies(results, None)
    journal = Path(results) / schema.SEARCH_FOLDER / schema.JOURNAL
    if not journal.exists():
        raise InputError(f"{results} has no journal: give optuna-dashboard the URL that is the `storage` of its sweep")
    command = f"optuna-dashboard {shlex.quote(str(journal))} --host 127.0.0.1"
    if which("optuna-dashboard") is None:
        raise InputError(f"optuna-dashboard is not installed: pip install optuna-dashboard, then run: {command}")
    return command


def _names(studies: Sequence[StudyResult]) -> str:
    return first_names([each.study for each in studies])
