"""TEMP."""

from __future__ import annotations

from collections.abc import Sequence

from tta_core.backbones.table import backbone_spec
from tta_core.data.benchmarks import benchmark_spec
from tta_core.data.domains import split_severity
from tta_core.data.opened import DomainImages, read_domain
from tta_core.run.config import RunConfig
from tta_core.streams.choice import names_subset
from tta_core.streams.subsets import chosen_by_name


def load_domains(config: RunConfig, names: Sequence[str]) -> list[DomainImages]:
    """Opens domains of a cell's benchmark, in the given order.

    Args:
        config: the cell.
        names: domains as `StreamOrder.domains` names them, or `clean`.

    Raises:
        InputError: if images are missing or are not what they should be.
    """
    size = backbone_spec(config.backbone).image_size
    spec = benchmark_spec(config.benchmark)
    subset = names_subset(config)
    found = []
    for name in names:
        listed = subset if split_severity(name, config.severity)[0] in config.domains else None
        images, labels = read_domain(
            spec,
            name,
            config.severity,
            data_seed=config.data_seed,
            crop=config.cut,
            image_size=size,
            label_space=config.label_space,
            whole=listed is None,
            build=True,
        )
        found.append(
            DomainImages(*((images, labels) if listed is None else chosen_by_name(listed, name, images, labels)))
        )
    return found
