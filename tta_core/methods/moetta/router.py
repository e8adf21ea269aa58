"""Sends samples to experts by a linear router on their mean token (moetta §1.4, §1.5 and §1.12)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tta_core.device import works_in_pieces


@dataclass(frozen=True)
class RoutingRules:
    """How a router chooses experts and weighs them.

    Attributes:
        num_experts: experts to choose from.
        top_k: experts that serve one sample.
        samplewise: every sample has its own experts; otherwise the mean logits of the batch choose for all of it.
        weight_by_probability: the coefficients of a sample sum to 1; otherwise each of them is 1.
        detach_coefficients: the coefficients give the router no gradient.
        penalty: how much a sample lowers, in later batches, the score of the expert that it was sent to.
        penalty_decay: the penalty of batch t, from 0, is divided by 1 + decay t.
    """

    num_experts: int
    top_k: int = 1
    samplewise: bool = True
    weight_by_probability: bool = True
    detach_coefficients: bool = False
    penalty: float = 0.0
    penalty_decay: float = 0.0


class Decision(NamedTuple):
    """What a router decided for a batch.

    Attributes:
        router_input: `(batch, dim)`, what it read.
        probabilities: `(batch, experts)`, without the penalty.
        chosen: `(batch, experts)`, 1 for the experts of a sample and 0 for the others, without gradient.
        coefficients: `(batch, experts)`, what the chosen experts are multiplied by and 0 for the others.
    """

    router_input: Tensor
    probabilities: Tensor
    chosen: Tensor
    coefficients: Tensor


class Router(nn.Linear):
    """A linear layer from the mean token of a sample to one logit for each expert.

    Attributes:
        usage: `(experts,)`, samples sent to each expert since the last reset.
        penalty: `(experts,)`, what is taken off the probabilities before experts are chosen; its minimum is 0.
        batches: number of batches counted since the last reset.
        decision: of the last batch, attached to its graph; None before the first and once it was taken.
    """

    usage: Tensor
    penalty: Tensor
    batches: Tensor

    def __init__(
        self,
        dim: int,
        rules: RoutingRules,
        generator: torch.Generator,
        *,
        uniform: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draws the weights by Xavier's rule; the bias is 0.

        Args:
            dim: channels of the normalisation layer whose input is read.
            rules: how experts are chosen and weighed.
            generator: of the weights, on the CPU.
            uniform: draw them from a uniform distribution, else from a normal one.
            device: of the parameters.
            dtype: of the parameters.
        """
        super().__init__(dim, rules.num_experts, device=device, dtype=dtype)
        self.rules = rules
        shape, std = (rules.num_experts, dim), math.sqrt(2 / (dim + rules.num_experts))
        if uniform:
            drawn = (2 * torch.rand(shape, generator=generator) - 1) * math.sqrt(3) * std
        else:
            drawn = torch.randn(shape, generator=generator) * std
        with torch.no_grad():
            self.weight.copy_(drawn)
            self.bias.zero_()
        self.register_buffer("usage", torch.zeros(rules.num_experts, device=device, dtype=torch.int64))
        self.register_buffer("penalty", torch.zeros(rules.num_experts, device=device, dtype=dtype))
        self.register_buffer("batches", torch.zeros((), device=device, dtype=torch.int64))
        self.decision: Decision | None = None

    def decide(self, x: Tensor, channel_axis: int = -1) -> Decision:
        """Chooses the experts of every sample.

        Args:
            x: `(batch, ..., dim)`, or `(batch, dim, ...)` with `channel_axis` 1; its mean over the other axes is read,
                attached to the graph. `(batch, dim)` is read as it is.
            channel_axis: axis of the channels.
        """
        others = [axis for axis in range(1, x.ndim) if axis != channel_axis % x.ndim]
        tokens = x.numel() // (x.shape[0] * x.shape[channel_axis])
        # On a CPU a sum has a cheaper gradient than a mean: it is expanded, not written out.
        feature = x
        if others:
            feature = x.sum(dim=others) / tokens if works_in_pieces(x.device) else x.mean(dim=others)
        logits: Tensor = self(feature)
        if not self.rules.samplewise:
            logits = logits.mean(dim=0, keepdim=True).expand_as(logits)
        probabilities = logits.softmax(dim=-1)
        scores = probabilities - self.penalty if self.rules.penalty > 0 else probabilities
        if self.rules.top_k == 1 and not self.rules.detach_coefficients:
            probabilities, coefficients = OneExpert.apply(probabilities, scores.detach())
            self.decision = Decision(feature, probabilities, coefficients.detach(), coefficients)
            return self.decision
        with torch.no_grad():
            chosen = torch.zeros_like(scores).scatter_(-1, scores.topk(self.rules.top_k, dim=-1).indices, 1.0)
        self.decision = Decision(feature, probabilities, chosen, self._coefficients(scores, chosen))
        return self.decision

    def _coefficients(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """The value is 1, or a convex weight; the gradient that reaches the router is that of the scores."""
        kept = scores * chosen
        if self.rules.weight_by_probability:
            scale = kept.detach().sum(dim=-1, keepdim=True)
        else:
            scale = torch.where(chosen > 0, kept.detach(), 1.0)
        coefficients = kept / scale
        return coefficients.detach() if self.rules.detach_coefficients else coefficients

    def take_decision(self) -> Decision:
        """Hands over the decision of the last batch and forgets it, so that its graph can go."""
        assert self.decision is not None, "the network did not run this router"
        decision, self.decision = self.decision, None
        return decision

    @torch.no_grad()
    def count(self, selections: Tensor) -> None:
        """Takes in how many samples of a batch went to each expert, `(experts,)`; updates usage and penalty."""
        count_all([self], selections.unsqueeze(0))


@torch.no_grad()
def count_all(routers: Sequence[Router], selections: Tensor) -> None:
    """Takes in how many samples of a batch went to each expert of each router, `(routers, experts)`.

    Updates usage and penalty.
    """
    torch._foreach_add_([router.usage for router in routers], list(selections.to(torch.int64).unbind()))
    for router, counts in zip(routers, selections, strict=True):
        rules = router.rules
        if rules.penalty > 0:
            router.penalty += counts * rules.penalty / (1 + rules.penalty_decay * router.batches)
            router.penalty -= router.penalty.min()
            router.batches += 1


class OneExpert(torch.autograd.Function):
    """Coefficients with one expert for each sample: its score over itself, 1; only the gradient is to compute.

    The probabilities pass through, so that both their gradients are added in one go.
    """

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities, and 1 for the expert of each sample with the best score; all `(batch, experts)`."""
        best = scores.topk(1, dim=-1)
        chosen = torch.zeros_like(scores).scatter_(-1, best.indices, 1.0)
        # The scores of others may be 0, and their gradient must not be divided by it.
        ctx.save_for_backward(best.values, chosen)
        return probabilities.view_as(probabilities), chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_probabilities: Tensor, of_coefficients: Tensor) -> tuple[Tensor, None]:
        """The gradient of the probabilities, which is also that of the scores."""
        score, chosen = ctx.saved_tensors
        return torch.addcdiv(of_probabilities, of_coefficients * chosen, score), None


class SharedRouter:
    """Stands where a layer's own router would be and repeats what another router has decided for the batch."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.rules = router.rules

    def decide(self, x: Tensor, channel_axis: int = -1) -> Decision:
        """The decision of the other router, which has seen this batch before."""
        assert self.router.decision is not None, "the shared router runs before every layer that it serves"
        return self.router.decision


class RoutesBefore:
    """A forward pre-hook: before a layer runs, a router that serves many layers reads its input."""

    def __init__(self, router: Router, channel_axis: int) -> None:
        self.router = router
        self.channel_axis = channel_axis

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Decides for the batch."""
        (x,) = inputs
        with torch.autocast(device_type=x.device.type, enabled=False):
            self.router.decide(x.to(self.router.weight.dtype), self.channel_axis)


def load_balance(probabilities: Tensor, selections: Tensor) -> Tensor:
    """Switch-style load-balancing loss (moetta §1.5): 1 at balance, up to the number of experts.

    Args:
        probabilities: router probabilities `(..., batch, experts)`, attached to the graph.
        selections: samples sent to each expert `(..., experts)`, without gradient.

    Returns:
        The loss of each router, `(...)`.
    """
    frequency = selections / selections.sum(dim=-1, keepdim=True)
    return probabilities.shape[-1] * (frequency * probabilities.mean(dim=-2)).sum(dim=-1)
