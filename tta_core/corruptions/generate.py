"""Makes corrupted copies of images as files: JPEG in folders as of ImageNet-C, arrays as of CIFAR-C.

Either may be interrupted and goes on where it was: a file that is there is whole, and what it holds depends on nothing
but the image and the job.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_core.corruptions.corrupt import corrupt
from tta_core.corruptions.frost import Textures
from tta_core.corruptions.sources import ImageSource
from tta_core.corruptions.strengths import SEVERITIES
from tta_core.data.generated import RECORD, Record, read_record
from tta_core.data.spec import Ladder
from tta_core.errors import InputError

BLOCK = 32
"""Images corrupted at once."""
QUALITY = 85
"""Of the JPEG files, as of the published ones."""

Tell = Callable[[int, int], object]
"""Told how many of how many images are done."""


@dataclass(frozen=True)
class Job:
    """What is made of each image.

    Attributes:
        corruptions: names.
        severities: of each.
        seed: of the random choices.
        ladder: which published strengths; None for those that fit the size of each image.
        textures: photographs of frost; None for those that are made here.
        device: where it is computed.
        workers: threads that decode, draw random numbers and save.
        lossless: whether files are PNG and not JPEG.
    """

    corruptions: Sequence[str]
    severities: Sequence[int] = SEVERITIES
    seed: int = 0
    ladder: Ladder | None = None
    textures: Textures | None = None
    device: str = "cpu"
    workers: int = 1
    lossless: bool = False

    def file(self, folder: Path, name: str, severity: int, image: str) -> Path:
        """The file of an image, under its own name where that has the suffix of the format."""
        suffixes, usual = ((".png",), ".png") if self.lossless else ((".jpeg", ".jpg"), ".JPEG")
        return folder / name / str(severity) / (image if image.lower().endswith(suffixes) else image + usual)

    def save(self, image: NDArray[np.uint8], file: Path) -> None:
        """Writes one image.

        Raises:
            InputError: if it cannot be written.
        """
        options = {"format": "PNG"} if self.lossless else {"format": "JPEG", "quality": QUALITY, "optimize": True}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(file, error) from None
        _write(file, lambda partial: Image.fromarray(image).save(partial, **options))

    def apply(
        self, images: NDArray[np.uint8], keys: Sequence[int], name: str, severity: int, pool: Executor
    ) -> NDArray[np.uint8]:
        """Corrupts images of one size."""
        return corrupt(
            images,
            name,
            severity,
            keys=keys,
            seed=self.seed,
            ladder=self.ladder,
            textures=self.textures,
            device=self.device,
            pool=pool,
        )


def generate_files(source: ImageSource, folder: Path, record: Record, job: Job, tell: Tell) -> dict[str, str]:
    """Writes `FOLDER/<corruption>/<severity>/<name>` for each image.

    Args:
        source: the images.
        folder: where to, with `record` in it.
        record: how they are made.
        job: what is made of each.
        tell: told the progress.

    Returns:
        Names of the images of which nothing was made, with what is wrong with them.

    Raises:
        InputError: if the folder holds other images, or cannot be written to.
    """
    _begin(folder, record)
    damaged: dict[str, str] = {}
    with ThreadPoolExecutor(job.workers) as pool:
        for start in range(0, len(source.names), BLOCK):
            numbers = range(start, min(start + BLOCK, len(source.names)))
            missing = {
                (name, severity): waiting
                for name in job.corruptions
                for severity in job.severities
                if (waiting := [n for n in numbers if not job.file(folder, name, severity, source.names[n]).exists()])
            }
            needed = sorted({number for waiting in missing.values() for number in waiting})
            images = dict(zip(needed, pool.map(source.read, needed), strict=True))
            damaged |= {source.names[number]: image for number, image in images.items() if isinstance(image, str)}
            for (name, severity), waiting in missing.items():
                for group in _of_one_size(waiting, images):
                    names = [source.names[number] for number in group]
                    given = np.stack([images[number] for number in group])
                    made = job.apply(given, [_key(each) for each in names], name, severity, pool)
                    list(pool.map(job.save, made, [job.file(folder, name, severity, each) for each in names]))
            tell(numbers.stop, len(source.names))
    return damaged


def generate_arrays(
    images: NDArray[np.uint8],
    folder: Path,
    record: Record,
    job: Job,
    tell: Tell,
    *,
    beside: Mapping[str, NDArray[np.generic]],
) -> None:
    """Writes `FOLDER/<corruption>.npy` with the images at all severities, one after the other.

    Args:
        images: `(images, height, width, 3)`.
        folder: where to, with `record` in it.
        record: how they are made.
        job: what is made of each.
        tell: told the progress.
        beside: further arrays by file name.

    Raises:
        InputError: if the folder holds other images, or cannot be written to.
    """
    _begin(folder, record)
    total = len(images) * len(job.severities)
    for file, array in beside.items():
        _save_array(folder / file, array.shape, array.dtype, [array])
    with ThreadPoolExecutor(job.workers) as pool:
        for place, name in enumerate(job.corruptions):
            if not (folder / f"{name}.npy").exists():

                def blocks(name: str = name, before: int = place * total) -> Iterator[NDArray[np.uint8]]:
                    for step, severity in enumerate(job.severities):
                        for start in range(0, len(images), BLOCK):
                            keys = range(start, min(start + BLOCK, len(images)))
                            yield job.apply(np.asarray(images[start : keys.stop]), keys, name, severity, pool)
                            tell(before + step * len(images) + keys.stop, total * len(job.corruptions))

                _save_array(folder / f"{name}.npy", (total, *images.shape[1:]), np.dtype(np.uint8), blocks())
            tell((place + 1) * total, total * len(job.corruptions))


def _begin(folder: Path, record: Record) -> None:
    """Makes the folder and puts the record into it, if neither holds another set."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found, empty = read_record(folder), not any(folder.iterdir())
    except OSError as error:
        raise _unwritable(folder, error) from None
    if found is None and not empty:
        raise InputError(f"the folder {folder} holds files that were not made here: give an empty one, or move them")
    if found is not None and found != record:
        differing = "; ".join(
            f"{name} = {getattr(found, name)!r}, not {value!r}"
            for name, value in record.model_dump().items()
            if getattr(found, name) != value
        )
        raise InputError(
            f"the images in {folder} were made otherwise ({differing}): give another folder or the same options, or "
            "remove them"
        )
    if found is None:
        _write(folder / RECORD, lambda file: file.write_text(record.model_dump_json(indent=2) + "\n"))


def _key(name: str) -> int:
    """A number that seeds an image's random choices and depends on its name only: the same in any selection."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:6])


def _of_one_size(numbers: Sequence[int], images: Mapping[int, NDArray[np.uint8] | str]) -> Iterator[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in numbers:
        image = images[number]
        if not isinstance(image, str):
            groups.setdefault(image.shape, []).append(number)
    yield from groups.values()


def _save_array(
    file: Path,
    shape: tuple[int, ...],
    kind: np.dtype[np.generic],
    blocks: Iterable[NDArray[np.generic]],
) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as opened:
            header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(opened, header)
            for block in blocks:
                opened.write(np.ascontiguousarray(block).tobytes())

    if not file.exists():
        _write(file, write)


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Writes to another name and renames: a file that is there is whole."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        try:
            write(partial)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(file, error) from None


def _unwritable(file: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {file}: {error.strerror or error}. Make room, or give a folder that you may write to; run "
        "again, and it goes on where it was"
    )
