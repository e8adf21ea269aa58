"""What `tta-grid data corrupt` makes: of which images, how many, where; and the making with its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tta_core.corruptions.frost import read_textures
from tta_core.corruptions.generate import QUALITY, Job, Tell, generate_arrays, generate_files
from tta_core.corruptions.sources import BenchmarkImages, FolderImages, ImageSource, read_array
from tta_core.corruptions.strengths import LADDERS, NAMES, SEVERITIES
from tta_core.data.benchmarks import BENCHMARKS, benchmark_spec
from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.data.generated import Record, read_record
from tta_core.data.sources.table import storage_of
from tta_core.data.spec import BenchmarkSpec, Ladder
from tta_core.errors import InputError, unknown_name
from tta_core.machine import free_bytes, gib

IMAGE_SIZE = 224
"""Pixels of the images of ImageNet-C."""
BYTES_PER_PIXEL = 0.35
"""Of a JPEG file of quality 85: a little above the mean over all corruptions and severities of photographs (0.31)."""
BYTES_PER_PIXEL_LOSSLESS = 1.8
"""Likewise, of a PNG file."""
SETS = {"reported": CORRUPTIONS, "held-out": HELD_OUT_CORRUPTIONS}
MADE_HERE = "made here"


@dataclass(frozen=True)
class Plan:
    """A set of corrupted images to make.

    Attributes:
        of: the clean images, for people.
        images: they: files, or an array `(images, height, width, 3)`.
        expected: how many the benchmark has; None for images of the user's own.
        folder: where to.
        record: how they are made.
        job: what is made of each.
        beside: further arrays, by file name.
    """

    of: str
    images: ImageSource | NDArray[np.uint8]
    expected: int | None
    folder: Path
    record: Record
    job: Job
    beside: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of clean images."""
        return len(self.images) if isinstance(self.images, np.ndarray) else len(self.images.names)

    @property
    def needed(self) -> int | None:
        """About how many bytes all files take; None where the images' sizes are not known before they are read."""
        if isinstance(self.images, np.ndarray):
            return self.images.nbytes * len(self.job.severities) * len(self.job.corruptions)
        pixels = self.record.image_size**2
        bytes_each = int(pixels * (BYTES_PER_PIXEL_LOSSLESS if self.job.lossless else BYTES_PER_PIXEL))
        return bytes_each * self.count * len(self.job.corruptions) * len(self.job.severities) or None

    def as_text(self) -> str:
        """What is going to be made, for people, before anything is written."""
        of_all = (
            ""
            if self.expected in (None, self.count)
            else f" of {self.expected:,} (a sweep needs all, or the names of these in subset_file)"
        )
        size = f", {self.record.image_size}x{self.record.image_size} pixels" if self.record.image_size else ""
        strengths = self.record.strengths or "imagenet or cifar by the size of each image"
        about = "" if self.needed is None else f"about {gib(self.needed)} of "
        kind = "arrays" if isinstance(self.images, np.ndarray) else f"files ({self.record.saved_as})"
        return "\n".join(
            [
                f"{self.count:,} images{of_all} of {self.of}{size}{self._left_out()}",
                f"{len(self.job.corruptions)} corruptions at severities {', '.join(map(str, self.job.severities))}; "
                f"strengths: {strengths}; frost: {self.record.frost}; seed {self.record.seed}; {self.job.device}",
                f"{about}{kind} in {self.folder}: {gib(free_bytes(self.folder))} free",
            ]
        )

    def _left_out(self) -> str:
        """Files beside the images of which nothing is made."""
        others = self.images.left_out if isinstance(self.images, FolderImages) else {}
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.items())
        return f"; {sum(others.values()):,} other files are left out: {kinds}" if others else ""

    def run(self, tell: Tell) -> dict[str, str]:
        """Makes what is missing.

        Returns:
            Names of the images of which nothing can be made, with what is wrong with them.

        Raises:
            InputError: if the disk is too small, or the folder holds other images or cannot be written to.
        """
        free = free_bytes(self.folder)
        begun = read_record(self.folder) is not None
        if not begun and self.needed is not None and self.needed > free:
            raise InputError(
                f"the images take about {gib(self.needed)}, but the disk of {self.folder} has {gib(free)} free: make "
                "room, or give fewer corruptions or severities"
            )
        if isinstance(self.images, np.ndarray):
            generate_arrays(self.images, self.folder, self.record, self.job, tell, beside=self.beside)
            return {}
        return generate_files(self.images, self.folder, self.record, self.job, tell)


def plan_benchmark(name: str, job: Job) -> Plan:
    """The images of a benchmark that is made here, from those of the data root.

    Raises:
        InputError: if the benchmark is none of these, or its clean images are not here.
    """
    spec = benchmark_spec(name)
    if not spec.generated_from:
        made = ", ".join(row.name for row in BENCHMARKS.values() if row.generated_from)
        raise InputError(
            f"the images of {name} are not made here: give one of {made}; or --images and --to for images of your own"
        )
    if job.lossless:
        raise InputError(f"the files of {name} have the published format: leave --png out")
    if job.textures is not None:
        raise InputError(
            f"{name} has the frost that is made here, so that it is the same for all: leave --frost out, or give "
            "--images and --to for a set of your own"
        )
    storage = storage_of(spec)
    folder = storage.folder(spec)
    images, labels = storage.material(spec, IMAGE_SIZE)
    if isinstance(images, np.ndarray):
        assert labels is not None, "arrays have labels of their own"
        _check_all_severities(job)
        record = _record(spec, job, images.shape[1], "npy")
        beside = {"labels.npy": labels.astype(np.uint8), "clean.npy": images}
        return Plan(f"{spec.generated_from} (clean.npy)", images, len(images), folder, record, job, beside)
    record = _record(spec, job, IMAGE_SIZE, f"JPEG of quality {QUALITY}")
    return Plan(spec.clean_folder, BenchmarkImages(images), spec.images_per_domain, folder, record, job)


def plan_images(images: Path, folder: Path, job: Job, size: int | None) -> Plan:
    """Any folder of images, or any array.

    Raises:
        InputError: if there are none, or the folder to write to is one of those that are read.
    """
    images, folder = images.expanduser().absolute(), folder.expanduser().absolute()
    source = images.resolve()
    if folder.resolve() == source or source in folder.resolve().parents:
        raise InputError(f"the folder {folder} lies in the images' own {images}: give --to another")
    frost = MADE_HERE if job.textures is None else "photographs"
    if source.is_file():
        _check_all_severities(job)
        if size is not None or job.lossless:
            raise InputError("--size and --png are for folders of images: leave them out with an array")
        array = read_array(images)
        record = _record(None, job, array.shape[1], "npy", frost)
        return Plan(str(images), array, None, folder, record, job)
    saved_as = "PNG" if job.lossless else f"JPEG of quality {QUALITY}"
    record = _record(None, job, size or 0, saved_as, frost)
    return Plan(str(images), FolderImages(images, size), None, folder, record, job)


def make_job(
    *,
    corruptions: Sequence[str],
    severities: Sequence[int],
    seed: int,
    strengths: str | None,
    frost: Path | None,
    device: str,
    workers: int,
    lossless: bool = False,
) -> Job:
    """What is made of each image.

    Args:
        corruptions: names, `reported` or `held-out`; none for all nineteen.
        severities: none for all five.
        seed: of the random choices.
        strengths: which published ones; None for those that fit the size.
        frost: folder with the published photographs of frost; None for textures made here.
        device: such as `cpu` or `cuda`.
        workers: threads.
        lossless: whether files are PNG and not JPEG.

    Raises:
        InputError: if a value is not allowed, or the device is not here.
    """
    names: dict[str, None] = {}
    for given in corruptions or ("reported", "held-out"):
        for name in SETS.get(given, (given,)):
            if name not in NAMES:
                raise unknown_name("corruption", name, (*NAMES, *SETS))
            names[name] = None
    for severity in severities:
        if severity not in SEVERITIES:
            raise InputError(f"severity {severity} is not allowed: give a whole number from 1 to 5")
    if strengths is not None and strengths not in LADDERS:
        raise unknown_name("ladder of strengths", strengths, LADDERS)
    ladder: Ladder | None = strengths
    _check_device(device)
    textures = None if frost is None else read_textures(frost.expanduser())
    chosen = tuple(sorted(set(severities))) or SEVERITIES
    return Job(tuple(names), chosen, seed, ladder, textures, device, workers, lossless)


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the device {device!r} cannot be used ({reason}): give --device cpu") from None


def _check_all_severities(job: Job) -> None:
    if tuple(job.severities) != SEVERITIES:
        raise InputError("an array holds all five severities: leave --severity out")


def _record(spec: BenchmarkSpec | None, job: Job, size: int, saved_as: str, frost: str = MADE_HERE) -> Record:
    ladder = job.ladder
    if spec is not None:
        own = storage_of(spec).ladder
        if ladder not in (None, own):
            raise InputError(f"{spec.name} has the strengths {own!r}: leave --strengths out")
        ladder = own
    return Record(
        benchmark=spec.name if spec else "",
        version=spec.version if spec else 0,
        seed=job.seed,
        image_size=size,
        strengths=ladder or "",
        frost=frost,
        saved_as=saved_as,
    )
