"""Laplacian-adjusted maximum likelihood: assignments near the predictions and equal among neighbours (Boudiaf 2022).

For predicted probabilities q and affinities w the assignments z of a batch minimise
`sum_i KL(z_i || q_i) - lambda * sum_ij w_ij z_i . z_j`. Bounding the concave second term by its tangent gives the step
`z_i <- softmax(log q_i + lambda * sum_j w_ij z_j)`, repeated until the objective stands still; it starts at z = q.
Affinities, the number added to q and the rule to stop are those of the release (further §4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

PROBABILITY_EPSILON = 1e-10
"""Added to the predicted probabilities before their logarithm."""
LEAST_STEPS = 3
"""Steps before the objective may stop the iteration."""


class Assignments(NamedTuple):
    """Logarithms of the assignments `(batch, classes)`, and the iterations `()` that they took, int64."""

    log_probabilities: Tensor
    iterations: Tensor


def knn_affinity(features: Tensor, neighbours: int) -> Tensor:
    """1 where the column is among the nearest neighbours of the row, else 0; no sample is its own neighbour.

    Args:
        features: of length 1, `(batch, dim)`.
        neighbours: how many; fewer in a batch that has fewer.

    Returns:
        `(batch, batch)`, in general not symmetric.
    """
    cosines = features @ features.T
    cosines.fill_diagonal_(-torch.inf)
    nearest = cosines.topk(min(neighbours, len(features) - 1), dim=-1).indices
    return torch.zeros_like(cosines).scatter_(1, nearest, 1.0)


def rbf_affinity(features: Tensor, neighbours: int) -> Tensor:
    """Gaussian of the distance, as wide as samples are from their given neighbour on average; 1 on the diagonal.

    Args:
        features: of length 1, `(batch, dim)`.
        neighbours: which neighbour, counting the sample itself as the first; the last one in a batch that has fewer.

    Returns:
        `(batch, batch)`.
    """
    squares = (2 - 2 * features @ features.T).clamp(min=0)
    squares.fill_diagonal_(0)
    distances = squares.sqrt().topk(min(neighbours, len(features)), dim=-1, largest=False).values[:, -1]
    # Images may all be equal, and the first neighbour is the sample itself.
    width = distances.mean().clamp(min=torch.finfo(squares.dtype).tiny ** 0.25)
    return torch.exp(-squares / (2 * width.square()))


def linear_affinity(features: Tensor) -> Tensor:
    """Inner products of features `(batch, dim)` of length 1; 1 on the diagonal."""
    return features @ features.T


def affinity(features: Tensor, kind: str, neighbours: int, symmetric: bool) -> Tensor:
    """Affinities `(batch, batch)` of features `(batch, dim)` of any length."""
    unit = functional.normalize(features, dim=-1)
    if kind == "linear":
        found = linear_affinity(unit)
    else:
        found = knn_affinity(unit, neighbours) if kind == "knn" else rbf_affinity(unit, neighbours)
    return (found + found.T) / 2 if symmetric else found


def assign(
    probabilities: Tensor, weights: Tensor, *, max_steps: int, tolerance: float, stop_early: bool = False
) -> Assignments:
    """Iterates to the assignments of a batch.

    What has converged is kept as it is, and the rest of the steps run for nothing: so nothing waits for the device.

    Args:
        probabilities: the predicted ones, `(batch, classes)`.
        weights: lambda times the affinities, `(batch, batch)`.
        max_steps: steps at most.
        tolerance: change of the objective, as a share of it, at which it has converged. The objective of a step takes
            the neighbours as they were before it.
        stop_early: whether the rest of the steps is left out, for the same result; only a CPU has nothing to wait for.
    """
    unary = (probabilities + PROBABILITY_EPSILON).log()
    found = unary.log_softmax(dim=-1)
    objective = found.new_full((), torch.inf)
    converged = torch.zeros((), dtype=torch.bool, device=found.device)
    steps = torch.zeros((), dtype=torch.int64, device=found.device)
    for step in range(max_steps):
        pull = unary + weights @ found.exp()
        proposed = pull.log_softmax(dim=-1)
        reached = (proposed.exp() * (proposed - pull)).sum()
        steps = steps + ~converged
        settled = (reached - objective).abs() <= tolerance * objective.abs()
        found = torch.where(converged, found, proposed)
        objective = torch.where(converged, objective, reached)
        converged = converged | (settled & (step + 1 >= LEAST_STEPS))
        if stop_early and bool(converged):
            break
    return Assignments(found, steps)
