"""The images of a benchmark as a stream asks for them: gathered, on the device, normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tta_core.data.opened import DomainImages, Images, read_images
from tta_core.streams.order import StreamOrder

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Batch:
    """The images of some positions of a stream.

    Attributes:
        images: uint8 `(batch, height, width, 3)`: an array, or a tensor that is on its way to the device.
        labels: int64 `(batch,)`; of segmentation uint8 `(batch, height, width)`.
        kept: which of the positions these are, `(batch,)`; None if all.
        skipped: names of the images that are left out because they cannot be decoded, with what is wrong.
    """

    images: NDArray[np.uint8] | Tensor
    labels: NDArray[np.int64] | NDArray[np.uint8]
    kept: NDArray[np.int64] | None = None
    skipped: tuple[str, ...] = ()


def gather(
    domains: Sequence[DomainImages], order: StreamOrder, start: int, stop: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | NDArray[np.uint8]]:
    """Images `(batch, height, width, 3)` and labels `(batch,)` at the positions `start` to `stop` of a stream.

    Raises:
        InputError: naming the file, if an image cannot be decoded.
    """
    return _gathered(domains, order, start, stop, lambda images, numbers: images[numbers])


def gather_readable(domains: Sequence[DomainImages], order: StreamOrder, start: int, stop: int) -> Batch:
    """Like `gather`, but images that cannot be decoded are left out."""
    domain = order.domain[start:stop]
    damaged: dict[int, str] = {}
    taken = {number: np.flatnonzero(domain == number) for number in np.unique(domain)}
    parts = iter(taken.items())

    def read(images: Images, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        number, places = next(parts)
        found, wrong = read_images(images, numbers)
        for place, (name, reason) in wrong.items():
            damaged[int(places[place])] = f"{order.domains[number]}: {name} ({reason})"
        return found

    images, labels = _gathered(domains, order, start, stop, read)
    if not damaged:
        return Batch(images, labels)
    kept = np.delete(np.arange(stop - start), list(damaged))
    return Batch(images[kept], labels[kept], kept, tuple(damaged[place] for place in sorted(damaged)))


def _gathered(
    domains: Sequence[DomainImages],
    order: StreamOrder,
    start: int,
    stop: int,
    read: Callable[[Images, NDArray[np.int64]], NDArray[np.uint8]],
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | NDArray[np.uint8]]:
    domain, index = order.domain[start:stop], order.index[start:stop].astype(np.int64)
    present = np.unique(domain)
    if len(present) == 1:
        only = domains[present[0]]
        return np.ascontiguousarray(read(only.images, index)), only.labels[index]
    none = domains[0].labels[:0]
    images = np.empty((stop - start, *domains[0].images.shape[1:]), dtype=np.uint8)
    labels = np.empty((stop - start, *none.shape[1:]), dtype=none.dtype)
    for number in present:
        here = domain == number
        images[here] = read(domains[number].images, index[here])
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

    def __call__(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """uint8 `(batch, height, width, channels)` -> float32 `(batch, channels, height, width)`."""
        given = images if isinstance(images, Tensor) else torch.from_numpy(images)
        on_device = given.to(self.mean.device, non_blocking=True)
        pixels = on_device.permute(0, 3, 1, 2).float().div_(255)
        if self.size is not None:
            pixels = nn.functional.interpolate(pixels, size=self.size, mode="bilinear", align_corners=False)
        return (pixels - self.mean) / self.std
