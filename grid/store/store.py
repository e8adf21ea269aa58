"""The result store: one folder of Parquet files a cell, published by one rename. The source of truth for resume.

Layout (columns in `analysis.schema`)::

    RESULTS/store.json                  id of the store and layout version
    RESULTS/cells/<cell>/*.parquet      finished cells
    RESULTS/cells/<cell>/skipped_images.txt   names of the images that were left out, if any were
    RESULTS/cells/<cell>/notes.txt            what to know of the images that were read, if there is anything
    RESULTS/failed/<cell>/              cells that failed: cell.parquet, traceback.txt
    RESULTS/.staging/, RESULTS/.tune/   files being written, Ray Tune's snapshots on a cluster
    RESULTS/.checkpoints/<cell>.pt      cells that were interrupted in mid-stream
    RESULTS/mlflow.db, mlartifacts/     MLflow's default store
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.schema import CELLS_FOLDER, FAILED_FOLDER
from grid.events import CellState
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from tta_core.run.cell import RunResult

LAYOUT = 1
"""Version of the layout above."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk or a quota is full."""


class ResultStore:
    """A results folder.

    Attributes:
        folder: the folder; it need not exist before `create`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    @property
    def id(self) -> str:
        """Identifies this store wherever it is moved to."""
        return str(self._about()["store"])

    @property
    def tune_folder(self) -> Path:
        """Where Ray Tune keeps its snapshots while a launch lasts."""
        return self.folder / ".tune"

    def create(self) -> None:
        """Makes the folder if it is missing and makes sure that it can be written.

        Raises:
            InputError: if it cannot.
        """
        try:
            for name in (CELLS_FOLDER, FAILED_FOLDER, ".staging"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            with self._staged() as staging:
                (staging / "store.json").write_text(json.dumps({"store": uuid.uuid4().hex, "layout": LAYOUT}))
                if not (self.folder / "store.json").exists():
                    (staging / "store.json").replace(self.folder / "store.json")
            self._about()
        except OSError as error:
            raise InputError(f"{self.unwritable(error)}, or give another folder with --results DIR") from None

    def _about(self) -> dict[str, Any]:
        """What `store.json` says.

        Raises:
            InputError: if it is damaged, or of another layout.
        """
        file = self.folder / "store.json"
        try:
            about = json.loads(file.read_text())
            layout = about["layout"]
            _ = about["store"]
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{file} is damaged: take it from a backup, or give another --results DIR") from None
        if layout != LAYOUT:
            raise InputError(
                f"{file} says layout {layout!r}; this tta-grid knows layout {LAYOUT}: upgrade it, or give another "
                "--results DIR"
            )
        return dict(about)

    def unwritable(self, error: OSError) -> str:
        """What is wrong if the store cannot be written, for people."""
        reason = os.strerror(error.errno) if error.errno else error
        remedy = "make room" if error.errno in FULL else "mend its permissions"
        return f"the results folder {self.folder} cannot be written ({reason}): {remedy}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the store for one driver; the lock goes with the process, however it ends.

        Raises:
            InputError: if another driver holds it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another tta-grid run is writing to {self.folder}: wait for it, or give another --results DIR"
            ) from None
        try:
            self._clear_leftovers()
            yield
        finally:
            lock.release()

    def states(self) -> dict[str, CellState]:
        """The state of every cell in the store."""
        states: dict[str, CellState] = dict.fromkeys(self._names(FAILED_FOLDER), "failed")
        return states | dict.fromkeys(self._names(CELLS_FOLDER), "done")

    def costs(self) -> dict[tuple[str, str], float]:
        """What finished cells took: (method, backbone) -> seconds per image."""
        from analysis.results.load import open_results

        rows = (
            open_results(self.folder)
            .sql("select method, backbone, sum(seconds) / sum(n_samples) from cells where status = 'done' group by all")
            .fetchall()
        )
        return {(method, backbone): seconds for method, backbone, seconds in rows}

    def cell_folder(self, cell: str) -> Path:
        """Folder of a finished cell."""
        return self.folder / CELLS_FOLDER / cell

    def entry_folder(self, cell: str) -> Path:
        """Folder of a cell that is in the store, finished or failed."""
        folder = self.cell_folder(cell)
        return folder if folder.exists() else self.folder / FAILED_FOLDER / cell

    def checkpoint_file(self, cell: str) -> Path:
        """Where a cell saves itself in mid-stream."""
        return self.folder / ".checkpoints" / f"{cell}.pt"

    def write_result(self, result: RunResult, *, sweep: str, git_commit: str) -> None:
        """Publishes a finished cell. A cell that is already there stays as it is; an earlier failure is removed."""
        from grid.store.tables import result_tables

        tables = result_tables(result, sweep=sweep, git_commit=git_commit)
        texts = {"skipped_images.txt": result.skipped, "notes.txt": result.notes}
        written = {name: "\n".join([*lines, ""]) for name, lines in texts.items() if lines}
        self._publish(CELLS_FOLDER, result.cell, tables, texts=written or None)
        shutil.rmtree(self.folder / FAILED_FOLDER / result.cell, ignore_errors=True)

    def write_failure(
        self, config: RunConfig, reason: str, *, sweep: str, git_commit: str, traceback: str = ""
    ) -> None:
        """Publishes why a cell failed; the last failure replaces earlier ones."""
        from grid.store.tables import failure_table

        cell = config.cell_id()
        if cell in self._names(CELLS_FOLDER):
            return
        self._discard(self.folder / FAILED_FOLDER / cell)
        table = failure_table(config, reason, sweep=sweep, git_commit=git_commit, started_at=datetime.now(UTC))
        self._publish(FAILED_FOLDER, cell, {"cell": table}, texts={"traceback.txt": traceback})

    def failures(self, cells: Sequence[str]) -> dict[str, str]:
        """Reasons of those of the given cells that failed."""
        import pyarrow.parquet as pq

        reasons = {}
        for cell in cells:
            file = self.folder / FAILED_FOLDER / cell / "cell.parquet"
            if file.exists() and not self.cell_folder(cell).exists():
                reasons[cell] = str(pq.read_table(file, columns=["reason"])["reason"][0].as_py())
        return reasons

    def _names(self, kind: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.folder / kind) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []  # No store yet; `create` says if there can be none.

    def _publish(
        self, kind: str, cell: str, tables: Mapping[str, pa.Table], texts: Mapping[str, str] | None = None
    ) -> None:
        import pyarrow.parquet as pq

        with self._staged() as staging:
            for name, table in tables.items():
                pq.write_table(table, staging / f"{name}.parquet", compression="zstd")
            for name, text in (texts or {}).items():
                (staging / name).write_text(text)
            for file in staging.iterdir():
                _flush(file)
            try:
                staging.rename(self.folder / kind / cell)
            except OSError:
                # Another attempt at the same cell was first; it wrote the same numbers.
                if not (self.folder / kind / cell).is_dir():
                    raise
            _flush(self.folder / kind)

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        staging = self.folder / ".staging" / uuid.uuid4().hex
        staging.mkdir(parents=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _discard(self, folder: Path) -> None:
        """Removes a folder so that no reader sees it half removed."""
        if folder.exists():
            doomed = self.folder / ".staging" / uuid.uuid4().hex
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _clear_leftovers(self) -> None:
        """Removes what a killed driver left behind."""
        for folder in (self.folder / ".staging", self.tune_folder):
            for leftover in folder.glob("*"):
                shutil.rmtree(leftover, ignore_errors=True)


def _flush(path: Path) -> None:
    """Forces a file or folder to disk, so that what a rename shows is whole after a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
