"""A mean with its uncertainty over seeds, and how spread out a distribution is: plain mathematics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: arithmetic mean.
        half_width: half the width of the 95 % Student-t interval of the mean; None for a single value, which says
            nothing about its own spread.
        count: number of values.
    """

    mean: float
    half_width: float | None
    count: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of the interval."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and 0 lies outside it."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % Student-t interval, `mean ± t(0.975, n - 1) * s / sqrt(n)`.

    Args:
        values: one value a seed, at least one.
    """
    count = len(values)
    mean = statistics.fmean(values)
    if count < 2:
        return Estimate(mean, None, count)
    quantile = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2))
    return Estimate(mean, quantile * statistics.stdev(values) / math.sqrt(count), count)


def effective_number(shares: Sequence[float]) -> float | None:
    """Effective number of experts, the exponential of the entropy: n if all n are used equally, 1 if one gets all.

    Args:
        shares: use of each expert, of any sum; None is returned if all are 0.
    """
    total = math.fsum(shares)
    if not total > 0:
        return None
    return math.exp(-math.fsum(share / total * math.log(share / total) for share in shares if share > 0))
