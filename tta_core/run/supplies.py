"""What methods may need beyond the stream: batches, normalised, on the device, read when they are iterated over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.backbones.table import backbone_spec
from tta_core.data.benchmarks import benchmark_spec, owner
from tta_core.data.opened import Images, read_domain, read_source, read_training
from tta_core.methods.base import LabelledBatch
from tta_core.run.config import RunConfig
from tta_core.streams.batches import Normalise

SUPPLY_BATCH = 64
"""Images in a batch, whatever the batch size of the stream: what is made of them must not depend on that."""

SOURCE_IMAGES_USED = 2000
"""Clean images that a method sees, where there are more: as many as IMSE and EATA take (imse §1.7, mixed §2.3)."""


@dataclass(frozen=True)
class SourceImages:
    """Clean, unlabelled images of the source, always in the same order; the last batch may be short."""

    config: RunConfig
    normalise: Normalise

    def __iter__(self) -> Iterator[Tensor]:
        """Yields `(batch, channels, height, width)`."""
        spec, space = benchmark_spec(self.config.benchmark), self.config.label_space
        images = read_source(spec, image_size=_image_size(self.config), crop=self.config.cut, label_space=space)
        order = np.random.default_rng(0).permutation(len(images))[:SOURCE_IMAGES_USED]
        for start in range(0, len(order), SUPPLY_BATCH):
            yield self.normalise(images[np.sort(order[start : start + SUPPLY_BATCH])])


@dataclass(frozen=True)
class LabelledSource:
    """Training images of the source with their labels, all of them in one random order; the last batch may be short."""

    config: RunConfig
    normalise: Normalise

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yields images `(batch, channels, height, width)` and labels `(batch,)`."""
        spec, space = benchmark_spec(self.config.benchmark), self.config.label_space
        found = read_training(spec, image_size=_image_size(self.config), crop=self.config.cut, label_space=space)
        yield from _mixed([found], self.normalise)


@dataclass(frozen=True)
class HeldOutImages:
    """The held-out corruptions at their highest severity, all mixed in one random order, with their labels.

    Tables report none of these corruptions, but the images under them are the same as those of the stream.
    """

    config: RunConfig
    normalise: Normalise

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yields images `(batch, channels, height, width)` and labels `(batch,)`."""
        config, spec = self.config, benchmark_spec(self.config.benchmark)
        domains = [
            read_domain(
                spec,
                name,
                max(owner(spec, name).severities),
                data_seed=config.data_seed,
                crop=config.cut,
                image_size=_image_size(config),
                label_space=config.label_space,
            )
            for name in spec.held_out_domains
        ]
        yield from _mixed(domains, self.normalise)


def _mixed(domains: Sequence[tuple[Images, NDArray[np.int64]]], normalise: Normalise) -> Iterator[LabelledBatch]:
    """Batches over all domains in one random order, always the same."""
    owner = np.repeat(np.arange(len(domains)), [len(labels) for _, labels in domains])
    index = np.concatenate([np.arange(len(labels)) for _, labels in domains])
    order = np.random.default_rng(0).permutation(len(owner))
    for start in range(0, len(order), SUPPLY_BATCH):
        chosen = np.sort(order[start : start + SUPPLY_BATCH])
        parts = [(domains[number], index[chosen[owner[chosen] == number]]) for number in np.unique(owner[chosen])]
        images = np.concatenate([images[numbers] for (images, _), numbers in parts])
        labels = np.concatenate([labels[numbers] for (_, labels), numbers in parts])
        yield normalise(images), torch.from_numpy(labels).to(normalise.mean.device)


def _image_size(config: RunConfig) -> int:
    return backbone_spec(config.backbone).image_size
