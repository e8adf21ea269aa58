"""Decode once: the images of a domain as one memory-mapped array, cut to the network's size. Imports no torch.

The array's file is named by all that its bytes depend on: benchmark and version, domain, severity, crop, size, kind of
storage, and a hash over names, sizes and times of change of the image files. It is built in blocks; which blocks are
finished, with their checksums, stands in a file beside it, so that a build that was killed goes on where it was. The
finished array appears by one rename, with a list of the images that cannot be decoded.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_core.cache import REMEDY, cache_root, locked, open_array, write_whole
from tta_core.data.files.encoded import EncodedImages, damaged_error
from tta_core.data.root import readable
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import InputError
from tta_core.machine import free_bytes, gib, reserved_bytes, usable_cores

VARIABLE = "TTA_GRID_DECODE_CACHE"
"""Environment variable that lets trials build what they find missing: 1 or 0."""

FOLDER = "decoded"
FORMAT_VERSION = 1

BLOCK_BYTES = 2**24
"""Bytes of a block: what a build that is killed loses, for each of its threads."""

LOCK_SECONDS = 24 * 3600.0
"""How long to wait for another process that decodes the same domain; a dead one frees the lock."""

Progress = Callable[[int, int], object]
"""Is told how many images of how many are done."""


class DecodedImages:
    """The images of one domain in a memory map.

    Attributes:
        files: the images as they were before they were decoded.
        damaged: what is wrong with those that cannot be decoded, by number.
    """

    def __init__(self, files: EncodedImages, array: NDArray[np.uint8], damaged: Mapping[int, str]) -> None:
        self.files = files
        self.damaged = damaged
        self._array = array.view(np.ndarray)

    def __len__(self) -> int:
        return len(self._array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of all images."""
        return self._array.shape

    @property
    def names(self) -> Sequence[str]:
        """`<class>/<file>` of each image."""
        return self.files.names

    def place(self, number: int) -> str:
        """Where an image lies, for people."""
        return self.files.place(number)

    def __getitem__(self, key: slice | Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Copies some of the images: uint8 `(n, size, size, 3)`.

        Raises:
            InputError: naming the file, if one cannot be decoded.
        """
        numbers = np.arange(len(self))[key]
        images, damaged = self.read(numbers)
        if damaged:
            raise damaged_error(self, numbers, damaged)
        return images

    def read(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Like `EncodedImages.read`."""
        damaged = {}
        if self.damaged:
            damaged = {place: self.damaged[n] for place, n in enumerate(numbers.tolist()) if n in self.damaged}
        return self._array[numbers], damaged


@dataclass(frozen=True)
class DecodedDomain:
    """A domain and where its decoded images are, or are going to be.

    Attributes:
        name: domain and severity, for people.
        images: the images.
        path: the file of the array.
    """

    name: str
    images: EncodedImages
    path: Path

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(_header(self.images.shape)) + int(np.prod(self.images.shape))

    def opened(self) -> DecodedImages | None:
        """The decoded images; None if they are not there, not complete, or of something else."""
        array = open_array(self.path)
        if array is None or array.shape != self.images.shape:
            return None
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            damaged = {int(number): str(reason) for number, reason in notes["damaged"].items()}
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        return DecodedImages(self.images, array, damaged)

    def missing_bytes(self) -> int:
        """Bytes that building it still takes from the disk."""
        if os.path.exists(self.path):  # noqa: PTH110 False, not an error, where it may not be looked at
            return 0
        try:
            return max(0, self.nbytes - self._partial.stat().st_blocks * 512)
        except OSError:
            return self.nbytes

    def build(
        self, *, workers: int = 1, progress: Progress | None = None, waiting: Callable[[], object] | None = None
    ) -> DecodedImages:
        """Decodes the images, unless that is done; waits if another process is at it.

        Args:
            workers: threads that decode.
            progress: is told how far it is.
            waiting: called if another process is at it.

        Raises:
            InputError: if the disk is too small or cannot be written to, or an image file cannot be read.
        """
        found = self.opened()
        if found is not None:
            return found
        with locked(self.path, seconds=LOCK_SECONDS, waiting=waiting):
            found = self.opened()
            if found is None:
                check_room(self.path.parent, self.missing_bytes(), self.name)
                self._build(workers, progress or (lambda done, total: None))
                found = self.opened()
        if found is None:
            raise InputError(f"the file {self.path} is damaged right after it was written: check the disk. {REMEDY}")
        return found

    @property
    def _notes(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def _log(self) -> Path:
        return self.path.with_name(f".{self.path.name}.blocks")

    def _build(self, workers: int, progress: Progress) -> None:
        count, header = len(self.images), _header(self.images.shape)
        size = int(np.prod(self.images.shape[1:]))
        per_block = max(1, BLOCK_BYTES // size)
        starts = range(0, count, per_block)
        damaged: dict[int, str] = {}
        written = 0
        try:
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                os.pwrite(descriptor, header, 0)
                finished = self._finished(descriptor, len(header), size, per_block)
                for each in finished.values():
                    damaged |= {int(number): reason for number, reason in each["damaged"].items()}
                written = sum(min(per_block, count - start) for start in starts if start in finished)
                progress(written, count)

                def decode(start: int) -> dict[str, Any]:
                    numbers = np.arange(start, min(start + per_block, count))
                    images, wrong = self.images.read(numbers)
                    content = images.reshape(-1).data
                    _write_at(descriptor, content, len(header) + start * size)
                    wrong_numbers = {str(start + place): reason for place, reason in wrong.items()}
                    return {
                        "start": start,
                        "images": len(numbers),
                        "crc": zlib.crc32(content),
                        "damaged": wrong_numbers,
                    }

                with self._log.open("a", encoding="utf-8") as log:
                    for block in _in_turn(decode, (start for start in starts if start not in finished), workers):
                        log.write(f"\n{json.dumps(block)}")
                        log.flush()
                        damaged |= {int(number): reason for number, reason in block["damaged"].items()}
                        written += block["images"]
                        progress(written, count)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            notes = {"images": count, "damaged": {str(number): damaged[number] for number in sorted(damaged)}}
            write_whole(self._notes, lambda file: file.write(json.dumps(notes, indent=1).encode()))
            self._partial.replace(self.path)
            self._log.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write the decoded images of {self.name} to {self.path.parent}: {error.strerror or error}; "
                f"{written} of {count} images are done and are kept for the next attempt. {REMEDY}"
            ) from None

    def _finished(self, descriptor: int, offset: int, size: int, per_block: int) -> dict[int, dict[str, Any]]:
        """The blocks that an earlier build finished, by first image: those whose checksums are right."""
        found: dict[int, dict[str, Any]] = {}
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                block = json.loads(line)
                start, images, crc = int(block["start"]), int(block["images"]), int(block["crc"])
                whole = start % per_block == 0 and images == min(per_block, len(self.images) - start)
                block["damaged"].items()
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # The line that was being written when the build was killed.
            if whole and zlib.crc32(os.pread(descriptor, images * size, offset + start * size)) == crc:
                found[start] = block
        return found


@readable()
def decoded_domain(spec: BenchmarkSpec, domain: str, severity: int, images: EncodedImages) -> DecodedDomain:
    """Where the decoded images of a domain belong.

    Args:
        spec: the row that the domain is read by.
        domain: its name, without a severity.
        severity: its severity; 0 for none.
        images: its images, with crop and size.

    Raises:
        InputError: if one of their files cannot be looked at.
    """
    prefix = _prefix(spec, domain, severity, images)
    digest = sha256(repr((FORMAT_VERSION, images.kind, len(images))).encode())
    for line in images.listing():
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    name = f"{domain}, severity {severity}" if severity else domain
    return DecodedDomain(f"{spec.name} {name}", images, _folder() / f"{prefix}{digest.hexdigest()[:16]}.npy")


def decoded_if_there(
    spec: BenchmarkSpec, domain: str, severity: int, images: EncodedImages, *, build: bool
) -> EncodedImages | DecodedImages:
    """The decoded images of a domain if the cache has them, or if they are to be built; else the images themselves.

    Args:
        spec: the row that the domain is read by.
        domain: its name, without a severity.
        severity: its severity; 0 for none.
        images: its images, with crop and size.
        build: whether they may be built, if `TTA_GRID_DECODE_CACHE` says so.

    Raises:
        InputError: if they are to be built and cannot be.
    """
    if build and wanted():
        return decoded_domain(spec, domain, severity, images).build(workers=usable_cores())
    try:
        prefix = _prefix(spec, domain, severity, images)
        # Most users have no such cache: looking at all the images' files is for those who do.
        if not any(name.startswith(prefix) and name.endswith(".npy") for name in _names(_folder())):
            return images
    except (OSError, InputError):
        return images
    try:
        kept = decoded_domain(spec, domain, severity, images)
    except InputError:
        return images  # A file went away: reading it says which.
    return kept.opened() or images


def wanted() -> bool:
    """Whether trials are to build what they find missing.

    Raises:
        InputError: if the variable says neither.
    """
    given = os.environ.get(VARIABLE, "").strip().lower()
    if given not in ("", "0", "1", "true", "false", "yes", "no"):
        raise InputError(f"{VARIABLE} = {given!r}: give 1 (decode each domain once and keep it) or 0")
    return given in ("1", "true", "yes")


def check_room(folder: Path, needed: int, what: str) -> None:
    """Looks whether the disk has room.

    Raises:
        InputError: if it would have less than `reserved_bytes` left.
    """
    free = free_bytes(folder)
    reserve = reserved_bytes(folder)
    if needed and needed + reserve > free:
        raise InputError(
            f"decoding {what} takes {gib(needed)}, but the disk of {folder} has {gib(free)} free, of which "
            f"{gib(reserve)} are to stay: make room, decode fewer domains, or set TTA_GRID_CACHE to a folder on "
            "a larger disk"
        )


def _folder() -> Path:
    return cache_root() / FOLDER


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder)]


def _prefix(spec: BenchmarkSpec, domain: str, severity: int, images: EncodedImages) -> str:
    readable = f"{spec.name}-v{spec.version}-{domain}-{severity}-{images.crop}-{images.size}-"
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", readable)


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
    return file.getvalue()


def _write_at(descriptor: int, content: memoryview, offset: int) -> None:
    """Writes all of it: a disk that fills up takes a part first."""
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _in_turn(work: Callable[[int], dict[str, Any]], items: Iterator[int], workers: int) -> Iterator[dict[str, Any]]:
    """Results of the work on each item, in order, with few items begun ahead."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        begun: deque[Future[dict[str, Any]]] = deque(pool.submit(work, item) for item in islice(items, 2 * workers))
        try:
            while begun:
                yield begun.popleft().result()
                begun.extend(pool.submit(work, item) for item in islice(items, 1))
        finally:
            pool.shutdown(cancel_futures=True)
