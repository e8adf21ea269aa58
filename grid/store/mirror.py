"""Results in an object store, and the folder of this machine that mirrors them.

A cell there is its objects, `cell.parquet` last: without it the cell does not exist, so one that was cut off is seen by
nobody. Whoever reads brings the mirror up to date first, and reads files. Two that write one cell at once write the
same numbers, and the later row is the one that counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from analysis.schema import CELLS_FOLDER, FAILED_FOLDER, SEARCH_FOLDER, STORE_FILE, SWEEPS_FOLDER
from grid.background import lives, repeating
from grid.store.files import move_if_there
from grid.store.objects import ADVICE, Objects, error_line, is_url
from tta_core.cache import cache_root
from tta_core.errors import InputError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

LOCK = ".lock"
"""The file of a folder that one driver holds."""
ROW = "cell.parquet"
DRIVER = "driver.json"
PROGRESS = "progress.json"
RENEWED_SECONDS = 30.0
LOST_SECONDS = 120.0
"""A driver that has said nothing for so long is gone."""
AT_ONCE = 16
"""Requests at once: most of a request is waiting."""


class Mirror:
    """An object store with results, and its mirror.

    Attributes:
        objects: the object store.
        folder: the mirror, in the cache of this machine.
    """

    def __init__(self, url: str) -> None:
        """Names both; makes neither.

        Raises:
            InputError: if it is no URL of an object store.
        """
        self.objects = Objects(url)
        readable = self.objects.shown.rpartition("/")[2]
        self.folder = cache_root() / "results" / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        self._sent: dict[str, tuple[int, int]] = {}

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turns what the object store refuses into a message.

        Raises:
            InputError: in place of an `OSError`.
        """
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the results {self.objects.shown} cannot be used ({error_line(error)}): {ADVICE}"
            ) from None

    def create(self) -> None:
        """Gives the mirror the id of the store there, or if it is new the store there that of the mirror."""
        with self.reached():
            with suppress(FileNotFoundError):
                (self.folder / STORE_FILE).write_bytes(self.objects.read(STORE_FILE))
                return
            self.objects.write(STORE_FILE, (self.folder / STORE_FILE).read_bytes())

    def bring_cells(self) -> None:
        """Makes the cells of the mirror those that are there."""
        with self.reached():
            for kind in (CELLS_FOLDER, FAILED_FOLDER):
                (self.folder / kind).mkdir(parents=True, exist_ok=True)
                self._bring_cells(kind, _by_cell(self.objects.listed(kind)))

    def bring_rest(self) -> None:
        """Brings studies and progress. A driver changes its own mirror of them, and brings them before it begins."""
        with self.reached():
            for name in (STORE_FILE, PROGRESS):
                self.bring_file(name)
            for kind in (SEARCH_FOLDER, SWEEPS_FOLDER):
                for name, info in self.objects.listed(kind).items():
                    if not _is_current(self.folder / name, info):
                        self._replace(name, self.objects.read(name), info)

    def begin(self) -> None:
        """Brings what a driver goes on from, and removes what one that was killed left there."""
        self.bring_rest()
        with self.reached():
            for name in (".marks", ".tune"):
                self.objects.delete(name)

    def bring(self) -> None:
        """Makes the mirror what is there, for whoever reads it; a driver of this machine keeps its own part.

        Raises:
            InputError: if no results are there.
        """
        self.bring_cells()
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                self.bring_rest()
        except Timeout:
            return
        if not (self.folder / STORE_FILE).exists():
            raise InputError(f"{self.objects.shown} holds no results: give the URL that `tta-grid run` wrote to")

    def bring_file(self, name: str) -> None:
        """Brings one file, if it is there."""
        with self.reached(), suppress(FileNotFoundError):
            self._replace(name, self.objects.read(name))

    def bring_cell(self, cell: str) -> None:
        """Brings one cell, finished or failed, if it is there."""
        with self.reached():
            for kind in (CELLS_FOLDER, FAILED_FOLDER):
                found = _by_cell(self.objects.listed(f"{kind}/{cell}"))
                if ROW in found.get(cell, {}):
                    self._bring_cell(kind, cell, found[cell])

    def send_cell(self, kind: str, cell: str, folder: Path, *, replace: bool = False) -> None:
        """Publishes a cell: its row last. One that is there stays, unless it is to be replaced.

        Raises:
            OSError: if the object store takes no more.
        """
        there = self.objects.listed(f"{kind}/{cell}")
        row = f"{kind}/{cell}/{ROW}"
        if row in there:
            if not replace:
                return
            self.objects.delete(row)
        names = sorted(path.name for path in folder.iterdir() if path.name != ROW)
        # What an attempt that was cut off left there is another cell's now.
        for left in set(there) - {f"{kind}/{cell}/{name}" for name in names} - {row}:
            self.objects.delete(left)
        for name in [*names, ROW]:
            self.objects.write(f"{kind}/{cell}/{name}", (folder / name).read_bytes())

    def send(self, name: str) -> None:
        """Sends what changed of a file of the mirror, or of all files of a folder in it.

        Raises:
            OSError: if the object store takes no more.
        """
        place = self.folder / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            stand = (file.stat().st_size, file.stat().st_mtime_ns)
            relative = file.relative_to(self.folder).as_posix()
            if file.is_file() and self._sent.get(relative) != stand:
                self.objects.write(relative, file.read_bytes())
                self._sent[relative] = stand

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the store there for one driver, which says every half minute that it lives.

        Raises:
            InputError: if another driver holds it.
        """
        own = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        with self.reached():
            if other := self._holder():
                raise self._taken(other)
            self._say(own)
            # Of two that began in one moment the later one has it.
            if (other := self._holder()) and other["id"] != own["id"]:
                raise self._taken(other)

        def renew() -> None:
            with suppress(OSError):
                self._say(own)

        try:
            with repeating(renew, RENEWED_SECONDS, name="driver-file"):
                yield
        finally:
            with suppress(OSError):
                self.objects.delete(DRIVER)

    def _say(self, own: Mapping[str, Any]) -> None:
        self.objects.write(DRIVER, json.dumps({**own, "at": time.time()}).encode())

    def _holder(self) -> dict[str, Any] | None:
        """The driver that holds the store there; none if it has been silent, or was of this machine and is gone."""
        try:
            found: dict[str, Any] = json.loads(self.objects.read(DRIVER))
            age = time.time() - found["at"]
            gone = found["host"] == socket.gethostname() and not lives(found["pid"])
            return None if gone or age > LOST_SECONDS else found | {"age": age}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _taken(self, other: Mapping[str, Any]) -> InputError:
        return InputError(
            f"another tta-grid run is writing to {self.objects.shown} (on {other['host']}, heard of "
            f"{other['age']:.0f} s ago): wait for it, or if it was killed until {LOST_SECONDS:.0f} s have passed; or "
            "give another --results"
        )

    def _bring_cells(self, kind: str, there: Mapping[str, Mapping[str, FileInfo]]) -> None:
        whole = {cell: files for cell, files in there.items() if ROW in files}
        mine = self.folder / kind
        for gone in [path for path in mine.glob("*") if path.name not in whole]:
            self._drop(gone)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for done in [threads.submit(self._bring_cell, kind, cell, files) for cell, files in whole.items()]:
                done.result()

    def _bring_cell(self, kind: str, cell: str, files: Mapping[str, FileInfo]) -> None:
        target = self.folder / kind / cell
        if {path.name for path in target.glob("*")} == set(files) and all(
            _is_current(target / name, info) for name, info in files.items()
        ):
            return
        staging = self.folder / ".staging" / uuid.uuid4().hex
        staging.mkdir(parents=True)
        try:
            for name, info in files.items():
                # A failure may be replaced, or go, while we look.
                with suppress(FileNotFoundError):
                    _write(staging / name, self.objects.read(f"{kind}/{cell}/{name}"), info)
            self._drop(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Another process may bring the same cell.
            with suppress(OSError):
                staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _drop(self, folder: Path) -> None:
        """Takes a cell out of the mirror: no reader sees it half removed."""
        aside = self.folder / ".staging" / uuid.uuid4().hex
        aside.parent.mkdir(parents=True, exist_ok=True)
        move_if_there(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _replace(self, name: str, content: bytes, info: FileInfo | None = None) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        _write(aside, content, info)
        aside.replace(file)


def folder_here(results: str) -> str:
    """A folder of this machine with results: the given one, or the mirror of an object store, brought up to date.

    Raises:
        InputError: if the object store cannot be read, or holds no results.
    """
    if not is_url(results):
        return results
    mirror = Mirror(results)
    mirror.bring()
    return str(mirror.folder)


def _by_cell(listed: Mapping[str, FileInfo]) -> dict[str, dict[str, FileInfo]]:
    """Cell -> name of a file -> what is known of it."""
    found: dict[str, dict[str, FileInfo]] = {}
    for path, info in listed.items():
        _, cell, name = path.split("/", 2)
        found.setdefault(cell, {})[name] = info
    return found


def _is_current(file: Path, info: FileInfo) -> bool:
    """Whether a file of the mirror was brought from this very object: of its size, and with its time."""
    try:
        found = file.stat()
    except OSError:
        return False
    return found.st_size == info.size and found.st_mtime_ns // 10**9 == info.mtime_ns // 10**9


def _write(file: Path, content: bytes, info: FileInfo | None) -> None:
    file.write_bytes(content)
    if info is not None:
        os.utime(file, ns=(info.mtime_ns, info.mtime_ns))
