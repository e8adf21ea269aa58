"""The images of a cell: the domains of its stream, and what they go through on the way to the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tta_core.backbones.table import backbone_spec
from tta_core.data.opened import DomainImages
from tta_core.run.config import RunConfig
from tta_core.streams.batches import Normalise
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


def normalisation(config: RunConfig, device: torch.device) -> Normalise:
    """What the images of a cell go through on a device."""
    backbone = backbone_spec(config.backbone)
    size = backbone.image_size if config.crop == "upsample" else None
    return Normalise(backbone.mean, backbone.std, device, size=size)
