"""How differently the experts respond to the tokens of a batch (imse §1.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_spread(spread: Tensor, ratio: float, exclude_max: bool) -> Tensor:
    """Mean over those experts of each layer that respond most alike to all tokens.

    Args:
        spread: standard deviation of each expert's alignment with the tokens `(..., experts)`.
        ratio: share of the experts that enter, the smallest first.
        exclude_max: take those strictly below number `ratio x experts` from below, counted from 0, or the last one:
            with a ratio of 1 all but the largest.

    Returns:
        `(...)`; 0 where no expert enters.
    """
    experts = spread.shape[-1]
    ordered = spread.detach().sort(dim=-1).values
    if exclude_max:
        kept = spread.detach() < ordered[..., min(int(experts * ratio), experts - 1), None]
    else:
        kept = spread.detach() <= ordered[..., max(int(experts * ratio), 1) - 1, None]
    return torch.where(kept, spread, 0).sum(dim=-1) / kept.sum(dim=-1).clamp(min=1)
