"""Moves what is damaged out of the way of readers and of the next run. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.results.damage import Damage
from grid.store.store import ResultStore
from tta_core.errors import InputError

DAMAGED_FOLDER = "damaged"


def move_damaged(results: str | Path, damages: Sequence[Damage]) -> list[Path]:
    """Moves damaged cells and foreign files to the same place below `RESULTS/damaged`.

    Args:
        results: results folder, or a URL whose mirror was looked at.
        damages: what was found in it. The file with the folder's id is made anew.

    Returns:
        Where each is now; a file that was missing is where it was.

    Raises:
        InputError: if a run is writing to the folder, or it cannot be written.
    """
    store = ResultStore(results)
    if not damages:
        return []
    with store.locked():
        try:
            moved = [_move(store.folder.resolve(), damage.path.resolve()) for damage in damages]
            if store.mirror:
                for damage, target in zip(damages, moved, strict=True):
                    old, new = (path.relative_to(store.folder.resolve()).as_posix() for path in (damage.path, target))
                    if old != new:
                        store.mirror.objects.move(old, new)
            store.create()
            return moved
        except OSError as error:
            raise InputError(store.unwritable(error)) from None


def _move(folder: Path, path: Path) -> Path:
    if not path.exists():
        return path
    wanted = folder / DAMAGED_FOLDER / path.relative_to(folder)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    target, number = wanted, 1
    while target.exists():
        number += 1
        target = wanted.with_name(f"{wanted.name}-{number}")
    return path.rename(target)
