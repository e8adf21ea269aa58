"""Mixture-of-experts normalisation: a shared affine pair plus one routed, additive affine pair per sample (MoETTA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tta_core.device import works_in_pieces
from tta_core.methods.moetta.router import Router, SharedRouter

LARGE_SAMPLE = 8192
"""Numbers in one sample of a layer from which on the CPU is faster sample by sample (measured on ViT and digits)."""


class MoELayerNorm(nn.Module):
    """A LayerNorm whose affine pair depends on the sample (moetta §1.3 to §1.5, §1.14).

    The pre-trained pair `weight`, `bias` is shared by all samples and usually frozen. Each expert is an additive pair;
    they start at zero, so the layer starts as the one that it replaces, or at random. The router reads the input of the
    layer, un-normalised and attached to the graph.

    Attributes:
        experts_weight, experts_bias: `(num_experts, dim)`, added to the shared pair.
        router: the layer's own, or one that decides for several layers.
        routing: `(batch, num_experts)`, part of each expert in serving each sample of the last forward; rows sum to 1.
            Detached, like the next two, and None before the first forward.
        probabilities: `(batch, num_experts)`, of the router in the last forward.
        router_input: `(batch, dim)`, what the router read in the last forward.
    """

    channel_axis = -1

    def __init__(
        self,
        norm: nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d | nn.SyncBatchNorm,
        router: Router | SharedRouter,
        generator: torch.Generator,
        *,
        expert_init_ratio: float = 0.0,
        train_shared: bool = False,
    ) -> None:
        """Takes over a normalisation layer.

        Args:
            norm: the layer, with an affine pair.
            router: chooses the experts; there are as many as its rules say.
            generator: of the experts' initial values, on the CPU.
            expert_init_ratio: length of each expert's initial vectors over that of the shared ones.
            train_shared: train the shared pair, too.
        """
        super().__init__()
        self.eps: float = norm.eps
        # Some layers of timm activate what they have normalised.
        self.activation = getattr(norm, "act", None) or nn.Identity()
        weight, bias = norm.weight, norm.bias if norm.bias is not None else torch.zeros_like(norm.weight)
        self.weight = nn.Parameter(weight.detach(), requires_grad=train_shared)
        self.bias = nn.Parameter(bias.detach(), requires_grad=train_shared)
        count = router.rules.num_experts
        self.experts_weight = nn.Parameter(_initial_experts(weight, count, expert_init_ratio, generator))
        self.experts_bias = nn.Parameter(_initial_experts(bias, count, expert_init_ratio, generator))
        self.router = router
        self.routing: Tensor | None = None
        self.probabilities: Tensor | None = None
        self.router_input: Tensor | None = None

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return self.experts_weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and applies each sample's own affine pair.

        Args:
            x: `(batch, ..., dim)` with any number of axes between, or `(batch, dim, height, width)` for the layers
                that have their channels first.
        """
        # Under autocast the routing, the experts and the statistics stay in float32.
        with torch.autocast(device_type=x.device.type, enabled=False):
            wide = x.to(self.experts_weight.dtype)
            decision = self.router.decide(wide, self.channel_axis)
            top_k = self.router.rules.top_k
            self.routing = decision.chosen / top_k if top_k > 1 else decision.chosen
            self.probabilities = decision.probabilities.detach()
            self.router_input = decision.router_input.detach()
            shared = (self.weight.to(wide.dtype), self.bias.to(wide.dtype))
            weight, bias = AffinePairs.apply(decision.coefficients, *shared, self.experts_weight, self.experts_bias)
            normalised: Tensor = self.activation(self._normalise(wide, weight, bias))
            return normalised.to(x.dtype)

    def _normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Statistics of the base layer, then the affine pair of each sample, both `(batch, dim)`."""
        result: Tensor = SampleAffineLayerNorm.apply(x.reshape(len(x), -1, x.shape[-1]), weight, bias, self.eps)
        return result.view(x.shape)


class MoEGroupNorm(MoELayerNorm):
    """The same on a GroupNorm: channels first, one affine value for each channel and sample."""

    channel_axis = 1

    def __init__(self, norm: nn.GroupNorm, *arguments: Any, **options: Any) -> None:
        super().__init__(norm, *arguments, **options)
        self.num_groups = norm.num_groups

    def _normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _affine_by_channel(functional.group_norm(x, self.num_groups, eps=self.eps), weight, bias)


class MoEBatchNorm2d(MoELayerNorm):
    """The same on a BatchNorm2d, with the statistics of the current batch.

    A channel of which a batch shows a single value has no variance there, and the statistics of the source stand in.

    Attributes:
        source_mean, source_variance: these, `(channels,)`; None if the layer kept none.
    """

    channel_axis = 1
    source_mean: Tensor | None
    source_variance: Tensor | None

    def __init__(self, norm: nn.BatchNorm2d | nn.SyncBatchNorm, *arguments: Any, **options: Any) -> None:
        super().__init__(norm, *arguments, **options)
        self.register_buffer("source_mean", norm.running_mean, persistent=False)
        self.register_buffer("source_variance", norm.running_var, persistent=False)

    def _normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, variance = self.source_mean, self.source_variance
        if x.numel() == x.shape[1] and mean is not None and variance is not None:
            alone = functional.batch_norm(x, mean.to(x), variance.to(x), eps=self.eps)
            return _affine_by_channel(alone, weight, bias)
        # functional.batch_norm refuses a single value in a channel, which a batch of one may have.
        normalised = torch.batch_norm(x, None, None, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled)
        return _affine_by_channel(normalised, weight, bias)


def _initial_experts(shared: Tensor, count: int, ratio: float, generator: torch.Generator) -> Tensor:
    """`(count, dim)`: zeros, or random vectors of `ratio` times the length of the shared one."""
    # Half-precision networks keep their experts in float32.
    dtype = torch.promote_types(shared.dtype, torch.float32)
    if ratio == 0:
        return torch.zeros(count, shared.numel(), device=shared.device, dtype=dtype)
    drawn = torch.randn(count, shared.numel(), generator=generator).to(shared.device, dtype)
    return ratio * shared.detach().to(dtype).norm() * functional.normalize(drawn, dim=-1)


class AffinePairs(torch.autograd.Function):
    """The pair of each sample: the shared one plus those of its experts; the coefficients get one gradient, not two."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, weight: Tensor, bias: Tensor, experts_weight: Tensor, experts_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weights and biases `(batch, dim)`.

        Args:
            ctx: what backward needs.
            coefficients: `(batch, experts)`.
            weight: the shared one, `(dim,)`.
            bias: likewise.
            experts_weight: `(experts, dim)`.
            experts_bias: likewise.
        """
        ctx.save_for_backward(coefficients, experts_weight, experts_bias)
        return torch.addmm(weight, coefficients, experts_weight), torch.addmm(bias, coefficients, experts_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_weight: Tensor, of_bias: Tensor) -> tuple[Tensor | None, ...]:
        """All five gradients."""
        coefficients, experts_weight, experts_bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        of_coefficients = None
        if needs[0]:
            of_coefficients = torch.addmm(of_weight @ experts_weight.T, of_bias, experts_bias.T)
        of_shared = (of_weight.sum(dim=0) if needs[1] else None, of_bias.sum(dim=0) if needs[2] else None)
        return of_coefficients, *of_shared, coefficients.T @ of_weight, coefficients.T @ of_bias


class SampleAffineLayerNorm(torch.autograd.Function):
    """LayerNorm over the last axis with one affine pair for each sample; keeps nothing but its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """`x` `(batch, tokens, dim)`; `weight` and `bias` `(batch, dim)`."""
        normalised, mean, rstd = _standardise(x, eps)
        ctx.save_for_backward(x, mean, rstd, weight)
        ctx.eps = eps
        return torch.addcmul(bias.unsqueeze(1), normalised, weight.unsqueeze(1), out=normalised)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        """Gradients of `x`, `weight` and `bias`."""
        x, mean, rstd, weight = ctx.saved_tensors
        if works_in_pieces(x.device) and x[0].numel() >= LARGE_SAMPLE:
            return *_backward_by_sample(gradient, x, mean, rstd, weight, ctx.needs_input_grad[0]), None
        of_x = None
        if ctx.needs_input_grad[0]:
            scaled, only_x = gradient * weight.unsqueeze(1), [True, False, False]
            of_x, _, _ = torch.ops.aten.native_layer_norm_backward(
                scaled, x, [x.shape[-1]], mean, rstd, None, None, only_x
            )
        normalised, _, _ = _standardise(x, ctx.eps)
        return of_x, normalised.mul_(gradient).sum(dim=1), gradient.sum(dim=1), None


def _backward_by_sample(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """One fused kernel for each sample: its memory is read once, where it lies in the cache."""
    samples = zip(gradient, x, mean, rstd, weight, strict=True)
    parts = [
        torch.ops.aten.native_layer_norm_backward(g, x, [x.shape[-1]], m, r, w, w, [needs_x, True, True])
        for g, x, m, r, w in samples
    ]
    of_x, of_weight, of_bias = zip(*parts, strict=True)
    return torch.stack(of_x) if needs_x else None, torch.stack(of_weight), torch.stack(of_bias)


def _affine_by_channel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x` `(batch, dim, height, width)` times `weight` plus `bias`, both `(batch, dim)`."""
    return torch.addcmul(bias[..., None, None], x, weight[..., None, None])


def _standardise(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`x` with mean 0 and variance 1 over the last axis; mean and reciprocal standard deviation."""
    dim = x.shape[-1]
    if not works_in_pieces(x.device):
        return torch.native_layer_norm(x, [dim], None, None, eps)
    # On the CPU this is twice as fast as without an affine pair.
    return torch.native_layer_norm(x, [dim], x.new_ones(dim), x.new_zeros(dim), eps)
