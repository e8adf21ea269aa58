"""The two matrix products of sparse experts with the selection between them, one piece of the work after the other.

Written out instead of left to autograd for two reasons. On a CPU the hidden activations of one expert for a few images
fit the cache, so that sorting, masking and weighting them costs little beside the products. And an expert that keeps
nothing but zeros, as half of the released ones do (moase §2.2), needs neither its second product nor a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tta_core.device import works_in_pieces
from tta_core.methods.moase.selection import where_positive

CACHED_VALUES = 2**18
"""Hidden activations that are worked on together on a CPU: 1 MiB in float32."""

Select = Callable[[Tensor, slice, slice], Tensor | None]
"""Hidden activations `(images, tokens, experts, bottleneck)`, of which images and experts -> those kept, the rest 0.

The experts are all from the first half or all from the second. None says that nothing above 0 is kept.
"""


def sparse_mlp(
    tokens: Tensor, weights: Tensor, down_weight: Tensor, down_bias: Tensor, up_weight: Tensor, select: Select
) -> Tensor:
    """Weighted sum over experts of up(select(relu(down(tokens)))), `(batch, tokens, dim)`.

    Args:
        tokens: `(batch, tokens, dim)`.
        weights: `(batch, tokens, experts)`.
        down_weight: `(experts, bottleneck, dim)`, an even number of experts.
        down_bias: `(experts, bottleneck)`.
        up_weight: `(experts, bottleneck, dim)`.
        select: sets the activations that are not kept to 0.
    """
    result: Tensor = _SparseMLP.apply(tokens.contiguous(), weights, down_weight, down_bias, up_weight, select)
    return result


class _SparseMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        weights: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        up_weight: Tensor,
        select: Select,
    ) -> Tensor:
        result = torch.zeros_like(tokens)
        pieces = []
        for images, experts in _pieces(tokens, down_bias):
            part, bias = tokens[images], down_bias[experts]
            hidden = torch.addmm(bias.flatten(), _rows(part), _matrix(down_weight, experts).T).relu_()
            kept = select(hidden.view(*part.shape[:2], *bias.shape), images, experts)
            if kept is None:
                continue
            weighted = kept * weights[images, :, experts].unsqueeze(-1)
            _rows(result[images]).addmm_(weighted.view_as(hidden), _matrix(up_weight, experts))
            if any(ctx.needs_input_grad):
                pieces.append((images, experts, kept))
        ctx.pieces = pieces
        ctx.save_for_backward(tokens, weights, down_weight, up_weight)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Autocast of the caller would reach the products here too.
        with torch.autocast(device_type=gradient.device.type, enabled=False):
            return *_gradients(gradient.contiguous(), ctx.pieces, *ctx.saved_tensors), None


def _gradients(
    gradient: Tensor,
    pieces: list[tuple[slice, slice, Tensor]],
    tokens: Tensor,
    weights: Tensor,
    down_weight: Tensor,
    up_weight: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of tokens, weights, down weight, down bias and up weight."""
    to_tokens, to_weights = torch.zeros_like(tokens), torch.zeros_like(weights)
    to_down, to_up = torch.zeros_like(down_weight), torch.zeros_like(up_weight)
    to_bias = torch.zeros_like(down_weight[..., 0])
    for images, experts, kept in pieces:
        part, outer = _rows(tokens[images]), _rows(gradient[images])
        weight = weights[images, :, experts].unsqueeze(-1)
        weighted = (kept * weight).view(len(outer), -1)
        _matrix(to_up, experts).addmm_(weighted.T, outer)
        to_kept = (outer @ _matrix(up_weight, experts).T).view_as(kept)
        to_weights[images, :, experts] = (to_kept * kept).sum(dim=-1)
        # Both the selection and ReLU pass the gradient where what was kept is above 0.
        to_hidden = where_positive(to_kept.mul_(weight), kept).view_as(weighted)
        _matrix(to_down, experts).addmm_(to_hidden.T, part)
        to_bias[experts] += to_hidden.sum(dim=0).view_as(to_bias[experts])
        _rows(to_tokens[images]).addmm_(to_hidden, _matrix(down_weight, experts))
    return to_tokens, to_weights, to_down, to_bias, to_up


def _pieces(tokens: Tensor, down_bias: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and experts to work on together: one expert and what fits the cache on a CPU, else all of each half."""
    batch, (experts, bottleneck) = len(tokens), down_bias.shape
    images_at_once, experts_at_once = batch, experts // 2
    if works_in_pieces(tokens.device):
        images_at_once, experts_at_once = max(1, CACHED_VALUES // (tokens.shape[1] * bottleneck)), 1
    for image in range(0, batch, images_at_once):
        for expert in range(0, experts, experts_at_once):
            yield slice(image, image + images_at_once), slice(expert, expert + experts_at_once)


def _rows(values: Tensor) -> Tensor:
    """`(images, tokens, dim)` as a matrix `(images * tokens, dim)`."""
    return values.view(-1, values.shape[-1])


def _matrix(weight: Tensor, experts: slice) -> Tensor:
    """The weights of some experts as one matrix `(experts * bottleneck, dim)`."""
    return weight[experts].flatten(0, 1)
