"""When a setting needs no more replicates. Plain mathematics.

Optuna's `WilcoxonPruner` cannot decide this: with three pairs its p-value is never below 1/8.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping


def is_beaten(
    values: Mapping[Hashable, float], best: Mapping[Hashable, float], *, z: float, maximise: bool = True
) -> bool:
    """Whether a setting is clearly worse than the best one: `mean(d) + z sd(d) / sqrt(n) < 0` over n >= 2 pairs.

    Args:
        values: pair, such as (seed, point, domain) -> value of the setting.
        best: likewise of the best one. Pairs that only one of them has do not count.
        z: standard errors.
        maximise: whether larger values are better.
    """
    sign = 1 if maximise else -1
    differences = [sign * (value - best[pair]) for pair, value in values.items() if pair in best]
    count = len(differences)
    if count < 2:
        return False
    return statistics.fmean(differences) + z * statistics.stdev(differences) / math.sqrt(count) < 0
