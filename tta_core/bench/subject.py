"""The network, the images and the methods that a benchmark runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tta_core.backbones.classifier import find_classifier
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.segformer import SHAPES, build_segformer
from tta_core.backbones.spec import BackboneSpec
from tta_core.backbones.table import BACKBONES, backbone_spec
from tta_core.bench.request import BenchRequest, MethodChoice
from tta_core.errors import InputError, closest_match
from tta_core.methods.base import Method
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.common.surgery import network_kinds
from tta_core.methods.registry import build_method

BATCHES = 4
"""Distinct batches, taken in turn: a method that saw the same one again and again would converge on it."""
RANDOM_WEIGHT_CLASSES = 1000
LABELLED_IMAGES = 4
"""Images for methods that train something before the stream."""
PASSING_MARGIN = 0.4
"""The entropy margin, in units of ln(classes), that half of the images pass."""


@dataclass(frozen=True)
class Subject:
    """What every method of a benchmark starts from.

    Attributes:
        network: the source network, in eval mode, on its device; copied for each method.
        weights: what its weights are, for people.
        num_classes: number of logits.
        image_size: height and width in pixels.
        mean, std: normalisation that the images went through.
        batches: random images `(batch, 3, height, width)`.
        source_images: as many others, for methods that need images of the source.
        head_scale: what the classifier was multiplied by so that half of the images, or pixels, have an entropy below
            `PASSING_MARGIN` ln(classes); None if the head is of a kind that is left as it is.
    """

    network: nn.Module
    weights: str
    num_classes: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    batches: list[Tensor]
    source_images: list[Tensor]
    head_scale: float | None

    def taken_by(self, choices: Iterable[MethodChoice]) -> list[MethodChoice]:
        """The choices that were named, and of the others those that take the network."""
        kinds = network_kinds(self.network)
        return [choice for choice in choices if choice.named or choice.spec.takes(kinds)]

    def double(self) -> Subject:
        """The same in double precision."""
        return replace(
            self,
            network=copy.deepcopy(self.network).double(),
            batches=[images.double() for images in self.batches],
            source_images=[images.double() for images in self.source_images],
        )

    def build(self, choice: MethodChoice, seed: int, device: torch.device | None = None) -> Method[Any]:
        """Puts a method around a copy of the network, on its own device or on another."""
        network = copy.deepcopy(self.network)
        target = device or self.batches[0].device
        # Few: what a method makes of them before the stream is not timed, and only its shape matters.
        images = self.source_images[0][:LABELLED_IMAGES].to(target)
        labels = torch.arange(len(images), device=target) % self.num_classes
        if choice.task == "segmentation":
            labels = labels.to(torch.uint8)[:, None, None].expand(-1, *images.shape[-2:])
        labelled = [(images, labels)]
        return build_method(
            choice.name,
            network.to(target),
            num_classes=self.num_classes,
            preset=choice.preset,
            seed=seed,
            batch_size=len(self.batches[0]),
            mean=self.mean,
            std=self.std,
            source_images=[images.to(target) for images in self.source_images],
            labelled_source=labelled,
            held_out=labelled,
            task=choice.task,
            **choice.settings,
        )


def make_subject(request: BenchRequest, device: torch.device) -> Subject:
    """Builds the network and the images that a request names.

    Raises:
        InputError: for a backbone that does not exist, or one that does not take these images.
    """
    torch.manual_seed(request.seed)
    if request.backbone in BACKBONES:
        spec = backbone_spec(request.backbone)
        segments = spec.task == "segmentation"
        if not segments and request.image_size not in (None, spec.image_size):
            raise InputError(
                f"--image-size {request.image_size} is not allowed with {spec.name}, whose images have "
                f"{spec.image_size} pixels: leave the option out"
            )
        network, weights, num_classes = _network_of(spec, request.seed)
        image_size, mean, std = request.image_size or spec.image_size, spec.mean, spec.std
    else:
        network, own_size = _random_network(request.backbone, request.image_size)
        weights, num_classes = f"random weights (seed {request.seed})", RANDOM_WEIGHT_CLASSES
        image_size = request.image_size or own_size
        mean = std = (0.5, 0.5, 0.5)
    try:
        pool = _random_images(2 * BATCHES, request.batch_size, image_size, mean, std, request.seed)
        images = [batch.to(device) for batch in pool]
        network = network.to(device)
        scale = _let_half_pass(network, images[:BATCHES], num_classes)
    except (RuntimeError, AssertionError, ValueError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the forward of {request.backbone} on {request.batch_size} images of {image_size} pixels failed "
            f"({reason}): give an --image-size that the network takes, or a smaller --batch-size"
        ) from None
    return Subject(network, weights, num_classes, image_size, mean, std, images[:BATCHES], images[BATCHES:], scale)


def _network_of(spec: BackboneSpec, seed: int) -> tuple[nn.Module, str, int]:
    """The network of a row, what its weights are, and its logits. A SegFormer's are the user's own: here random."""
    if spec.name in SHAPES:
        network = build_segformer(spec.name, spec.num_classes).eval().requires_grad_(False)
        return network, f"random weights (seed {seed})", spec.num_classes
    return load_backbone(spec), f"weights {spec.weights_tag()}", spec.num_classes


def _random_network(name: str, image_size: int | None) -> tuple[nn.Module, int]:
    """Builds a timm architecture; also returns the height and width of the images that it is made for."""
    if not timm.is_model(name):
        match = closest_match(name, [*BACKBONES, *timm.list_models()])
        hint = f" Did you mean {match!r}?" if match else ""
        raise InputError(
            f"unknown backbone {name!r}.{hint} Allowed: {', '.join(sorted(BACKBONES))}, or any architecture of timm "
            "(random weights). See the first with: tta-grid list backbones"
        )
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    architecture, dot, tag = name.partition(".")
    if dot and not timm.models.is_model_pretrained(name):
        raise InputError(
            f"unknown tag {tag!r} of {architecture}: the weights are random, so leave it out: --backbone {architecture}"
        )
    try:
        network = timm.create_model(name, num_classes=RANDOM_WEIGHT_CLASSES, **options)
    except TypeError:  # Convolutional networks take images of any size and have no such option.
        network = timm.create_model(name, num_classes=RANDOM_WEIGHT_CLASSES)
    return network.eval().requires_grad_(False), network.default_cfg["input_size"][-1]


def _random_images(
    count: int, batch_size: int, size: int, mean: tuple[float, ...], std: tuple[float, ...], seed: int
) -> list[Tensor]:
    """Batches of uniform pixels in [0, 1], normalised; drawn on the CPU, so that all devices get the same."""
    generator = torch.Generator().manual_seed(seed)
    centre, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return [(torch.rand(batch_size, 3, size, size, generator=generator) - centre) / spread for _ in range(count)]


def _let_half_pass(network: nn.Module, batches: list[Tensor], num_classes: int) -> float | None:
    """Scales the classifier so that the median entropy is `PASSING_MARGIN` ln(classes); returns the factor.

    The logits of a random network are so small that every filter would refuse every sample; those of a trained one on
    noise may do anything. The entropy of a sample falls as its logits grow, so bisection finds the factor.
    """
    with torch.no_grad():
        logits = torch.cat([network(images) for images in batches]).movedim(1, -1).flatten(0, -2)
        head = find_classifier(network)
        if not isinstance(head, nn.Linear | nn.Conv2d):
            return None
        low, high = -20.0, 20.0
        for _ in range(60):
            middle = (low + high) / 2
            median = softmax_entropy(logits.double() * math.exp(middle)).median()
            low, high = (middle, high) if median > PASSING_MARGIN * math.log(num_classes) else (low, middle)
        for parameter in head.parameters(recurse=False):
            parameter.mul_(math.exp(low))
    return math.exp(low)
