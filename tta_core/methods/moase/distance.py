"""How far the experts of a student are from those of its teacher (moase §2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def distance(students: Sequence[Tensor], teachers: Sequence[Tensor], power: int) -> Tensor:
    """Sum over pairs of tensors `(experts, ...)` and over experts of the distance, or with power 2 of its square.

    At equal tensors the gradient of the distance is 0, as that of its square. Tensors of teachers get none.
    """
    total: Tensor = _Distance.apply(power, teachers, *students)
    return total


class _Distance(torch.autograd.Function):
    """Written out, because all pairs are worked on at once, and their gradients are their differences."""

    @staticmethod
    def forward(ctx: Any, power: int, teachers: Sequence[Tensor], *students: Tensor) -> Tensor:
        differences = torch._foreach_sub(students, list(teachers))
        of_experts = [part for difference in differences for part in difference.unbind()]
        lengths = torch.stack(torch._foreach_norm(of_experts))
        ctx.power = power
        ctx.save_for_backward(lengths, *differences)
        return lengths.square().sum() if power == 2 else lengths.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        lengths, *differences = ctx.saved_tensors
        if ctx.power == 2:
            return None, None, *torch._foreach_mul(differences, 2 * gradient)
        factors = torch.where(lengths > 0, gradient / lengths, 0).split([len(d) for d in differences])
        shaped = [f.view(-1, *[1] * (d.ndim - 1)) for f, d in zip(factors, differences, strict=True)]
        return None, None, *torch._foreach_mul(differences, shaped)
