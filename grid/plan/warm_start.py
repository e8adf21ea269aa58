"""Settings whose cells other results folders have: what `warm_start` of a search tries first. Imports no optuna."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grid.plan.space import PRESET
from grid.plan.studies import StudyPlan
from tta_core.errors import InputError


@dataclass(frozen=True)
class KnownSettings:
    """Settings with results for every cell that would judge them.

    Attributes:
        folder: the results folder.
        settings: values of the searched settings.
        cells: these cells.
    """

    folder: Path
    settings: Mapping[str, Any]
    cells: tuple[str, ...]


def known_settings(folders: Sequence[str], plan: StudyPlan, *, where: str) -> list[KnownSettings]:
    """Looks in other results folders, in their order, for settings of a study; each is there once.

    Args:
        folders: as the user gives them.
        plan: the study, without these settings.
        where: what to start messages with.

    Raises:
        InputError: if one is no results folder of this machine, or the study searches presets, whose settings cells do
            not tell apart.
    """
    from analysis.results.load import FINISHED, ResultsError, open_results, rows

    if any(each.name == PRESET for each in plan.space):
        raise InputError(
            f"{where}: warm_start: cells do not say which preset they are of: search settings, or leave it out"
        )
    found: list[KnownSettings] = []
    for given in folders:
        if "://" in given:
            # An address may have a password in it.
            scheme = given.partition("://")[0]
            raise InputError(
                f"{where}: warm_start: only folders of this machine are read, and a {scheme}:// address was given: "
                f"copy it with tta-grid fetch {scheme}://... DIR, and name DIR"
            )
        try:
            con = open_results(given)
            done = {cell for (cell,) in rows(con, f"select cell from cells where {FINISHED}")}
            tried = rows(con, f"select distinct settings from cells where {FINISHED} and method = ?", [plan.method])
        except ResultsError as error:
            raise InputError(f"{where}: warm_start: {error}") from None
        for text in sorted(text for (text,) in tried):
            settings = _searched(json.loads(text), plan)
            if settings is None or any(settings == each.settings for each in found):
                continue
            cells = tuple(instance.cell for instance in plan.instances(settings))
            if done.issuperset(cells):
                found.append(KnownSettings(Path(given).expanduser().resolve(), settings, cells))
    return found


def _searched(settings: Mapping[str, Any], plan: StudyPlan) -> dict[str, Any] | None:
    """The searched ones among the settings of a cell; None if the study would not try them."""
    point, found = plan.points[0].settings, dict[str, Any]()
    for each in plan.space:
        if each.holds(found):
            if not each.contains(settings[each.name]):
                return None
            found[each.name] = settings[each.name]
    return found if {**point, **found} == settings else None
