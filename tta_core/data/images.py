"""The images of a benchmark as a stream asks for them: gathered, on the device, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tta_core.data.readers import Images, read_domain
from tta_core.data.streams import StreamOrder
from tta_core.registry import backbone_spec, benchmark_spec

if TYPE_CHECKING:
    from tta_core.config import RunConfig


@dataclass(frozen=True)
class DomainImages:
    """One domain.

    Attributes:
        images: uint8 `(images, height, width, 3)`: an array, usually a memory map, or files that are decoded when asked
            for. Index it with an array or a slice.
        labels: int64 `(images,)`.
    """

    images: Images
    labels: NDArray[np.int64]


def load_domains(config: RunConfig, names: Sequence[str]) -> list[DomainImages]:
    """Opens domains of a cell's benchmark, in the given order.

    Args:
        config: the cell.
        names: domains as `StreamOrder.domains` names them, or `clean`.

    Raises:
        InputError: if images are missing or are not what they should be.
    """
    size = backbone_spec(config.backbone).image_size
    spec = benchmark_spec(config.benchmark)
    return [
        DomainImages(
            *read_domain(
                spec,
                name,
                config.severity,
                data_seed=config.data_seed,
                crop=config.crop,
                image_size=size,
                label_space=config.label_space,
            )
        )
        for name in names
    ]


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
    """Turns uint8 images into normalised network input on a device.

    Attributes:
        mean, std: per-channel normalisation of inputs in [0, 1].
        size: height and width that images are enlarged to before that; None leaves them as they are.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, *, size: int | None = None
    ) -> None:
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self.size = size

    @classmethod
    def of(cls, config: RunConfig, device: torch.device) -> Normalise:
        """What the images of a cell go through."""
        backbone = backbone_spec(config.backbone)
        size = backbone.image_size if config.crop == "upsample" else None
        return cls(backbone.mean, backbone.std, device, size=size)

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 `(batch, height, width, channels)` -> float32 `(batch, channels, height, width)`."""
        on_device = torch.from_numpy(images).to(self.mean.device, non_blocking=True)
        pixels = on_device.permute(0, 3, 1, 2).float().div_(255)
        if self.size is not None:
            pixels = nn.functional.interpolate(pixels, size=self.size, mode="bilinear", align_corners=False)
        return (pixels - self.mean) / self.std
