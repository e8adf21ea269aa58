"""Compares states, whatever is nested in them."""

from __future__ import annotations

import math
from typing import Any

import torch


def equal(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit; a NaN equals a NaN."""
    if isinstance(one, torch.Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and bool(((one == other) | (one.isnan() & other.isnan())).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))
