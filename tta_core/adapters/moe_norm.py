"""Mixture-of-experts LayerNorm: a frozen affine pair plus one routed, additive affine pair per sample (MoETTA)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class MoELayerNorm(nn.Module):
    """A LayerNorm whose affine pair depends on the sample (MoETTA spec 1.3 to 1.5, formulation 1.14).

    The pre-trained pair `weight`, `bias` stays frozen. `num_experts` additive pairs start at zero, so the layer starts
    as the LayerNorm that it replaces. A linear router reads the mean of the sample's input tokens, un-normalised and
    attached to the graph, and sends the sample to its `top_k` experts.

    Attributes:
        experts_weight, experts_bias: `(num_experts, dim)`, added to the frozen pair.
        router: `Linear(dim, num_experts)`.
        usage: `(num_experts,)`, samples sent to each expert since the last reset.
        balance_loss: load-balancing loss of the last forward, attached to its graph; None before the first.
        selections: `(num_experts,)`, samples of the last forward sent to each expert; None before the first.
    """

    usage: Tensor

    def __init__(self, norm: nn.LayerNorm, num_experts: int, top_k: int, generator: torch.Generator) -> None:
        super().__init__()
        self.normalized_shape = norm.normalized_shape
        self.eps = norm.eps
        self.top_k = top_k
        self.weight = nn.Parameter(norm.weight.detach(), requires_grad=False)
        bias = norm.bias if norm.bias is not None else torch.zeros_like(norm.weight)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        dim = self.weight.numel()
        # Half-precision networks keep their experts and routers in float32.
        device, dtype = self.weight.device, torch.promote_types(self.weight.dtype, torch.float32)
        self.experts_weight = nn.Parameter(torch.zeros(num_experts, dim, device=device, dtype=dtype))
        self.experts_bias = nn.Parameter(torch.zeros(num_experts, dim, device=device, dtype=dtype))
        self.router = nn.Linear(dim, num_experts, device=device, dtype=dtype)
        drawn = torch.randn(num_experts, dim, generator=generator) * math.sqrt(2 / (dim + num_experts))
        with torch.no_grad():
            self.router.weight.copy_(drawn)
            self.router.bias.zero_()
        self.register_buffer("usage", torch.zeros(num_experts, device=device, dtype=torch.int64))
        self.balance_loss: Tensor | None = None
        self.selections: Tensor | None = None

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return self.experts_weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and applies each sample's own affine pair.

        Args:
            x: `(batch, ..., dim)` with any number of axes between; `(batch, dim)` is routed by the row itself.
        """
        # Under autocast the routing, the experts and the statistics stay in float32.
        with torch.autocast(device_type=x.device.type, enabled=False):
            wide = x.to(self.router.weight.dtype)
            coefficients = self._route(wide)
            weight = torch.addmm(self.weight.to(wide.dtype), coefficients, self.experts_weight)
            bias = torch.addmm(self.bias.to(wide.dtype), coefficients, self.experts_bias)
            normalised = functional.layer_norm(wide, self.normalized_shape, eps=self.eps)
            per_sample = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
            return torch.addcmul(bias.view(per_sample), normalised, weight.view(per_sample)).to(x.dtype)

    def _route(self, x: Tensor) -> Tensor:
        """Coefficients `(batch, num_experts)`: those of the chosen experts sum to 1, the others are 0."""
        feature = x.mean(dim=tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x
        probabilities = self.router(feature).softmax(dim=-1)
        values, chosen = probabilities.topk(self.top_k, dim=-1)
        # The value is a convex weight (1 for one expert); the gradient that reaches the router is that of p.
        weights = values / values.detach().sum(dim=-1, keepdim=True)
        coefficients = torch.zeros_like(probabilities).scatter(-1, chosen, weights)
        with torch.no_grad():
            self.selections = torch.zeros_like(probabilities).scatter(-1, chosen, 1.0).sum(dim=0)
            self.usage += self.selections.to(self.usage.dtype)
        self.balance_loss = load_balance(probabilities, self.selections)
        return coefficients


def load_balance(probabilities: Tensor, selections: Tensor) -> Tensor:
    """Switch-style load-balancing loss of one layer (MoETTA spec 1.5): 1 at balance, up to the number of experts.

    Args:
        probabilities: router probabilities `(batch, experts)`, attached to the graph.
        selections: samples sent to each expert `(experts,)`, without gradient.
    """
    frequency = selections / selections.sum()
    return probabilities.shape[-1] * torch.dot(frequency, probabilities.mean(dim=0))
