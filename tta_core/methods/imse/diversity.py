"""How differently the experts respond to the tokens of a batch (imse §1.2)."""

from __future__ import annotations

from torch import Tensor

from tta_core.methods.common.losses import masked_mean


def mean_spread(spread: Tensor, ratio: float, exclude_max: bool) -> Tensor:
    """Mean over those experts of a layer that respond most alike to all tokens.

    Args:
        spread: standard deviation of each expert's alignment with the tokens `(experts,)`.
        ratio: share of the experts that enter, the smallest first.
        exclude_max: take those strictly below number `ratio x experts` from below, counted from 0, or the last one:
            with a ratio of 1 all but the largest.

    Returns:
        `()`; 0 if no expert enters.
    """
    experts = len(spread)
    ordered = spread.detach().sort().values
    if exclude_max:
        kept = spread.detach() < ordered[min(int(experts * ratio), experts - 1)]
    else:
        kept = spread.detach() <= ordered[max(int(experts * ratio), 1) - 1]
    return masked_mean(spread, kept)
