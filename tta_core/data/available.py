"""Whether what cells read is on this machine, before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tta_core.config import RunConfig
from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.cell_streams import names_subset
from tta_core.data.encoded import first_names
from tta_core.data.labels import domain_names, named_labels
from tta_core.data.readers import check_domain, check_training
from tta_core.data.streams import visited_domains
from tta_core.data.subsets import Subset
from tta_core.errors import InputError
from tta_core.loading.weights import check_weights
from tta_core.loading.zero_shot import check_text_head
from tta_core.registry import backbone_spec, benchmark_spec
from tta_core.spec import HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES, SOURCE_IMAGES


def missing_domains(lacking: Mapping[str, InputError]) -> InputError:
    """One error for several domains: what is wrong with the first, and the names of all."""
    told = str(next(iter(lacking.values())))
    if len(lacking) == 1:
        return InputError(told)
    return InputError(
        f"{len(lacking)} domains are missing or not whole: {first_names(list(lacking))}. {told[:1].upper()}{told[1:]}"
    )


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
        needs_clean = SOURCE_IMAGES in needs or "forgetting" in config.diagnostics
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
