"""The images of a cell: the domains of its stream, and what they go through on the way to the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tta_core.backbones.table import backbone_spec
from tta_core.data.domains import split_severity
from tta_core.data.opened import DomainImages
from tta_core.errors import InputError
from tta_core.run.config import RunConfig
from tta_core.streams.batches import Normalise
from tta_core.streams.order import StreamOrder
from tta_core.streams.subsets import open_chosen


def load_domains(config: RunConfig, names: Sequence[str]) -> list[DomainImages]:
    """Opens domains of a cell's benchmark, in the given order.

    Args:
        config: the cell.
        names: domains as `StreamOrder.domains` names them, or `clean`.

    Raises:
        InputError: if images are missing or are not what they should be.
    """
    return [load_domain(config, name) for name in names]


def load_domain(config: RunConfig, name: str) -> DomainImages:
    """Opens a domain, or the part of it that the cell takes; see `load_domains`."""
    images, part = config.images, config.part_of(name)
    return images.open(name, build=True) if part is None else open_chosen(images, name, part, build=True)


def check_enough(config: RunConfig, order: StreamOrder, domains: Sequence[DomainImages]) -> None:
    """Looks whether the domains have the images that a stream asks for; benchmarks of whole images may lack some.

    Raises:
        InputError: if one has fewer.
    """
    for number, (name, domain) in enumerate(zip(order.domains, domains, strict=True)):
        asked = int(order.index[order.domain == number].max(initial=-1)) + 1
        if asked > len(domain.images):
            raise InputError(
                f"{name} of {config.benchmark} has {len(domain.images)} images here, and the stream takes {asked}: get "
                f"the others, or give samples_per_domain: {min(len(each.images) for each in domains)}"
            )


def fewer_images(config: RunConfig, order: StreamOrder, domains: Sequence[DomainImages]) -> list[str]:
    """What to know of domains that have fewer images here than they should, for people."""
    counts = {
        name: (len(domain.images), config.images.spec.count(split_severity(name, 0)[0]))
        for name, domain in zip(order.domains, domains, strict=True)
    }
    return [
        f"{name} has {here} of {count} images here: others get other images under the same numbers"
        for name, (here, count) in counts.items()
        if here < count and config.task == "segmentation"
    ]


def map_size(config: RunConfig, domains: Sequence[DomainImages]) -> tuple[int, int] | None:
    """Height and width of the maps of classes; None of classification.

    Raises:
        InputError: if images or maps of the domains differ in size, or have no half.
    """
    if config.task != "segmentation":
        return None
    for what, sizes in (
        ("images", {domain.images.shape[1:3] for domain in domains}),
        ("label maps", {domain.labels.shape[1:3] for domain in domains}),
    ):
        if len(sizes) > 1:
            raise InputError(f"the {what} of {config.benchmark} differ in size ({sorted(sizes)}): give domains of one")
    height, width = domains[0].images.shape[1:3]
    if config.crop == "half" and (height % 2 or width % 2):
        raise InputError(f"crop = 'half', but the images have {width}x{height} pixels: give crop: none")
    rows, columns = domains[0].labels.shape[1:3]
    return rows, columns


def normalisation(config: RunConfig, device: torch.device) -> Normalise:
    """What the images of a cell go through on a device."""
    backbone = backbone_spec(config.backbone)
    size = backbone.image_size if config.crop == "upsample" else None
    return Normalise(backbone.mean, backbone.std, device, size=size)
