"""What methods may need beyond the stream: batches, normalised, on the device, read when they are iterated over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.domains import at_severity
from tta_core.data.opened import DomainImages, Images
from tta_core.data.spec import BenchmarkSpec
from tta_core.methods.context import LabelledBatch
from tta_core.run.config import RunConfig
from tta_core.run.images import load_domain, load_domains
from tta_core.streams.batches import Normalise

SUPPLY_BATCH = 64
"""Images in a batch, whatever the batch size of the stream: what is made of them must not depend on that."""

SUPPLY_PIXELS = 64 * 64 * SUPPLY_BATCH
"""Pixels in a batch of segmentation: whole photographs of streets come one by one."""

SOURCE_IMAGES_USED = 2000
"""Clean images that a method sees, where there are more: as many as IMSE and EATA take (imse §1.7, mixed §2.3)."""


@dataclass(frozen=True)
class SourceImages:
    """Clean, unlabelled images of the source, always in the same order; the last batch may be short.

    Of a cell that names a part of the photographs, the clean images of that part.
    """

    config: RunConfig
    normalise: Normalise

    def __iter__(self) -> Iterator[Tensor]:
        """Yields `(batch, channels, height, width)`."""
        whole = self.config.part_of(CLEAN) is None
        images = self.config.images.open_source() if whole else load_domain(self.config, CLEAN).images
        order = np.random.default_rng(0).permutation(len(images))[:SOURCE_IMAGES_USED]
        together = supply_batch(self.config, images)
        for start in range(0, len(order), together):
            yield self.normalise(images[np.sort(order[start : start + together])])


@dataclass(frozen=True)
class LabelledSource:
    """Training images of the source with their labels, all of them in one random order; the last batch may be short."""

    config: RunConfig
    normalise: Normalise

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yields images `(batch, channels, height, width)` and labels `(batch,)`, or maps of classes."""
        domain = self.config.images.open_training(whole=self.config.named_subset is None)
        yield from _mixed([domain], self.normalise, supply_batch(self.config, domain.images))


@dataclass(frozen=True)
class HeldOutImages:
    """The held-out corruptions at their highest severity, all mixed in one random order, with their labels.

    Tables report none of these corruptions, but the images under them are the same as those of the stream.
    """

    config: RunConfig
    normalise: Normalise

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yields images `(batch, channels, height, width)` and labels `(batch,)`."""
        yield from _mixed(load_domains(self.config, strongest_held_out(self.config.images.spec)), self.normalise)


def strongest_held_out(spec: BenchmarkSpec) -> list[str]:
    """The held-out corruptions of a benchmark, each at its highest severity."""
    return [at_severity(name, max(owner(spec, name).severities)) for name in spec.held_out_domains]


def supply_batch(config: RunConfig, images: Images) -> int:
    """Images in a batch: of segmentation fewer where they are large."""
    if config.task == "classification":
        return SUPPLY_BATCH
    height, width = images.shape[1:3]
    return max(1, min(SUPPLY_BATCH, SUPPLY_PIXELS // (height * width)))


def _mixed(
    domains: Sequence[DomainImages], normalise: Normalise, together: int = SUPPLY_BATCH
) -> Iterator[LabelledBatch]:
    """Batches over all domains in one random order, always the same."""
    owner = np.repeat(np.arange(len(domains)), [len(domain.labels) for domain in domains])
    index = np.concatenate([np.arange(len(domain.labels)) for domain in domains])
    order = np.random.default_rng(0).permutation(len(owner))
    for start in range(0, len(order), together):
        chosen = np.sort(order[start : start + together])
        parts = [(domains[number], index[chosen[owner[chosen] == number]]) for number in np.unique(owner[chosen])]
        images = np.concatenate([domain.images[numbers] for domain, numbers in parts])
        labels = np.concatenate([domain.labels[numbers] for domain, numbers in parts])
        yield normalise(images), torch.from_numpy(labels).to(normalise.mean.device)
