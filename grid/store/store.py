"""The result store: one folder of Parquet files a cell, published by one rename. The source of truth for resume.

Results in an object store have the same layout there, see `grid.store.mirror`; the folder is then their mirror here.

Layout (columns in `analysis.schema`)::

    RESULTS/store.json                  id of the store and layout version
    RESULTS/cells/<cell>/*.parquet      finished cells
    RESULTS/cells/<cell>/skipped_images.txt   names of the images that were left out, if any were
    RESULTS/cells/<cell>/notes.txt            what to know of the images that were read, if there is anything
    RESULTS/cells/<cell>/picture-<domain>-<index>.png   of segmentation, where pictures were asked for
    RESULTS/cells/<cell>/manifest.json  size and SHA-256 of each of these files
    RESULTS/failed/<cell>/              cells that failed: cell.parquet, traceback.txt, manifest.json
    RESULTS/progress.json               how the last launch went, rewritten while it lasts
    RESULTS/damaged/                    what `tta-grid check --repair` moved away
    RESULTS/.staging/, RESULTS/.tune/   files being written, Ray Tune's snapshots on a cluster
    RESULTS/.marks/                     what shows a cluster's nodes that they see the driver's folder
    RESULTS/.checkpoints/<cell>.pt      cells that were interrupted in mid-stream
    RESULTS/mlflow.db, mlartifacts/     MLflow's default store
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.schema import CELLS_FOLDER, FAILED_FOLDER, MANIFEST, STORE_FILE, picture_name
from grid.events import CellState
from grid.store.files import as_bytes, show, staged, take_away
from grid.store.mirror import LOCK, Mirror
from grid.store.objects import error_line, is_url
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from grid.plan.simulate import Timings
    from tta_core.run.cell import RunResult

CHECKPOINTS_FOLDER = ".checkpoints"

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk or a quota is full."""


class UnwritableError(Exception):
    """The results folder takes no more results. The message says why and what to do."""


class ResultStore:
    """A results folder, or results in an object store.

    Attributes:
        folder: the folder; it need not exist before `create`.
        mirror: the object store that the folder mirrors; None if the results are in the folder itself.
    """

    def __init__(self, results: str | Path) -> None:
        """Names the results: a folder, or a URL such as `s3://bucket/path`.

        Raises:
            InputError: if it is a URL of no object store.
        """
        self.mirror = Mirror(str(results)) if is_url(results) else None
        self.folder = self.mirror.folder if self.mirror else Path(results).absolute()

    @property
    def address(self) -> str:
        """By what any node names the results: the absolute path, or the URL."""
        return self.mirror.objects.url if self.mirror else str(self.folder)

    @property
    def shown(self) -> str:
        """The same for people, without a password."""
        return self.mirror.objects.shown if self.mirror else str(self.folder)

    @property
    def id(self) -> str:
        """Identifies this store wherever it is moved to."""
        return str(json.loads((self.folder / STORE_FILE).read_text())["store"])

    @property
    def tune_folder(self) -> str:
        """Where Ray Tune keeps its snapshots while a launch lasts: a path or a URL."""
        return self.mirror.objects.below(".tune") if self.mirror else str(self.folder / ".tune")

    def create(self) -> None:
        """Makes the folder if it is missing and makes sure that it can be written.

        Raises:
            InputError: if it cannot.
            ResultsError: if a newer version made it.
        """
        from analysis.results.damage import store_entry
        from analysis.results.load import check_layout

        self._check_place()
        check_layout(self.folder)
        try:
            for name in (CELLS_FOLDER, FAILED_FOLDER, ".staging"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            with staged(self.folder) as staging:
                (staging / STORE_FILE).write_text(json.dumps(store_entry(uuid.uuid4().hex)))
                if not (self.folder / STORE_FILE).exists():
                    (staging / STORE_FILE).replace(self.folder / STORE_FILE)
        except OSError as error:
            raise InputError(f"{self.unwritable(error)}, or give another folder with --results DIR") from None
        if self.mirror:
            self.mirror.create()

    def unwritable(self, error: OSError) -> str:
        """What is wrong if the store cannot be written, for people."""
        if self.mirror and error.filename is None:
            return f"the results {self.shown} cannot be written ({error_line(error)})"
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

        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another tta-grid run is writing to {self.shown}: wait for it, or give another --results DIR"
            ) from None
        try:
            self._clear_leftovers()
            if self.mirror:
                with self.mirror.held():
                    self.mirror.begin()
                    yield
            else:
                yield
        finally:
            lock.release()

    def states(self) -> dict[str, CellState]:
        """The state of every cell in the store.

        Raises:
            ResultsError: if a newer version made the store.
            InputError: if an object store cannot be read, or the folder is none.
        """
        from analysis.results.load import check_layout

        if self.mirror:
            self.mirror.bring_cells()
        self._check_place()
        check_layout(self.folder)
        states: dict[str, CellState] = dict.fromkeys(self._names(FAILED_FOLDER), "failed")
        return states | dict.fromkeys(self._names(CELLS_FOLDER), "done")

    def _check_place(self) -> None:
        """Raises `InputError` if there is something else where the folder is to be."""
        try:
            problem = "" if stat.S_ISDIR(self.folder.stat().st_mode) else "it is a file"
        except FileNotFoundError:
            return
        except OSError as error:
            problem = os.strerror(error.errno) if error.errno else str(error)
        if problem:
            raise InputError(
                f"the results folder {self.folder} cannot be written ({problem}): give another with --results DIR"
            )

    def timings(self) -> Timings:
        """What finished cells took."""
        from grid.store.timings import read_timings

        return read_timings(self.folder)

    def cell_folder(self, cell: str) -> Path:
        """Folder of a finished cell."""
        return self.folder / CELLS_FOLDER / cell

    def has(self, cell: str) -> bool:
        """Whether a cell has ended here; asks the file system anew, which a network may answer from memory.

        Raises:
            InputError: if an object store cannot be read.
        """
        if self.mirror:
            self.mirror.bring_cell(cell)
        return any(cell in self._names(kind) for kind in (CELLS_FOLDER, FAILED_FOLDER))

    def holds(self, cell: str) -> bool:
        """Whether a cell has finished here, and its folder can be read.

        Raises:
            InputError: if an object store cannot be read.
        """
        if self.mirror:
            self.mirror.bring_cell(cell)
        return self.cell_folder(cell).exists()

    def entry_folder(self, cell: str) -> Path:
        """Folder of a cell that is in the store, finished or failed."""
        folder = self.cell_folder(cell)
        return folder if folder.exists() else self.folder / FAILED_FOLDER / cell

    def checkpoint_file(self, cell: str) -> Path:
        """Where a cell saves itself in mid-stream."""
        return self.folder / CHECKPOINTS_FOLDER / f"{cell}.pt"

    def bring_checkpoint(self, cell: str) -> None:
        """Brings the last checkpoint of a cell from an object store, where another node may have left one.

        Raises:
            InputError: if it cannot be read.
        """
        if self.mirror:
            self.mirror.bring_file(f"{CHECKPOINTS_FOLDER}/{cell}.pt")

    def discard_checkpoint(self, cell: str) -> None:
        """Removes the checkpoint of a cell that has ended."""
        from tta_core.run.checkpoint import discard

        discard(self.checkpoint_file(cell))
        if self.mirror:
            # One that stays costs room, and no result.
            with suppress(OSError):
                self.mirror.objects.delete(f"{CHECKPOINTS_FOLDER}/{cell}.pt")

    def write_result(self, result: RunResult, *, sweep: str, git_commit: str) -> None:
        """Publishes a finished cell. A cell that is already there stays as it is; an earlier failure is removed.

        Raises:
            UnwritableError: if the folder takes no more.
        """
        from grid.store.tables import result_tables

        tables = result_tables(result, sweep=sweep, git_commit=git_commit)
        texts = {"skipped_images.txt": result.skipped, "notes.txt": result.notes}
        written = {name: as_bytes("\n".join([*lines, ""])) for name, lines in texts.items() if lines}
        written |= {picture_name(one.domain, one.index): one.png for one in result.pictures}
        with self._writing():
            self._publish(CELLS_FOLDER, result.cell, tables, written)
            take_away(self.folder / FAILED_FOLDER / result.cell, self.folder)
            if self.mirror:
                self.mirror.objects.delete(f"{FAILED_FOLDER}/{result.cell}")

    def share(self, name: str) -> None:
        """Sends a file of the folder, or all in a folder of it, to where the results are, if that is elsewhere.

        Raises:
            UnwritableError: if the object store takes no more.
        """
        if self.mirror:
            with self._writing():
                self.mirror.send(name)

    def take_over(self, folder: Path) -> None:
        """Copies a finished cell of another results folder; one that is there already stays as it is.

        Raises:
            UnwritableError: if this folder takes no more, or that one cannot be read.
        """
        if self.cell_folder(folder.name).exists():
            return
        with self._writing(), staged(self.folder) as staging:
            whole = shutil.copytree(folder, staging / folder.name)
            if self.mirror:
                self.mirror.send_cell(CELLS_FOLDER, folder.name, whole)
            show(whole, self.folder / CELLS_FOLDER / folder.name, self.folder)

    def write_failure(
        self, config: RunConfig, reason: str, *, sweep: str, git_commit: str, traceback: str = ""
    ) -> None:
        """Publishes why a cell failed; the last failure replaces earlier ones.

        Raises:
            UnwritableError: if the folder takes no more, or what is to be said has no place in its columns.
        """
        from grid.store.tables import failure_table

        cell = config.cell_id()
        if cell in self._names(CELLS_FOLDER):
            return
        try:
            table = failure_table(config, reason, sweep=sweep, git_commit=git_commit, started_at=datetime.now(UTC))
        # Whoever records a failure has no one to tell of another.
        except Exception as error:
            raise UnwritableError(
                f"the cell {cell} failed ({reason}), and that cannot be recorded ({type(error).__name__}: {error}): "
                "leave the cell out of the sweep"
            ) from error
        with self._writing():
            self._publish(FAILED_FOLDER, cell, {"cell": table}, {"traceback.txt": as_bytes(traceback)}, replace=True)

    def adopt(self, kind: str, folder: Path) -> str:
        """Publishes a copy of a cell of another store; returns what is wrong with it, and then leaves it out.

        Args:
            kind: `CELLS_FOLDER` or `FAILED_FOLDER`.
            folder: the cell there.

        Raises:
            InputError: if this store cannot be written.
        """
        from analysis.results.damage import cell_problem

        with staged(self.folder) as staging:
            copied = staging / folder.name
            try:
                shutil.copytree(folder, copied)
            except (OSError, shutil.Error) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise InputError(self.unwritable(error)) from None
                return f"cannot be copied ({error})"
            if problem := cell_problem(copied, kind):
                return problem
            show(copied, self.folder / kind / folder.name, self.folder, replace=True)
        if kind == CELLS_FOLDER:
            take_away(self.folder / FAILED_FOLDER / folder.name, self.folder)
        return ""

    def failures(self, cells: Sequence[str]) -> dict[str, str]:
        """Reasons of those of the given cells that failed."""
        import pyarrow.parquet as pq

        reasons = {}
        for cell in cells:
            file = self.folder / FAILED_FOLDER / cell / "cell.parquet"
            if file.exists() and not self.cell_folder(cell).exists():
                table = pq.read_table(file, columns=["reason"], page_checksum_verification=True)
                reasons[cell] = str(table["reason"][0].as_py())
        return reasons

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnwritableError(self.unwritable(error)) from error

    def _names(self, kind: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.folder / kind) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []  # No store yet; `create` says if there can be none.

    def _publish(
        self,
        kind: str,
        cell: str,
        tables: Mapping[str, pa.Table],
        files: Mapping[str, bytes],
        *,
        replace: bool = False,
    ) -> None:
        """Writes a cell aside, and shows it by one rename. One that is there stays, unless it is to be replaced."""
        import pyarrow.parquet as pq

        from analysis.results.damage import manifest_of

        with staged(self.folder) as staging:
            for name, table in tables.items():
                pq.write_table(table, staging / f"{name}.parquet", compression="zstd", write_page_checksum=True)
            for name, content in files.items():
                (staging / name).write_bytes(content)
            (staging / MANIFEST).write_text(json.dumps(manifest_of(cell, staging)))
            if self.mirror:
                self.mirror.send_cell(kind, cell, staging, replace=replace)
                return
            show(staging, self.folder / kind / cell, self.folder, replace=replace)

    def _clear_leftovers(self) -> None:
        """Removes what a killed driver left behind."""
        for name in (".staging", ".marks", ".tune"):
            for leftover in (self.folder / name).glob("*"):
                shutil.rmtree(leftover, ignore_errors=True)
