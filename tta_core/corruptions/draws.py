"""Random numbers for a batch of images: each image has a generator of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Draws:
    """Draws for each image from its own generator, on the CPU: the same numbers whatever the device and the batch.

    Args:
        seeds: `(n,)` sequences of whole numbers that seed the generators.
        device: where the numbers go.
        pool: threads that draw for several images at once; None draws for one after the other.
    """

    def __init__(self, seeds: Sequence[Sequence[int]], device: torch.device, pool: Executor | None = None) -> None:
        self._generators = [np.random.default_rng(list(seed)) for seed in seeds]
        self._device = device
        self._map: Callable[..., Any] = map if pool is None else pool.map

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32 `(n, *shape)`."""
        return self._stacked(lambda generator: generator.standard_normal(shape, dtype=np.float32))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), float32 `(n, *shape)`."""
        return self._stacked(lambda generator: generator.random(shape, dtype=np.float32))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from `low` up to `high - 1`, int64 `(n, *shape)`."""
        return self._stacked(lambda generator: generator.integers(low, high, size=shape))

    def poisson(self, means: Tensor) -> Tensor:
        """Poisson numbers with the means `(n, ...)`, float32 of that shape."""
        expected = means.double().cpu().numpy()
        counts = self._map(
            lambda generator, mean: generator.poisson(mean).astype(np.float32), self._generators, expected
        )
        return torch.from_numpy(np.stack(list(counts))).to(self._device)

    def _stacked(self, draw: Callable[[np.random.Generator], NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.stack(list(self._map(draw, self._generators)))).to(self._device)
