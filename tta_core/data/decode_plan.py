"""What `tta-grid data cache` decodes: which domains, how large, where; and the building with its progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tta_core.backbones.table import backbone_spec
from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.domains import ORDERS
from tta_core.data.files.decoded import DecodedDomain, check_room, decoded_domain, free_bytes, gib
from tta_core.data.opened import TRAINING, own_severity
from tta_core.data.root import missing_domains
from tta_core.data.sources import class_folders
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import InputError, first_names, unknown_name

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
        row = owner(spec, CLEAN if name == TRAINING else name)
        if row.storage != "class-folders":
            raise InputError(
                f"{name} of {spec.name} has no image files to decode: {row.name} is {row.storage}. Its trials read "
                "arrays already"
            )
        if name == TRAINING:
            each = decoded_domain(row, TRAINING, 0, class_folders.load_training(row, crop or "none", image_size)[0])
            found[each.path.name] = each
            continue
        for severity in severities:
            if own_severity(row, name, severity) and severity not in row.severities:
                raise InputError(f"severity {severity} is not one of {list(row.severities)} ({row.name})")
            own_crop = row.crop(crop)
            try:
                images, _ = class_folders.load_domain(row, name, severity, own_crop, image_size, whole=False)
            except InputError as error:
                lacking[name] = error
                continue
            each = decoded_domain(row, name, own_severity(row, name, severity), images)
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


def crop_and_size(crop: str | None, backbone: str | None, image_size: int | None) -> tuple[Crop | None, int]:
    """How images are to be cut, from what the command line says.

    Args:
        crop: name of a crop; None for the benchmark's default.
        backbone: the backbone that they are cut for.
        image_size: pixels; None for those of the backbone, or 224.

    Raises:
        InputError: if the crop is that of a backbone, and none is given or it has none of its own.
    """
    row = None if backbone is None else backbone_spec(backbone)
    size = image_size if image_size is not None else 224 if row is None else row.image_size
    if crop != "backbone":
        return crop, size  # type: ignore[return-value]  # Other names are looked at where the benchmark is known.
    own = None if row is None else row.own_crop()
    if row is None or own is None:
        told = "give --backbone NAME too" if row is None else f"{row.name} has none of its own: give another --crop"
        raise InputError(f"--crop backbone is the crop of one backbone: {told}")
    if size != row.image_size:
        raise InputError(f"--crop backbone of {row.name} is for {row.image_size} pixels: leave --image-size out")
    return own, size


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
