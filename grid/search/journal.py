"""Optuna's journal in the results folder: the trials that have ended, one line each. Imports optuna.

A trial is written when its outcome is known, whole, in one line, in the order of trials. So a killed driver leaves
none half done, and no trial is ever running there: those that run follow from those that ended. Lines that a crash or
a full disk tore are cut off, and their trials are asked for and read from the store again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from grid.databases import check_driver, without_password
from grid.plan.search import Constraint
from grid.plan.space import Dimension
from grid.search.propose import distribution, encoded
from grid.search.trials import Trial
from tta_core.errors import InputError

RECORD = "tta_grid"
"""User attribute of a trial that has our record of it."""


class _NoLock:
    """The results folder is locked already. Optuna's own lock makes the next driver wait 30 s after a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Journal:
    """The journal of all studies of a results folder."""

    def __init__(self, file: Path, *, database: BaseStorage | None = None, suffix: str = "") -> None:
        """Opens the journal.

        Args:
            file: where it is.
            database: what `open_database` gave, in its place.
            suffix: of the names of studies, which tells those of several results folders in one database apart.
        """
        self._suffix = suffix
        if database is not None:
            self._storage = database
            return
        cut_torn_lines(file)
        backend: BaseJournalBackend = JournalFileBackend(str(file), lock_obj=_NoLock())  # type: ignore[arg-type]
        self._storage = JournalStorage(backend)

    def study(self, name: str, *, maximise: Sequence[bool], definition: Mapping[str, Any]) -> optuna.Study:
        """A study; made if it is not there."""
        study = optuna.create_study(
            storage=self._storage,
            study_name=name + self._suffix,
            directions=["maximize" if each else "minimize" for each in maximise],
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(),
        )
        if not study.user_attrs:
            study.set_user_attr("definition", dict(definition))
        return study


def open_database(url: str) -> BaseStorage:
    """A database that studies lie in.

    Raises:
        InputError: if it cannot be used.
    """
    from sqlalchemy.exc import SQLAlchemyError

    check_driver(url)
    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"search.storage = {without_password(url)!r} cannot be used ({reason}): give the URL of a database that "
            "is there, or leave it out for a file in the results folder"
        ) from None


def cut_torn_lines(file: Path) -> None:
    """Cuts a journal before its first line that is not whole: Optuna reads such a file, and fails later."""
    if not file.exists():
        return
    content, whole = file.read_bytes(), 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_object(line):
            break
        whole += len(line)
    if whole < len(content):
        with file.open("r+b") as opened:
            opened.truncate(whole)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def records(study: optuna.Study) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Our records of the trials of a study, in order, each with what the sampler kept; up to one that is not ours."""
    for number, trial in enumerate(study.get_trials(deepcopy=False)):
        record = trial.user_attrs.get(RECORD)
        if not trial.state.is_finished() or record is None or record["number"] != number:
            return
        yield record, trial.system_attrs


def frozen(
    trial: Trial,
    space: Sequence[Dimension],
    *,
    objectives: Sequence[str],
    constraints: Sequence[Constraint] = (),
    known: bool = True,
) -> FrozenTrial:
    """A trial as Optuna has it.

    Args:
        trial: the trial.
        space: the ranges of its study.
        objectives: of its study.
        constraints: of its study.
        known: whether its outcome may be known; otherwise it runs.
    """
    ranges = {each.name: each for each in space if each.name in trial.settings}
    means = trial.means if known else {}
    made = create_trial(
        state=TrialState.RUNNING,
        params={name: encoded(each, trial.settings[name]) for name, each in ranges.items()},
        distributions={name: distribution(each) for name, each in ranges.items()},
        system_attrs=dict(trial.sampler_notes),
        constraints={each.text: each.violation(means[each.measure]) for each in constraints} if means else None,
    )
    made.datetime_start = trial.started_at.astimezone(UTC).replace(tzinfo=None)
    if not known:
        return made
    made.user_attrs = {RECORD: trial.record()}
    made.datetime_complete = (trial.ended_at or trial.started_at).astimezone(UTC).replace(tzinfo=None)
    if trial.state == "failed":
        made.state = TrialState.FAIL
        return made
    made.intermediate_values = dict(enumerate(trial.running_means())) if len(objectives) == 1 else {}
    made.state = TrialState.COMPLETE if trial.whole else TrialState.PRUNED
    made.values = [means[name] for name in objectives] if trial.whole else None
    return made
