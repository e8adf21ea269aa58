"""One study as a source of cells. What it tries depends on results and seeds, never on what finishes first.

Trial k is asked for with the outcomes of trials 0 to k - `ahead` known, however many more have ended. Its settings are
a function of these, see `grid.search.propose`. So nothing need be kept of trials that run: a driver that was killed
asks for them again, gets the same, and finds their cells in the store.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any, Literal

from optuna.trial import FrozenTrial

from analysis.texts import counted
from grid.events import CellState
from grid.plan.objectives import OBJECTIVES, Reads
from grid.plan.studies import DEFAULT, Instance, StudyPlan
from grid.search.journal import Journal, frozen, records
from grid.search.propose import propose
from grid.search.race import is_beaten
from grid.search.scores import Score, StoredScores
from grid.search.trials import Trial
from grid.store.store import ResultStore
from tta_core.errors import COLLAPSED, DIVERGED, InputError
from tta_core.run.config import RunConfig

ATTEMPTS = 20
"""So often the sampler is asked for settings that the method takes."""

SAMPLED = "sampler"
"""Origin of settings that come from the sampler."""

StudyState = Literal["open", "done", "budget", "plateau", "failed"]
"""`budget`: as many cells or hours as allowed; `failed`: as many trials failed in a row as end a study."""


class Study:
    """A study of a launch.

    Attributes:
        plan: what it looks for.
        trials: all trials, by number.
        state: how it stands.
        mirror: the same as Optuna has it, in the journal.
    """

    def __init__(self, plan: StudyPlan, store: ResultStore, journal: Journal, states: Mapping[str, CellState]) -> None:
        """Goes on with a study, or begins it.

        Args:
            plan: what it looks for.
            store: where the results of cells are.
            journal: where its trials are.
            states: the cells that were there before this launch.
        """
        self.plan = plan
        self.trials: list[Trial] = []
        self.state: StudyState = "open"
        self._maximise = [OBJECTIVES[name].maximise for name in plan.search.objectives]
        self._store = store
        self._scores = StoredScores(store, plan.search.measures)
        self._began = time.monotonic()
        self._before = {cell for cell, state in states.items() if state == "done"}
        self.mirror = journal.study(plan.name, maximise=self._maximise, definition=plan.definition)
        for record, notes in records(self.mirror):
            self.trials.append(Trial.from_record(record, self._instances(record["settings"]), notes))
        self._told = len(self.trials)

    def next(self, states: Mapping[str, CellState]) -> dict[str, RunConfig]:
        """The cells that its trials need now; none if it waits for cells that run, or has ended."""
        while True:
            wanted: dict[str, RunConfig] = {}
            for trial in self.trials[self._told :]:
                for instance in [] if trial.ended else self._judge(trial, states):
                    wanted |= self._with_references(instance, states)
            told = self._tell()
            if not self._ask() and not told:
                return wanted

    @property
    def ended(self) -> bool:
        """Whether no more trials come."""
        return self.state != "open" and self._told == len(self.trials)

    @property
    def best(self) -> Trial | None:
        """The best trial of those with a value for each cell that keep the constraints; of equals the first."""
        return self._best_of(self.trials[: self._told])

    @property
    def front(self) -> list[Trial]:
        """The trials that no other is better than in one objective and as good in all; the best one is the first."""
        told = [trial for trial in self.trials[: self._told] if self._is_eligible(trial)]
        values = {trial.number: self._signed(trial) for trial in told}

        def beaten(trial: Trial) -> bool:
            own = values[trial.number]
            return any(
                other != own and all(more >= less for more, less in zip(other, own, strict=True))
                for other in values.values()
            )

        found = {values[trial.number]: trial for trial in reversed(told) if not beaten(trial)}
        return sorted(found.values(), key=lambda trial: values[trial.number], reverse=True)

    @property
    def default(self) -> Trial | None:
        """The trial of the sweep's own settings; None if they were not tried."""
        return next((trial for trial in self.trials if trial.origin == DEFAULT), None)

    @property
    def picked(self) -> list[Trial]:
        """The trials whose settings are reported as chosen: of several objectives the front. None before the end."""
        if not self.ended or self.best is None:
            return []
        return self.front if len(self._maximise) > 1 else [self.best]

    @property
    def candidates(self) -> list[Trial]:
        """The trials that are reported though they were not chosen, if all are."""
        if not self.ended or self.plan.search.reported != "all":
            return []
        tried = [trial for trial in self.trials if trial.state in ("complete", "raced-out")]
        return [trial for trial in tried if trial not in self.picked]

    def chosen(self) -> list[RunConfig]:
        """The cells that report what was chosen; none before the study has ended, or if all failed."""
        return [config for trial in self.picked for config in self.plan.reported(trial.settings)]

    def _with_references(self, instance: Instance, states: Mapping[str, CellState]) -> dict[str, RunConfig]:
        """A cell that is waited for, and what it is compared with; only that if the cell has to be watched by it."""
        references, ended = self.plan.references(instance.config), instance.cell in states
        missing = {
            config.cell_id(): config
            for name, config in references.items()
            if config.cell_id() not in states and (name in self.plan.reads or not ended)
        }
        watched = self.plan.search.stop_collapsed and references["source"].cell_id() in missing
        return missing if ended or watched else {**missing, instance.cell: instance.config}

    def _judge(self, trial: Trial, states: Mapping[str, CellState]) -> list[Instance]:
        """Reads the cells of a trial that have ended, in order; returns those that it waits for now."""
        best = None if trial.best is None or self.plan.search.racing is None else self.trials[trial.best]
        for number, instance in enumerate(trial.instances):
            if number >= len(trial.scores):
                score = self._score(trial, instance, states)
                if trial.ended:
                    return []
                if score is None:
                    return trial.instances[number:] if best is None else [instance]
                trial.scores.append(score)
            if best is not None and number + 1 < len(trial.instances) and self._is_beaten(trial, best, instance):
                reason = f"worse than trial {best.number} after {counted(number + 1, 'cell')}"
                trial.end(trial.lost or "raced-out", trial.reason or reason)
                return []
        trial.end(trial.lost or "complete", trial.reason)
        return []

    def _is_beaten(self, trial: Trial, best: Trial, instance: Instance) -> bool:
        race = self.plan.search.racing
        assert race is not None
        return is_beaten(trial.pairs(instance), best.pairs(instance), z=race.z, maximise=self._maximise[0])

    def _score(self, trial: Trial, instance: Instance, states: Mapping[str, CellState]) -> Score | None:
        """What a cell is worth; None if it, or what it is compared with, has not ended.

        A failure that has no worth ends the trial.
        """
        state = states.get(instance.cell)
        if state is None:
            return None
        references = self.plan.references(instance.config)
        needed: dict[Reads, RunConfig] = {name: references[name] for name in references if name in self.plan.reads}
        ends = {name: states.get(config.cell_id()) for name, config in needed.items()}
        if None in ends.values():
            return None
        if "failed" in ends.values():
            trial.end("failed", f"{instance.cell}: what it is compared with failed: {', '.join(ends)}")
            return None
        if instance.cell in self._before:
            trial.reused.add(instance.cell)
        if state == "done":
            return self._scores.of(instance.cell, instance.config, needed)
        reason = self._store.failures([instance.cell]).get(instance.cell, "it failed")
        chance = self._scores.of_chance(instance.config, needed)
        collapsed, diverged = f" {COLLAPSED}" in reason, f" {DIVERGED}" in reason
        if chance is not None and (collapsed or (diverged and self.plan.search.diverged == "chance")):
            trial.lost, trial.reason = "collapsed" if collapsed else "diverged", reason
            return chance
        trial.end("failed", f"{instance.cell}: {reason}")
        return None

    def _tell(self) -> bool:
        """Writes trials that have ended to the journal, in order; returns whether there were any."""
        before = self._told
        while self._told < len(self.trials) and self.trials[self._told].ended:
            self.mirror.add_trial(self._frozen(self.trials[self._told]))
            self._told += 1
        return self._told > before

    def _frozen(self, trial: Trial, *, known: bool = True) -> FrozenTrial:
        search = self.plan.search
        return frozen(trial, self.plan.space, objectives=search.objectives, constraints=search.constraints, known=known)

    def _ask(self) -> bool:
        """Asks for the next trial if it may; returns whether it did."""
        number, plan = len(self.trials), self.plan
        known = max(0, number - plan.search.ahead + 1)
        if self._told < known:
            return False
        self.state = self._state(self.trials[:known])
        if self.state != "open":
            return False
        best = self._best_of(self.trials[:known])
        trial = self._proposed(number, known)
        trial.best = None if best is None else best.number
        self.trials.append(trial)
        return True

    def _proposed(self, number: int, known: int) -> Trial:
        plan, problem = self.plan, ""
        if number < len(plan.first):
            origin, settings = list(plan.first.items())[number]
            return self._trial(number, origin, settings)
        if plan.search.sampler_name == "grid":
            values = itertools.product(*(each.grid() or () for each in plan.space))
            point = next(itertools.islice(values, number - len(plan.first), None))
            return self._trial(number, SAMPLED, dict(zip((each.name for each in plan.space), point, strict=True)))
        history = [self._frozen(trial, known=trial.number < known) for trial in self.trials]
        for attempt in range(ATTEMPTS):
            settings, notes = propose(
                plan.search.sampler_name,
                plan.space,
                history,
                study=plan.name,
                number=number,
                attempt=attempt,
                maximise=self._maximise,
                options=plan.search.sampler_options,
            )
            trial = self._trial(number, SAMPLED, settings, notes)
            if not trial.ended:
                return trial
            problem = trial.reason
        trial.reason = f"{ATTEMPTS} proposals in a row were refused, the last one: {problem}"
        return trial

    def _trial(
        self, number: int, origin: str, settings: Mapping[str, Any], notes: Mapping[str, Any] | None = None
    ) -> Trial:
        trial = Trial(number, origin, dict(settings), [], sampler_notes=dict(notes or {}))
        try:
            trial.instances = self.plan.instances(settings)
        except InputError as error:
            trial.end("failed", f"refused: {error}")
        return trial

    def _instances(self, settings: Mapping[str, Any]) -> list[Instance]:
        return self._trial(0, "", settings).instances

    def _state(self, known: list[Trial]) -> StudyState:
        """How the study stands, from the trials whose outcomes may be known: so it ends at the same trial always."""
        search = self.plan.search
        if len(self.trials) >= self.plan.trials:
            return "done"
        last = known[-search.max_failed :]
        if len(last) == search.max_failed and all(trial.state == "failed" for trial in last):
            return "failed"
        if search.cells is not None and sum(len(trial.scores) for trial in known) >= search.cells:
            return "budget"
        if search.cell_hours is not None and sum(trial.seconds for trial in known) >= 3600 * search.cell_hours:
            return "budget"
        # The clock alone is no function of the trials: a launch that goes on has the hours anew.
        if search.hours is not None and time.monotonic() - self._began >= 3600 * search.hours:
            return "budget"
        if search.plateau is not None and self._is_flat(known, search.plateau):
            return "plateau"
        return "open"

    def _is_flat(self, known: list[Trial], trials: int) -> bool:
        """Whether the last trials brought no more than one standard error of the best before them."""
        before, best = self._best_of(known[:-trials]), self._best_of(known)
        if before is None or best is None or before.value is None or best.value is None:
            return False
        return abs(best.value - before.value) <= (before.standard_error or 0.0)

    def _best_of(self, trials: list[Trial]) -> Trial | None:
        found = [trial for trial in trials if self._is_eligible(trial)]
        return max(found, key=lambda trial: (self._signed(trial), -trial.number), default=None)

    def _is_eligible(self, trial: Trial) -> bool:
        """Whether a trial has a value for each cell, and keeps the constraints."""
        if trial.state != "complete" or trial.value is None:
            return False
        return all(each.violation(trial.means[each.measure]) <= 0 for each in self.plan.search.constraints)

    def _signed(self, trial: Trial) -> tuple[float, ...]:
        """The objectives, larger for better ones."""
        means = trial.means
        directions = zip(self.plan.search.objectives, self._maximise, strict=True)
        return tuple(means[name] if maximise else -means[name] for name, maximise in directions)
