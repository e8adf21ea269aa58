"""Directions in which domains move parameters, and the cosines between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Directions:
    """One vector a domain, kept by layer: the mean over the domain's segments, where it comes back.

    Attributes:
        domains: the domains so far, in the order of their first segments.
    """

    def __init__(self) -> None:
        self.domains: list[str] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}

    def add(self, domain: str, vectors: Mapping[str, Tensor]) -> None:
        """Takes in what one segment did: layer -> vector `(numbers,)`, of the same layers each time."""
        if domain not in self._counts:
            self.domains.append(domain)
            self._counts[domain] = 0
        place = self.domains.index(domain)
        for layer, vector in vectors.items():
            sums = self._sums.setdefault(layer, [])
            if place == len(sums):
                sums.append(vector)
            else:
                sums[place] = sums[place] + vector
        self._counts[domain] += 1

    def products(self) -> dict[str, NDArray[np.float64]]:
        """Inner products `(domains, domains)` of the vectors in each layer; those of the whole under an empty name."""
        counts = np.array([self._counts[domain] for domain in self.domains], dtype=np.float64)
        found = {"": np.zeros((len(counts), len(counts)))}
        for layer, sums in self._sums.items():
            vectors = torch.stack(sums).double()
            found[layer] = (vectors @ vectors.T).cpu().numpy() / np.outer(counts, counts)
            found[""] += found[layer]
        return found


def cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines from inner products, both `(domains, domains)`; NaN where a vector is zero."""
    lengths = np.sqrt(np.diag(products))
    scale = np.outer(lengths, lengths)
    return np.divide(products, scale, out=np.full_like(products, np.nan), where=scale > 0)


def pairs(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The defined values of all unordered pairs of different domains."""
    values: NDArray[np.float64] = matrix[np.triu_indices(len(matrix), k=1)]
    return values[np.isfinite(values)]


def entries(domains: list[str], matrix: NDArray[np.float64]) -> Iterator[tuple[str, str, float]]:
    """Yields domain, the domain that it is set against, and the value of each entry of a matrix of at least two."""
    if len(domains) < 2:
        return
    for domain, row in zip(domains, matrix, strict=True):
        for against, value in zip(domains, row, strict=True):
            yield domain, against, float(value)
