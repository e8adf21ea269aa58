"""Whether what cells read is on this machine, before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from tta_core.backbones.table import backbone_spec
from tta_core.backbones.weights import check_weights
from tta_core.backbones.zero_shot import check_text_head
from tta_core.data.benchmarks import CLEAN, benchmark_spec, owner
from tta_core.data.opened import check_domain, check_training
from tta_core.data.root import missing_domains
from tta_core.diagnostics.names import OBSERVERS
from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES, SOURCE_IMAGES
from tta_core.run.config import RunConfig
from tta_core.streams.choice import names_subset
from tta_core.streams.labels import domain_names, named_labels
from tta_core.streams.order import visited_domains
from tta_core.streams.subsets import Subset


def check_available(configs: Iterable[RunConfig]) -> None:
    """Looks for the images and the weights of cells, without reading them.

    Raises:
        InputError: for what is missing, with where to get it and where to put it. All missing domains are named.
    """
    weights: dict[tuple[str, str], RunConfig] = {}
    domains: dict[tuple[str, str, int, int], None] = {}
    subsets: dict[tuple[str, str, int, int, Subset], None] = {}
    training: dict[str, None] = {}
    for config in configs:
        weights[config.backbone, config.weights_tag()] = config
        needs = config.needs()
        needs_clean = SOURCE_IMAGES in needs or any(OBSERVERS[name].reads_clean for name in config.diagnostics)
        clean = (CLEAN,) if needs_clean else ()
        visited, names = visited_domains(config.stream, config.domains), names_subset(config)
        if names is not None:
            subsets |= {(config.benchmark, name, config.severity, config.data_seed, names): None for name in visited}
            visited = ()
        for name in (*visited, *clean):
            domains[config.benchmark, name, config.severity, config.data_seed] = None
        if HELD_OUT_IMAGES in needs:
            row = benchmark_spec(config.benchmark)
            for name in row.held_out_domains:
                domains[config.benchmark, name, max(owner(row, name).severities), config.data_seed] = None
        if LABELLED_SOURCE_IMAGES in needs:
            training[config.benchmark] = None
    for config in weights.values():
        backbone = backbone_spec(config.backbone)
        check_weights(backbone, config.own_weights)
        check_text_head(backbone)
    lacking: dict[str, InputError] = {}
    for benchmark, domain, severity, data_seed in domains:
        try:
            check_domain(benchmark_spec(benchmark), domain, severity, data_seed=data_seed)
        except InputError as error:
            lacking.setdefault(domain, error)
    if lacking:
        raise missing_domains(lacking)
    for benchmark, domain, severity, data_seed, names in subsets:
        spec = benchmark_spec(benchmark)
        named_labels(spec, domain, names)
        names.places(domain, domain_names(spec, domain, severity, data_seed=data_seed))
    for benchmark in training:
        check_training(benchmark_spec(benchmark))
