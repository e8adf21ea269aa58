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
"""Hidden activations `(images, tokens, experts, bottleneck)`, of which images and experts -> those kept, the rest 0;
None if nothing above 0 is kept."""


class SparseMLP(torch.autograd.Function):
    """What sparse experts add: `scale` times the sum of weight * up(select(relu(down(tokens)))) + routing * up_bias."""

    @staticmethod
    def forward(
        ctx: Any,
        onto: Tensor,
        tokens: Tensor,
        routing: Tensor,
        weights: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        up_weight: Tensor,
        up_bias: Tensor,
        select: Select,
        scale: float,
    ) -> Tensor:
        """Adds it; returns `(batch, tokens, dim)`.

        Args:
            ctx: what backward needs.
            onto: what it is added to, `(batch, tokens, dim)`.
            tokens: `(batch, tokens, dim)`.
            routing: of the biases, `(batch, tokens, experts)`.
            weights: of the products, `(batch, tokens, experts)`.
            down_weight: `(experts, bottleneck, dim)`.
            down_bias: `(experts, bottleneck)`.
            up_weight: `(experts, bottleneck, dim)`.
            up_bias: `(experts, dim)`.
            select: sets the activations that are not kept to 0.
            scale: of the sum.
        """
        tokens = tokens.contiguous()
        result = torch.addmm(onto.flatten(0, 1), routing.flatten(0, 1), up_bias, alpha=scale).view_as(tokens)
        pieces = []
        for images, experts in _pieces(tokens, down_bias):
            part, bias = tokens[images], down_bias[experts]
            hidden = torch.addmm(bias.flatten(), _rows(part), _matrix(down_weight, experts).T).relu_()
            kept = select(hidden.view(*part.shape[:2], *bias.shape), images, experts)
            if kept is None:
                continue
            weighted = kept * weights[images, :, experts].unsqueeze(-1)
            _rows(result[images]).addmm_(weighted.view_as(hidden), _matrix(up_weight, experts), alpha=scale)
            if any(ctx.needs_input_grad):
                pieces.append((images, experts, kept))
        ctx.pieces, ctx.scale = pieces, scale
        ctx.save_for_backward(tokens, routing, weights, down_weight, up_weight, up_bias)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all tensors."""
        # Autocast of the caller would reach the products here too.
        with torch.autocast(device_type=gradient.device.type, enabled=False):
            tokens, routing, weights, down_weight, up_weight, up_bias = ctx.saved_tensors
            outer = _rows(gradient.contiguous())
            to_routing = _product(outer, up_bias.T, ctx.scale).view_as(routing)
            to_up_bias = _product(routing.flatten(0, 1).T, outer, ctx.scale)
            to_products = _gradients(outer, ctx.scale, ctx.pieces, tokens, weights, down_weight, up_weight)
            to_tokens, to_weights, to_down, to_bias, to_up = to_products
            return gradient, to_tokens, to_routing, to_weights, to_down, to_bias, to_up, to_up_bias, None, None


def _gradients(
    gradient: Tensor,
    scale: float,
    pieces: list[tuple[slice, slice, Tensor]],
    tokens: Tensor,
    weights: Tensor,
    down_weight: Tensor,
    up_weight: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of tokens, weights, down weight, down bias and up weight; `gradient` is `(batch * tokens, dim)`."""
    # One piece writes over what is there, which products do with beta = 0; of many some may be missing.
    whole = not works_in_pieces(tokens.device)
    beta, made = (0, torch.empty_like) if whole else (1, torch.zeros_like)
    to_tokens, to_weights, to_down, to_up = (made(tensor) for tensor in (tokens, weights, down_weight, up_weight))
    to_bias = made(down_weight[..., 0])
    for images, experts, kept in pieces:
        part, outer = _rows(tokens[images]), _rows(gradient.view_as(tokens)[images])
        weight = weights[images, :, experts].unsqueeze(-1)
        weighted = (kept * weight).view(len(outer), -1)
        _matrix(to_up, experts).addmm_(weighted.T, outer, beta=beta, alpha=scale)
        to_kept = _product(outer, _matrix(up_weight, experts).T, scale).view_as(kept)
        torch.sum(to_kept * kept, dim=-1, out=to_weights[images, :, experts])
        # Both the selection and ReLU pass the gradient where what was kept is above 0.
        to_hidden = where_positive(to_kept.mul_(weight), kept).view_as(weighted)
        _matrix(to_down, experts).addmm_(to_hidden.T, part, beta=beta)
        sums = to_hidden.sum(dim=0).view_as(to_bias[experts])
        if whole:
            to_bias = sums
        else:
            to_bias[experts].add_(sums)
        _rows(to_tokens[images]).addmm_(to_hidden, _matrix(down_weight, experts), beta=beta)
    return to_tokens, to_weights, to_down, to_bias, to_up


def _product(one: Tensor, other: Tensor, scale: float) -> Tensor:
    """`scale` times the product of two matrices."""
    return torch.addmm(one.new_empty(()), one, other, beta=0, alpha=scale)


def _pieces(tokens: Tensor, down_bias: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and experts to work on together: one expert and what fits the cache on a CPU, else all."""
    batch, (experts, bottleneck) = len(tokens), down_bias.shape
    images_at_once, experts_at_once = batch, experts
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
