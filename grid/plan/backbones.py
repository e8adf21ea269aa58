"""What a sweep's backbones are fed and where their weights would come from, for its plan. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tta_core.backbones.table import backbone_spec
from tta_core.backbones.weights import weights_origin
from tta_core.backbones.zero_shot import text_head_state
from tta_core.data.benchmarks import benchmark_spec
from tta_core.data.crops import crop_text
from tta_core.data.opened import ImageRequest
from tta_core.data.spec import Crop
from tta_core.run.config import RunConfig

DOMAINS_SHOWN = 4
"""How many domains a line names; of more it says how many."""


@dataclass(frozen=True)
class BackboneUse:
    """How the cells of a sweep use a backbone with the same weights.

    Attributes:
        backbone: the backbone.
        weights: tag of its weights.
        image_size: height and width of its input in pixels.
        mean, std: normalisation of inputs in [0, 1].
        images: what is done to images, in words -> the benchmarks, or some of their domains, that it is done to.
        own_crop: what the authors of the weights do to them, from timm's data config of the tag; empty if unknown.
        origin: where the weights come from on this machine.
        text_head: likewise, the text head of a zero-shot backbone; empty of others.
    """

    backbone: str
    weights: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    images: dict[str, list[str]]
    own_crop: str
    origin: str
    text_head: str

    def values(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        facts = [("images", f"{what} ({', '.join(where)})") for what, where in self.images.items()]
        if self.own_crop and self.own_crop not in self.images:
            facts.append(("own crop", f"{self.own_crop} (not used here; crop: backbone)"))
        facts.append(("weights", self.origin))
        if self.text_head:
            facts.append(("text head", self.text_head.removeprefix("text head: ")))
        normalised = normalisation_text(self.mean, self.std)
        return [
            f"backbone {self.backbone}: {self.image_size}x{self.image_size}, {normalised}",
            *(f"  {name:<10}{what}" for name, what in facts),
        ]


def backbone_uses(cells: Iterable[RunConfig]) -> list[BackboneUse]:
    """The backbones of cells, in their order."""
    grouped: dict[tuple[str, str], list[RunConfig]] = {}
    for config in cells:
        grouped.setdefault((config.backbone, config.weights_tag()), []).append(config)
    return [_use(configs) for configs in grouped.values()]


def _use(configs: Sequence[RunConfig]) -> BackboneUse:
    first = configs[0]
    row, own = backbone_spec(first.backbone), backbone_spec(first.backbone).own_crop()
    images: dict[str, dict[str, None]] = {}
    for benchmark, crop, domains in dict.fromkeys((one.benchmark, one.cut, one.domains) for one in configs):
        for what, where in _crops(benchmark, crop, domains, row.image_size).items():
            images.setdefault(what, {})[where] = None
    return BackboneUse(
        backbone=row.name,
        weights=first.weights_tag(),
        image_size=row.image_size,
        mean=row.mean,
        std=row.std,
        images={what: list(where) for what, where in images.items()},
        own_crop="" if own is None else crop_text(own, row.image_size),
        origin=weights_origin(row, first.own_weights),
        text_head=text_head_state(row),
    )


def _crops(benchmark: str, crop: Crop, domains: Sequence[str], size: int) -> dict[str, str]:
    """What is done to images in words -> which of a benchmark's domains it is done to."""
    request, found = ImageRequest(benchmark_spec(benchmark), crop=crop), dict[str, list[str]]()
    for name in domains:
        domain = name.partition("@")[0]
        found.setdefault(crop_text(request.domain(domain).crop, size), []).append(domain)
    if len(found) == 1:
        return dict.fromkeys(found, benchmark)
    return {what: f"{benchmark}: {_some(list(dict.fromkeys(names)))}" for what, names in found.items()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= DOMAINS_SHOWN else f"{len(names)} domains"


def normalisation_text(mean: Sequence[float], std: Sequence[float]) -> str:
    """A normalisation in words; a value that all channels share stands once."""
    return f"mean {_channels(mean)}, std {_channels(std)}"


def _channels(values: Sequence[float]) -> str:
    texts = [f"{value:.4g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)
