"""The images of a benchmark as a stream asks for them: gathered, on the device, normalised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.data.digits import load_digits
from tta_core.data.digits_c import load_domain
from tta_core.data.streams import StreamOrder


@dataclass(frozen=True)
class DomainImages:
    """One domain.

    Attributes:
        images: uint8 `(images, height, width, 3)`, usually a memory map.
        labels: int64 `(images,)`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_domains(benchmark: str, domains: Sequence[str], severity: int, data_seed: int) -> list[DomainImages]:
    """Opens the domains of a benchmark, in the given order; builds what is not in the cache yet."""
    assert benchmark == "digits-c", "a benchmark in the table has no loader here"
    return [DomainImages(*load_domain(name, severity, data_seed=data_seed)) for name in domains]


class SourceImages:
    """Clean, unlabelled images of the source, in batches, normalised, always in the same order.

    Methods that need source statistics iterate over it; nothing is loaded before they do.
    """

    def __init__(self, benchmark: str, batch_size: int, normalise: Normalise) -> None:
        self.benchmark = benchmark
        self.batch_size = batch_size
        self.normalise = normalise

    def __iter__(self) -> Iterator[Tensor]:
        """Yields `(batch, channels, height, width)`; the last batch may be short."""
        images = load_source_images(self.benchmark)
        order = np.random.default_rng(0).permutation(len(images))
        for start in range(0, len(order), self.batch_size):
            yield self.normalise(images[np.sort(order[start : start + self.batch_size])])


def load_source_images(benchmark: str) -> NDArray[np.uint8]:
    """Clean images `(images, height, width, 3)` that the benchmark's backbones were trained on, or their like."""
    assert benchmark == "digits-c", "a benchmark in the table has no loader here"
    return load_digits("train")[0]


def gather(
    domains: Sequence[DomainImages], order: StreamOrder, start: int, stop: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images `(batch, height, width, 3)` and labels `(batch,)` at the positions `start` to `stop` of a stream."""
    domain, index = order.domain[start:stop], order.index[start:stop]
    images = np.empty((stop - start, *domains[0].images.shape[1:]), dtype=np.uint8)
    labels = np.empty(stop - start, dtype=np.int64)
    for number in np.unique(domain):
        here = domain == number
        images[here] = domains[number].images[index[here]]
        labels[here] = domains[number].labels[index[here]]
    return images, labels


class Normalise:
    """Turns uint8 images into normalised network input on a device."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1)

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 `(batch, height, width, channels)` -> float32 `(batch, channels, height, width)`."""
        on_device = torch.from_numpy(images).to(self.mean.device, non_blocking=True)
        return (on_device.permute(0, 3, 1, 2).float().div_(255) - self.mean) / self.std
