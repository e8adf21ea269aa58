"""Keeping the largest or the smallest of many values, with the number to keep on the device (moase §2.2).

A value that equals the first one that is not kept is not kept either, so of equal values at the border fewer than asked
for may stay; zeros among them make no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tta_core.device import works_in_pieces

Scope = Literal["token_channel", "sample", "channel_token"]
Rule = Literal["largest", "smallest_k", "smallest_active"]


@dataclass(frozen=True)
class Rules:
    """What each of several experts keeps, as numbers on the device, so that all select at once.

    Attributes:
        sign: `(experts, 1)`, -1 for `largest`: of values that are turned round the smallest are kept; 1 for the others.
        above: `(experts, 1)`, what is passed over before values are counted: up to 0 for `smallest_active`, nothing
            for the others.
        least: int64 `(experts, 1)`, how many are kept at least, if there are any.
    """

    sign: Tensor
    above: Tensor
    least: Tensor

    @classmethod
    def of(cls, rules: Sequence[Rule], device: torch.device, dtype: torch.dtype) -> Rules:
        """The rules of one expert after the other.

        Args:
            rules: `largest` keeps the floor(n * ratio) largest of n values; `smallest_k` as many of the smallest;
                `smallest_active` the smallest of those above 0, floor(ratio * their number) and at least one, if any.
            device: of the values.
            dtype: of the values.
        """

        def column(largest: float, smallest_k: float, smallest_active: float, dtype: torch.dtype) -> Tensor:
            values = {"largest": largest, "smallest_k": smallest_k, "smallest_active": smallest_active}
            return torch.tensor([[values[rule]] for rule in rules], device=device, dtype=dtype)

        return cls(
            sign=column(-1, 1, 1, dtype),
            above=column(-math.inf, -math.inf, 0, dtype),
            least=column(0, 0, 1, torch.int64),
        )

    def part(self, experts: slice) -> Rules:
        """Those of some of the experts."""
        return Rules(self.sign[experts], self.above[experts], self.least[experts])


def kept(values: Tensor, ratio: Tensor, rules: Rules, scope: Scope) -> Tensor:
    """By how much each value is within what its expert keeps, without gradient: it is kept where this is above 0.

    Args:
        values: `(batch, tokens, experts, channels)`; none is below 0 where only those above 0 count.
        ratio: share of the values that is kept, in [0, 1], `(batch or 1, experts)`.
        rules: what the experts keep.
        scope: what n values are selected among: the channels of each token; tokens and channels of each sample
            together; the tokens of each channel.

    Returns:
        A tensor like `values`.
    """
    turned = values.detach() * rules.sign
    ordered = ascending(_to_rows(turned, scope).contiguous())
    length = ordered.shape[-1]
    passed_over = torch.searchsorted(ordered, rules.above.expand(*ordered.shape[:-1], 1).contiguous(), right=True)
    among = length - passed_over
    count = (ratio.detach()[:, None, :, None] * among).long().clamp(rules.least, among)
    first_left_out = passed_over + count
    border = ordered.gather(-1, first_left_out.clamp(max=length - 1))
    border = border.masked_fill(first_left_out == length, torch.inf)
    return _from_rows(border, scope) - turned


def half(values: Tensor, which: Literal["lowest", "highest"], scope: Scope) -> Tensor:
    """The lowest or highest half of the values `(batch, tokens, dim)`, the others 0; differentiable in `values`."""
    read = values.detach()
    rows = _to_rows(read.unsqueeze(2), scope).contiguous()
    length = rows.shape[-1]
    first_left_out = length // 2 if which == "lowest" else length - 1 - length // 2
    border = _from_rows(_at_rank(rows, first_left_out), scope).squeeze(2)
    return where_positive(values, border - read if which == "lowest" else read - border)


def where_positive(values: Tensor, condition: Tensor) -> Tensor:
    """`values` where `condition` is above 0, else 0, in one pass; differentiable in `values` only."""
    return torch.ops.aten.threshold_backward(values, condition, 0)


def ascending(rows: Tensor) -> Tensor:
    """The values of each row `(..., n)` in ascending order."""
    if works_in_pieces(rows.device):
        # NumPy sorts with vector instructions: 3 ms where torch takes 54 ms (12,608 rows of 192 values, AVX-512).
        return torch.from_numpy(np.sort(rows.numpy(), axis=-1))
    return rows.sort(dim=-1).values


def _at_rank(rows: Tensor, rank: int) -> Tensor:
    """The value of a rank, from 0, in each ascending row: `(..., n)` -> `(..., 1)`."""
    if works_in_pieces(rows.device):
        return ascending(rows)[..., rank, None]
    return rows.kthvalue(rank + 1, dim=-1, keepdim=True).values


def _to_rows(values: Tensor, scope: Scope) -> Tensor:
    """Lays out values so that each last axis is one selection: `(batch, ?, experts, n)`."""
    if scope == "token_channel":
        return values
    if scope == "sample":
        return values.transpose(1, 2).flatten(2).unsqueeze(1)
    return values.transpose(1, 3)


def _from_rows(borders: Tensor, scope: Scope) -> Tensor:
    """Lays out one value for each selection, `(batch, ?, experts, 1)`, like what was selected among."""
    return borders.transpose(1, 3) if scope == "channel_token" else borders
