"""Whether what cells read is on this machine, before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from tta_core.backbones.table import backbone_spec
from tta_core.backbones.weights import check_weights
from tta_core.backbones.zero_shot import check_text_head
from tta_core.data.benchmarks import CLEAN
from tta_core.data.opened import ImageRequest
from tta_core.data.root import missing_domains
from tta_core.diagnostics.names import OBSERVERS
from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES, SOURCE_IMAGES
from tta_core.run.config import RunConfig
from tta_core.run.supplies import strongest_held_out
from tta_core.streams.subsets import Subset, named_labels


def check_available(configs: Iterable[RunConfig]) -> None:
    """Looks for the images and the weights of cells, without reading them.

    Raises:
        InputError: for what is missing, with where to get it and where to put it. All missing domains are named.
    """
    weights: dict[tuple[str, str], RunConfig] = {}
    requests: dict[tuple[str, int, int], ImageRequest] = {}
    domains: dict[tuple[tuple[str, int, int], str], None] = {}
    subsets: dict[tuple[tuple[str, int, int], str, Subset], None] = {}
    training: dict[tuple[str, bool], ImageRequest] = {}
    for config in configs:
        weights[config.backbone, config.weights_tag()] = config
        needs = config.needs()
        key = config.benchmark, config.severity, config.data_seed
        request = requests.setdefault(key, config.whole_images)
        read = list(config.visited)
        if SOURCE_IMAGES in needs or any(OBSERVERS[name].reads_clean for name in config.diagnostics):
            read.append(CLEAN)
        if HELD_OUT_IMAGES in needs:
            read += strongest_held_out(request.spec)
        for name in read:
            if (part := config.part_of(name)) is None:
                domains[key, name] = None
            else:
                subsets[key, name, part] = None
        if LABELLED_SOURCE_IMAGES in needs:
            training[config.benchmark, config.named_subset is None] = request
    for config in weights.values():
        backbone = backbone_spec(config.backbone)
        check_weights(backbone, config.own_weights)
        check_text_head(backbone)
    lacking: dict[str, InputError] = {}
    for key, name in domains:
        try:
            requests[key].check(name)
        except InputError as error:
            lacking.setdefault(name, error)
    if lacking:
        raise missing_domains(lacking)
    for key, name, names in subsets:
        named_labels(requests[key], name, names)
        names.places(name, requests[key].names(name))
    for (_, whole), request in training.items():
        request.check_training(whole=whole)
