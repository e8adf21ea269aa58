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
    training: dict[str, ImageRequest] = {}
    for config in configs:
        weights[config.backbone, config.weights_tag()] = config
        needs, names = config.needs(), config.named_subset
        key = config.benchmark, config.severity, config.data_seed
        request = requests.setdefault(key, config.whole_images)
        if names is None:
            domains |= dict.fromkeys((key, name) for name in config.visited)
        else:
            subsets |= dict.fromkeys((key, name, names) for name in config.visited)
        if SOURCE_IMAGES in needs or any(OBSERVERS[name].reads_clean for name in config.diagnostics):
            domains[key, CLEAN] = None
        if HELD_OUT_IMAGES in needs:
            domains |= dict.fromkeys((key, name) for name in strongest_held_out(request.spec))
        if LABELLED_SOURCE_IMAGES in needs:
            training[config.benchmark] = request
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
    for request in training.values():
        request.check_training()
