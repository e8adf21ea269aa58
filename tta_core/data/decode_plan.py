"""What `tta-grid data cache` decodes: which domains, how large, where; and the building with its progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.domains import ORDERS
from tta_core.data.files.decoded import DecodedDomain, check_room, decoded_domain
from tta_core.data.opened import TRAINING, ImageRequest
from tta_core.data.root import missing_domains
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import InputError, first_names, unknown_name
from tta_core.machine import free_bytes, gib

SETS = ("reported", "held-out")

Tell = Callable[[str, bool], object]


@dataclass(frozen=True)
class DecodePlan:
    """Domains to decode.

    Attributes:
        domains: all that were asked for.
        missing: those that are not in the cache.
        incomplete: of domains that have not as many images as they should, how many there are, for people.
    """

    domains: tuple[DecodedDomain, ...]
    missing: tuple[DecodedDomain, ...]
    incomplete: tuple[str, ...] = ()

    @property
    def needed(self) -> int:
        """Bytes that building the missing ones takes from the disk."""
        return sum(each.missing_bytes() for each in self.missing)

    def as_text(self) -> str:
        """The sizes, for people, before anything is written."""
        folder = self.domains[0].path.parent
        images = sum(len(each.images) for each in self.domains)
        total = sum(each.nbytes for each in self.domains)
        size = self.domains[0].images.size
        return "\n".join(
            [
                *self.incomplete,
                *(["tta-grid data verify says what is missing"] if self.incomplete else []),
                f"{len(self.domains)} domains, {images:,} images of {size}x{size} pixels, {gib(total)} decoded",
                f"{len(self.domains) - len(self.missing)} are there, {len(self.missing)} to decode: {gib(self.needed)}",
                f"{folder}: {gib(free_bytes(folder))} free",
            ]
        )

    def build(self, *, workers: int, tell: Tell) -> dict[str, list[str]]:
        """Decodes what is missing, domain by domain.

        Args:
            workers: threads that decode.
            tell: takes lines of progress, and whether a line is the last of its domain.

        Returns:
            Names of damaged images by domain, of all domains that were asked for.

        Raises:
            InputError: if the disk is too small for all of them, or a domain cannot be built.
        """
        check_room(self.domains[0].path.parent, self.needed, f"{len(self.missing)} domains")
        damaged = {}
        for each in self.domains:
            name = each.name

            def progress(done: int, total: int, name: str = name) -> None:
                tell(f"{name}: {done:,} of {total:,} images", done == total)

            def waiting(name: str = name) -> None:
                tell(f"{name}: another process decodes it, waiting", True)

            built = each.build(workers=workers, progress=progress, waiting=waiting)
            if built.damaged:
                damaged[name] = [f"{built.place(number)} ({reason})" for number, reason in built.damaged.items()]
        return damaged


def make_plan(
    spec: BenchmarkSpec, *, severities: Sequence[int], domains: Sequence[str], crop: Crop | None, image_size: int
) -> DecodePlan:
    """Looks for the images of domains, and which of them are decoded already.

    Args:
        spec: the benchmark.
        severities: severities of those domains that have any.
        domains: names, `clean`, `training`, `reported`, `held-out`, or an order; none for `reported`.
        crop: how images are cut; None for the benchmark's default.
        image_size: pixels.

    Raises:
        InputError: if a name is unknown, images are missing, or there is nothing to decode.
    """
    if crop is not None and spec.crop(crop) != crop:
        raise unknown_name(f"crop of {spec.name}", crop, spec.crops)
    if image_size < 1:
        raise InputError(f"image size {image_size} is not allowed: give a number of pixels, such as 224")
    found: dict[str, DecodedDomain] = {}
    expected: dict[str, int] = {}
    lacking: dict[str, InputError] = {}
    for name in _resolved(spec, domains or ("reported",)):
        if name == TRAINING:
            images = ImageRequest(spec, crop=crop, image_size=image_size).open_files(name)
            each = decoded_domain(owner(spec, CLEAN), TRAINING, 0, images)
            found[each.path.name] = each
            continue
        for severity in severities:
            request = ImageRequest(spec, severity, crop=crop, image_size=image_size)
            domain = request.domain(name)
            row = domain.row
            if domain.severity and severity not in row.severities:
                raise InputError(f"severity {severity} is not one of {list(row.severities)} ({row.name})")
            try:
                images = request.open_files(name, whole=False)
            except InputError as error:
                if not request.encoded(name):
                    raise
                lacking[name] = error
                continue
            each = decoded_domain(row, name, domain.severity, images)
            found[each.path.name] = each
            expected[each.path.name] = row.count(name)
    made = tuple(found.values())
    if lacking:
        here = [name for name in _resolved(spec, domains or ("reported",)) if name not in lacking]
        told = str(missing_domains(lacking))
        if here:
            told = f"to decode what is here: --domains {','.join(here)}. {told[:1].upper()}{told[1:]}"
        raise InputError(told)
    partial = tuple(each for key, each in found.items() if len(each.images) != expected.get(key, len(each.images)))
    notes = tuple(
        f"{each.name}: {len(each.images):,} of {expected[each.path.name]:,} images are here" for each in partial
    )
    return DecodePlan(made, tuple(each for each in made if each.opened() is None), notes)


def damaged_text(damaged: dict[str, list[str]]) -> str:
    """The damaged images, for people."""
    lines = [f"{name}: {len(images)} damaged images: {first_names(images)}" for name, images in damaged.items()]
    return "\n".join(
        [*lines, "Cells that meet one fail, or leave it out and count it (resources.corrupt_images: skip)"]
    )


def _resolved(spec: BenchmarkSpec, names: Sequence[str]) -> list[str]:
    sets = {"reported": spec.domains, "held-out": spec.held_out_domains} | ORDERS
    found: dict[str, None] = {}
    known = (*spec.domains, *spec.held_out_domains, CLEAN, TRAINING)
    for name in names:
        for each in sets.get(name, (name,)):
            if each not in known:
                raise unknown_name(f"domain of {spec.name}", each, (*known, *SETS))
            found[each] = None
    return list(found)
