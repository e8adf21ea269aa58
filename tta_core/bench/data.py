"""How fast images are read: decoded from their files, and from the decode-once cache, on one core. Imports no torch."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_core.data.benchmarks import benchmark_spec
from tta_core.data.files.decoded import DecodedDomain
from tta_core.data.files.encoded import EncodedImages, ImageFiles
from tta_core.data.opened import ImageRequest
from tta_core.data.spec import Crop
from tta_core.errors import InputError, unknown_name

TARGET = 10.0
"""Times that the cache should be faster than decoding."""

GENERATED = "crops of two photographs of scikit-learn, written as JPEG"
GENERATED_SIZE = (375, 500)
"""Height and width in pixels: the usual size of a photograph of ImageNet."""


@dataclass(frozen=True)
class Reading:
    """What is to be measured.

    Attributes:
        benchmark: whose images are read; None for generated ones.
        domain: its domain; None for the first.
        severity: its severity, if the domain has any.
        crop: how images are cut; None for the benchmark's default.
        image_size: pixels after the crop.
        images: how many are read.
        batch_size: images in a batch.
        repeats: how often they are read in each way.
    """

    benchmark: str | None = None
    domain: str | None = None
    severity: int = 5
    crop: str | None = None
    image_size: int = 224
    images: int = 256
    batch_size: int = 64
    repeats: int = 5


@dataclass(frozen=True)
class DataBench:
    """What was measured.

    Attributes:
        source: which images.
        images: how many; each is read once in each repeat, in random order.
        image_size: pixels after the crop.
        crop: how they are cut.
        batch_size: images in a batch.
        repeats: of which the medians are given.
        file_kib: mean size of an encoded image in KiB.
        decoded_per_second, cached_per_second: images/s of CPU time of one thread.
        decoded_wall, cached_wall: images/s of wall time.
    """

    source: str
    images: int
    image_size: int
    crop: str
    batch_size: int
    repeats: int
    file_kib: float
    decoded_per_second: float
    cached_per_second: float
    decoded_wall: float
    cached_wall: float

    @property
    def ratio(self) -> float:
        """How many times faster the cache is, by CPU time."""
        return self.cached_per_second / self.decoded_per_second

    def as_dict(self) -> dict[str, Any]:
        """The values, with the ratio."""
        return asdict(self) | {"ratio": self.ratio, "target": TARGET}

    def as_text(self) -> str:
        """For people."""
        return "\n".join(
            [
                f"{self.images} images ({self.source}; {self.file_kib:.0f} KiB each), {self.crop} to {self.image_size} "
                f"pixels, batches of {self.batch_size}, one thread, median of {self.repeats}",
                f"decoded from files   {self.decoded_per_second:10,.0f} images/s of CPU time "
                f"({self.decoded_wall:,.0f} of wall time)",
                f"read from the cache  {self.cached_per_second:10,.0f} images/s of CPU time "
                f"({self.cached_wall:,.0f} of wall time)",
                f"ratio                {self.ratio:10.1f} (target: at least {TARGET:.0f}); the files of both were in "
                "memory",
            ]
        )


def bench_data(reading: Reading, *, tell: Callable[[str], object]) -> DataBench:
    """Measures how fast images are read.

    Args:
        reading: which images, and how often.
        tell: takes lines of progress.

    Raises:
        InputError: if the benchmark has no such image files, or they are not here.
    """
    with ExitStack() as context:
        folder = Path(context.enter_context(tempfile.TemporaryDirectory(prefix="tta-grid-bench-")))
        if reading.benchmark is not None:
            images, source = _images_of(reading.benchmark, reading), reading.benchmark
        else:
            tell(f"writing {reading.images} JPEG files")
            images, source = write_photographs(folder / "files", reading.images, reading.image_size), GENERATED
        drawn = np.random.default_rng(0).permutation(len(images))[: reading.images]
        return measure(images.chosen(sorted(drawn.tolist())), source, folder, reading.batch_size, reading.repeats, tell)


def measure(
    images: EncodedImages, source: str, folder: Path, batch_size: int, repeats: int, tell: Callable[[str], object]
) -> DataBench:
    """Measures both ways of reading over one stream, by turns.

    Args:
        images: the images.
        source: where they are from, for people.
        folder: for the cache, which is built first.
        batch_size: images in a batch.
        repeats: of each.
        tell: takes lines of progress.
    """
    tell(f"decoding {len(images)} images into a cache in {folder}")
    cache = DecodedDomain(source, images, folder / "decoded.npy").build()
    order = np.random.default_rng(1).permutation(len(images))
    sizes = [len(content) for content in images.encoded(order.tolist())]
    timed: dict[str, list[tuple[float, float]]] = {"decoded": [], "cached": []}
    _timed(cache.__getitem__, order, batch_size)
    for number in range(repeats):
        tell(f"repeat {number + 1} of {repeats}")
        timed["decoded"].append(_timed(images.__getitem__, order, batch_size))
        timed["cached"].append(_timed(cache.__getitem__, order, batch_size))
    rates = {
        name: [len(images) / statistics.median(each[clock] for each in values) for clock in (0, 1)]
        for name, values in timed.items()
    }
    return DataBench(
        source=source,
        images=len(images),
        image_size=images.size,
        crop=str(images.crop),
        batch_size=batch_size,
        repeats=repeats,
        file_kib=statistics.fmean(sizes) / 1024,
        decoded_per_second=rates["decoded"][0],
        cached_per_second=rates["cached"][0],
        decoded_wall=rates["decoded"][1],
        cached_wall=rates["cached"][1],
    )


def _timed(
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]], order: NDArray[np.int64], batch_size: int
) -> tuple[float, float]:
    """CPU time of this thread and wall time in s."""
    cpu, wall = time.thread_time(), time.perf_counter()
    for start in range(0, len(order), batch_size):
        read(order[start : start + batch_size])
    return time.thread_time() - cpu, time.perf_counter() - wall


def write_photographs(folder: Path, count: int, size: int) -> ImageFiles:
    """Writes crops of two real photographs as JPEG files, all different."""
    from sklearn.datasets import load_sample_images

    folder.mkdir(parents=True, exist_ok=True)
    photographs = load_sample_images().images
    generator = np.random.default_rng(0)
    height, width = GENERATED_SIZE
    names = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top = int(generator.integers(0, photograph.shape[0] - height + 1))
        left = int(generator.integers(0, photograph.shape[1] - width + 1))
        names.append(f"{number:06}.jpg")
        cut = photograph[top : top + height, left : left + width]
        Image.fromarray(cut).save(folder / names[-1], format="JPEG", quality=90)
    return ImageFiles(folder, names, "resize-center", size)


def _images_of(benchmark: str, reading: Reading) -> EncodedImages:
    spec = benchmark_spec(benchmark)
    domain = reading.domain or spec.domains[0]
    known = (*spec.domains, *spec.held_out_domains)
    if domain not in known:
        raise unknown_name(f"domain of {spec.name}", domain, known)
    request = ImageRequest(spec, reading.severity, image_size=reading.image_size)
    asked = request.domain(domain)
    if asked.severity and asked.severity not in asked.row.severities:
        raise InputError(f"severity {asked.severity} is not one of {list(asked.row.severities)} ({asked.row.name})")
    # This measures no backbone's crop.
    crops: dict[str, Crop] = {name: name for name in asked.row.crops if name != "backbone"}
    crop = reading.crop or asked.row.crops[0]
    if crop not in crops:
        raise unknown_name(f"crop of {asked.row.name}", crop, tuple(crops))
    return replace(request, crop=crops[crop]).open_files(domain)
