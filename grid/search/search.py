"""A plan and its studies as one source of cells: what a launch of a sweep with `search:` runs. Imports optuna."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from analysis import schema
from grid.events import CellState
from grid.plan.plan import Plan
from grid.plan.studies import settings_text
from grid.search.journal import Journal, open_database
from grid.search.study import Study
from grid.search.tables import StudyFiles, supersede, write_sweep_cells
from grid.store.store import ResultStore
from tta_core.run.config import RunConfig


class Search:
    """Gives the cells of studies first, as these wait for each other, and one of the grid whenever they all wait.

    Nothing of the results is read or written before it is first asked: a launch asks while it holds the folder.
    """

    def __init__(self, plan: Plan, store: ResultStore) -> None:
        """Makes the source.

        Args:
            plan: the plan.
            store: the results folder.

        Raises:
            InputError: if the database that the studies are to lie in cannot be used.
        """
        self._plan = plan
        self._store = store
        self._labels: dict[str, str] = {}
        self._chosen: dict[str, RunConfig] = {}
        self._guarded: set[str] = set()
        self._copied: dict[str, CellState] = {}
        self._given: set[str] = set()
        self._written: dict[str, tuple[object, ...]] = {}
        url = None if plan.sweep.search is None else plan.sweep.search.storage
        # Here no thread runs yet. MLflow's imports the same libraries, and two at once meet them half made.
        self._database = None if url is None else open_database(url)

    @cached_property
    def studies(self) -> list[Study]:
        """The studies, in the order of the sweep, as far as the results folder has them."""
        plan, results = self._plan, self._store.folder
        (results / schema.SEARCH_FOLDER).mkdir(parents=True, exist_ok=True)
        supersede(results, plan.studies)
        write_sweep_cells(results, plan.sweep.sweep, list(plan.cells))
        self._store.share(schema.SWEEPS_FOLDER)
        for each in plan.studies:
            for folder, cells in each.warm.items():
                for cell in cells:
                    self._store.take_over(Path(folder) / schema.CELLS_FOLDER / cell)
                    self._copied[cell] = "done"
        suffix = "" if self._database is None else f".{self._store.id[:8]}"
        journal = Journal(results / schema.SEARCH_FOLDER / schema.JOURNAL, database=self._database, suffix=suffix)
        states = self._store.states()
        return [Study(each, self._store, journal, states) for each in plan.studies]

    @property
    def cells(self) -> dict[str, RunConfig]:
        """The cells that report: those of the plan, and of what was chosen so far."""
        return self._plan.cells | self._chosen

    def may_stop(self, cell: str) -> bool:
        """Whether a cell may end without a result: one that only chooses."""
        return cell in self._guarded and cell not in self.cells

    @property
    def ended(self) -> bool:
        """Whether all studies have ended."""
        return all(study.ended for study in self.studies)

    def next(self, states: Mapping[str, CellState]) -> dict[str, RunConfig]:
        """The cells that studies need now; if they all wait, one of the grid."""
        studies = self.studies
        # A launch looked into the folder before cells of others were copied.
        states = ChainMap(self._copied, dict(states))
        needed: dict[str, RunConfig] = {}
        for study in studies:
            needed |= study.next(states)
            self._note(study)
        new = {cell: config for cell, config in (needed | self._chosen).items() if self._is_new(cell, states)}
        if not new:
            new = dict([each for each in self._plan.cells.items() if self._is_new(each[0], states)][:1])
        self._given |= new.keys()
        return new

    @property
    def labels(self) -> Mapping[str, str]:
        """Cell id -> short text that tells a cell from the others, of all cells so far."""
        return ChainMap(self._plan.labels, self._labels)

    def cost(self, cell: str) -> float:
        """Estimated seconds of a cell's loop."""
        return self._plan.seconds.get(cell) or self._plan.search_seconds / max(1, self._searched_cells)

    @property
    def expected_cells(self) -> int:
        """Cells that are left, about."""
        return len(self._plan.to_run) + self._searched_cells

    @property
    def expected_cost(self) -> float:
        """Estimated seconds of their loops."""
        return self._plan.expected_cost + self._plan.search_seconds

    @property
    def expected_wall(self) -> float:
        """Estimated wall time on this machine in s."""
        return self._plan.estimate.seconds

    @property
    def _searched_cells(self) -> int:
        studies = self._plan.studies
        return sum(each.expected_cells + len(each.all_references) + each.reported_cells for each in studies)

    def _is_new(self, cell: str, states: Mapping[str, CellState]) -> bool:
        return cell not in self._given and cell not in states

    def _note(self, study: Study) -> None:
        """Writes what changed, before any cell runs that is in it: a trial's cells must not be taken for reported."""
        stand = (len(study.trials), sum(len(trial.scores) for trial in study.trials), study.state, study.ended)
        if self._written.get(study.plan.name) == stand:
            return
        chosen = {config.cell_id(): config for config in study.chosen()}
        tried = [config for trial in study.candidates for config in study.plan.reported(trial.settings)]
        chosen |= {config.cell_id(): config for config in tried if config.cell_id() not in chosen}
        if study.plan.search.stop_collapsed:
            self._guarded |= {each.cell for trial in study.trials for each in trial.instances}
        self._label(study, chosen)
        StudyFiles(self._store.folder, study).write()
        self._store.share(schema.SEARCH_FOLDER)
        self._chosen |= chosen
        self._written[study.plan.name] = stand

    def _label(self, study: Study, chosen: Mapping[str, RunConfig]) -> None:
        several = len(study.plan.points) > 1
        for trial in study.trials:
            for each in trial.instances:
                words = [
                    study.plan.method,
                    settings_text(trial.settings),
                    f"(trial {trial.number}",
                    f"seed={each.seed}",
                ]
                words += [f"point={each.point}"] if several else []
                self._labels.setdefault(each.cell, " ".join(words) + ")")
        for cell, config in study.plan.all_references.items():
            self._labels.setdefault(cell, f"source (to compare with, seed={config.seed})")
        names = [each.name for each in study.plan.space]
        for cell, config in chosen.items():
            own = {name: config.settings[name] for name in names if name in config.settings}
            words = [study.plan.method, settings_text(own), f"(reported, {study.plan.rule})", f"seed={config.seed}"]
            self._labels.setdefault(cell, " ".join(words))
