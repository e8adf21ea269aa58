"""Brings results home: copies the cells that a folder lacks from another one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from analysis.results.load import results_folder
from analysis.schema import CELLS_FOLDER, FAILED_FOLDER
from grid.store.mirror import folder_here
from grid.store.objects import is_url
from grid.store.store import ResultStore
from tta_core.errors import InputError


@dataclass(frozen=True)
class Fetched:
    """What was brought.

    Attributes:
        cells, failures: how many are new.
        present: finished cells that were there before.
        damaged: cells that were left where they are, with what is wrong.
    """

    cells: int
    failures: int
    present: int
    damaged: tuple[str, ...]


def fetch(source: str, target: str) -> Fetched:
    """Copies what a results folder lacks: finished cells, failures of cells that have not finished, studies.

    A cell never changes, so a repeated call copies what is new only. Each is checked against its manifest and shown by
    one rename.

    Args:
        source: a results folder that can be read here, or a URL.
        target: the results folder to fill; made if it is missing.

    Raises:
        InputError: if the target cannot be written, or is the source.
        ResultsError: if the source is no results folder.
    """
    if is_url(target):
        raise InputError(f"fetch fills a folder of this machine, and {target!r} is a URL: give a folder")
    origin, store = results_folder(folder_here(source)), ResultStore(target)
    if origin.resolve() == store.folder.resolve():
        raise InputError(f"{source!r} and {target!r} are one folder: give another to fetch into")
    store.create()
    with store.locked():
        known = store.states()
        copied = {CELLS_FOLDER: 0, FAILED_FOLDER: 0}
        damaged = []
        for kind in copied:
            for entry in sorted(path for path in (origin / kind).glob("*") if path.is_dir()):
                # A failure there may be newer than the one here; a finished cell is what it is.
                if store.cell_folder(entry.name).exists():
                    continue
                if problem := store.adopt(kind, entry):
                    if not entry.exists():
                        continue  # A run there took it away: a cell that failed is done now.
                    damaged.append(f"{kind}/{entry.name}: {problem}")
                    continue
                copied[kind] += 1
        _copy_studies(origin, store.folder)
    present = sum(state == "done" for state in known.values())
    return Fetched(copied[CELLS_FOLDER], copied[FAILED_FOLDER], present, tuple(damaged))


def _copy_studies(origin: Path, target: Path) -> None:
    """Studies grow, and the source is where they do: its files replace those here."""
    for name in ("search", "sweeps"):
        if (origin / name).is_dir():
            # A run there writes files under hidden names, which it renames meanwhile.
            shutil.copytree(origin / name, target / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
