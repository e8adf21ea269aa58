"""Fixed images of a domain, and the accuracy of a frozen network on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tta_core.backbones.precision import autocast
from tta_core.data.domains import split_severity
from tta_core.data.opened import DomainImages
from tta_core.diagnostics.observer import Scene

MAX_IMAGES = 256
"""Images in a set: enough for a standard error of 3 points at worst, few enough to evaluate often."""

EVALUATION_BATCH = 64
"""Images in one evaluating forward; not the stream's batch size, which may be one."""


def plain(name: str) -> str:
    """The domain in a name that may hold a severity: `fog` of `fog@3`."""
    return split_severity(name, 0)[0]


def held_out(scene: Scene, domain: str) -> DomainImages:
    """At most `MAX_IMAGES` images of a domain, at the severity of the cell, the same for all methods.

    Images that the stream does not hold are taken first; a stream that uses up its domains leaves none, and then these
    are images that the method sees too, without their labels.
    """
    images = scene.open_domain(domain)
    candidates = np.random.default_rng(0).permutation(len(images.labels))
    numbers = [number for number, name in enumerate(scene.order.domains) if plain(name) == domain]
    streamed = np.isin(candidates, scene.order.index[np.isin(scene.order.domain, numbers)])
    candidates = candidates[np.argsort(streamed, kind="stable")]
    chosen = np.sort(candidates[:MAX_IMAGES])
    return DomainImages(images.images[chosen], images.labels[chosen])


@torch.no_grad()
def frozen_accuracy(scene: Scene, predict: Callable[[Tensor], Tensor], images: DomainImages) -> Tensor:
    """Top-1 accuracy in [0, 1] of `predict`, of maps of classes the mean IoU; on the device, without dimensions."""
    if len(images.labels.shape) == 3:
        return _frozen_miou(scene, predict, images)
    correct = torch.zeros((), dtype=torch.float64, device=scene.device)
    for start in range(0, len(images.labels), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        with autocast(scene.device, scene.precision):
            logits = predict(scene.normalise(images.images[part]))
        correct += (logits.argmax(dim=-1) == torch.from_numpy(images.labels[part]).to(logits.device)).sum()
    return correct / len(images.labels)


def _frozen_miou(scene: Scene, predict: Callable[[Tensor], Tensor], images: DomainImages) -> Tensor:
    """Mean over classes with any pixel of intersection over union, of all images together; one image at a time."""
    assert scene.outcomes is not None, "a run says what outcomes are"
    hits: Tensor | int = 0
    wholes: Tensor | int = 0
    for number in range(len(images.images)):
        part = slice(number, number + 1)
        with autocast(scene.device, scene.precision):
            logits = predict(scene.normalise(images.images[part]))
        found = scene.outcomes(logits, torch.from_numpy(images.labels[part]).to(logits.device))
        own = found["intersection"].sum(dim=0)
        hits, wholes = hits + own, wholes + found["predicted"].sum(dim=0) + found["labelled"].sum(dim=0) - own
    shares = torch.as_tensor(hits).double() / torch.as_tensor(wholes)
    return shares.nanmean()
