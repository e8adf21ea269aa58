"""How widely the tokens of a batch are spread along the experts of layers (imse §1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tta_core.device import works_in_pieces
from tta_core.methods.common.losses import widened


class Alignment(NamedTuple):
    """What a layer saw of its input x `(..., in)`.

    Attributes:
        projection: v_i^T x for each expert i, `(..., rank)`.
        square: |x|^2, `(..., 1)`, in float32 or wider.
    """

    projection: Tensor
    square: Tensor


def groups_alike(layers: Sequence[Alignment]) -> list[list[Alignment]]:
    """Layers that are worked on at once: on a CPU, whose cache one fits, each alone; else those of one shape."""
    if layers and works_in_pieces(layers[0].projection.device):
        return [[layer] for layer in layers]
    shapes = dict.fromkeys(layer.projection.shape for layer in layers)
    return [[layer for layer in layers if layer.projection.shape == shape] for shape in shapes]


def alignment_spread(layers: Sequence[Alignment], norm_epsilon: float) -> Tensor:
    """Standard deviation over all tokens, unbiased, of v_i^T x / (|x| + norm_epsilon): `(layers, rank)`.

    It is in float32 or wider. All layers have seen as many tokens and are of one rank, and are worked on at once.
    """
    projections, squares = zip(*layers, strict=True)
    spread: Tensor = _Spread.apply(norm_epsilon, len(layers), *projections, *squares)
    return spread


class _Spread(torch.autograd.Function):
    """Written out because `torch.std` is slow over leading dimensions on a CPU."""

    @staticmethod
    def forward(ctx: Any, norm_epsilon: float, count: int, *tensors: Tensor) -> Tensor:
        projection, square = (
            (torch.stack(part) if count > 1 else part[0].unsqueeze(0)).flatten(1, -2)
            for part in (tensors[:count], tensors[count:])
        )
        norm = square.sqrt()
        length = norm + norm_epsilon
        # A stack is a copy, which may be written over.
        alignment = widened(projection) / length if count == 1 else widened(projection).div_(length)
        mean = alignment.mean(dim=1, keepdim=True)
        centred = alignment.sub_(mean)
        spread = (centred.square().sum(dim=1) / max(centred.shape[1] - 1, 1)).sqrt()
        ctx.save_for_backward(norm, length, mean, centred, spread)
        ctx.shapes, ctx.precision = [tensor.shape for tensor in tensors], projection.dtype
        return spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_spread: Tensor) -> tuple[Tensor | None, ...]:
        norm, length, mean, centred, spread = ctx.saved_tensors
        # 0 for an expert that all tokens align with alike, and for a token of length 0.
        slope = torch.where(spread > 0, of_spread / (max(centred.shape[1] - 1, 1) * spread), 0)
        of_projection = (centred * slope.unsqueeze(1)).div_(length)
        # The length of a token scales all its alignments.
        of_length = (centred + mean).mul_(of_projection).sum(dim=-1, keepdim=True)
        of_square = torch.where(norm > 0, of_length / (-2 * norm), 0)
        gradients = [*of_projection.to(ctx.precision), *of_square]
        return None, None, *(g.view(shape) for g, shape in zip(gradients, ctx.shapes, strict=True))
