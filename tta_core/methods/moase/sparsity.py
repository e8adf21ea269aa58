"""Experts that keep part of their activations, beside the MLP of each transformer block (moase §2.1 to §2.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from tta_core.device import works_in_pieces
from tta_core.errors import InputError
from tta_core.methods.common.surgery import replace_modules
from tta_core.methods.moase.selection import Rule, Rules, Scope, half, kept, where_positive
from tta_core.methods.moase.sparse_mlp import SparseMLP

TRUNCATED_STD = 0.02
"""Standard deviation of the truncated normal initial values."""


@dataclass(frozen=True)
class ExpertOptions:
    """How the experts of a block are built and what they keep; see `MoASESettings` for the meaning of each."""

    num_experts: int
    bottleneck: int
    adapter_scale: float
    gate_strength: float
    gate_scope: Literal["sample", "batch"]
    sdd: bool
    sdd_scope: Scope
    high_select: Literal["largest", "smallest"]
    low_select: Literal["smallest_active", "smallest_k"]
    dar: bool
    router_input: Literal["lowest", "highest"]
    asg_gradient: Literal["none", "straight_through"]
    adapter_init: Literal["zero_up", "trunc_normal"]

    @property
    def keep_ratios(self) -> list[float]:
        """Share of its activations that each expert keeps before the gate adds to it: j / experts in each half."""
        each = self.num_experts // 2
        return [(expert % each + 1) / self.num_experts for expert in range(self.num_experts)]

    @property
    def rules(self) -> list[Rule]:
        """What each expert keeps: the first half low activations, the second high ones."""
        high: Rule = "largest" if self.high_select == "largest" else "smallest_k"
        each = self.num_experts // 2
        return [self.low_select] * each + [high] * each


class SparseExperts(nn.Module):
    """Bottleneck experts weighted by a router; each passes on only part of its hidden activations.

    The first half of the experts keeps low activations (domain-specific), the second half high ones
    (domain-agnostic). The domain-aware router reads half of each token and weights all experts; the activation
    sparsity gate sets how much each expert keeps. The matrices of all experts are held as one.

    Attributes:
        down_weight, down_bias: `(experts, bottleneck, dim)` and `(experts, bottleneck)`.
        up_weight, up_bias: `(experts, bottleneck, dim)` and `(experts, dim)`.
        router: `Linear(dim, experts)`, the domain-aware router.
        gate: `Linear(dim, experts)`, the activation sparsity gate.
        usage: `(experts,)`, sum over samples of their mean routing weights since the last reset; the method counts it.
        observed: whether the forward fills what follows, detached from the graph. All are None before the first.
        routing: `(batch, experts)`, mean routing weights over the tokens of each sample.
        gate_mean: mean of the gate over tokens, `(batch, experts)`; with `gate_scope="batch"` over samples too,
            `(1, experts)`.
        keep_ratio: share of its activations that each expert keeps, of the same shape.
        inspect: whether the forward also fills `inspection`.
        inspection: `hidden` `(batch, tokens, experts, bottleneck)`, activations before the selection; `kept_energy`
            `(experts,)`, kept share of their squares; `zero_share`, share of exact zeros among them; `gate_mean`
            `(experts,)`.
    """

    usage: Tensor
    ratios: Tensor

    def __init__(
        self, dim: int, options: ExpertOptions, generator: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.options = options
        experts, bottleneck = options.num_experts, options.bottleneck

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        self.down_weight, self.down_bias = parameter(experts, bottleneck, dim), parameter(experts, bottleneck)
        self.up_weight, self.up_bias = parameter(experts, bottleneck, dim), parameter(experts, dim)
        self.router = nn.Linear(dim, experts, device=device, dtype=dtype)
        self.gate = nn.Linear(dim, experts, device=device, dtype=dtype)
        self.register_buffer("ratios", torch.tensor(options.keep_ratios, device=device, dtype=dtype), persistent=False)
        self.register_buffer("usage", torch.zeros(experts, device=device, dtype=dtype))
        self.rules = Rules.of(options.rules, device, dtype)
        self._initialise(generator)
        self.observed = True
        self.inspect = False
        self.routing: Tensor | None = None
        self.gate_mean: Tensor | None = None
        self.keep_ratio: Tensor | None = None
        self.inspection: dict[str, Tensor] | None = None

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Returns what the experts make of the residual stream `x`, added to `onto` if given, `(batch, tokens, dim)`.

        Under autocast the experts stay in float32: in half precision many activations would tie at the selection.
        """
        with torch.autocast(device_type=x.device.type, enabled=False):
            tokens = x.to(self.down_weight.dtype)
            routing = self._route(tokens)
            gate = self._gate(tokens)
            ratio = torch.add(self.ratios, gate, alpha=self.options.gate_strength)
            if self.observed:
                self._observe(tokens, routing, gate, ratio)

            def select(hidden: Tensor, images: slice, experts: slice) -> Tensor | None:
                return self._keep(hidden, ratio if len(ratio) == 1 else ratio[images], experts)

            added: Tensor = SparseMLP.apply(
                torch.zeros_like(tokens) if onto is None else onto.to(tokens.dtype),
                tokens,
                routing,
                self._weights_of_kept(routing, ratio),
                self.down_weight,
                self.down_bias,
                self.up_weight,
                self.up_bias,
                select,
                self.options.adapter_scale,
            )
            return added.to(x.dtype)

    def expert_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the experts themselves, each `(experts, ...)`; router and gate are not among them."""
        names = ("down_weight", "down_bias", "up_weight", "up_bias")
        return {name: self.get_parameter(name) for name in names}

    def _route(self, tokens: Tensor) -> Tensor:
        """Routing weights `(batch, tokens, experts)`; for each token they sum to 1."""
        if self.options.dar:
            tokens = half(tokens, self.options.router_input, self.options.sdd_scope)
        return self.router(tokens).softmax(dim=-1)

    def _gate(self, tokens: Tensor) -> Tensor:
        """Mean of the gate `(batch, experts)`, or `(1, experts)` for all samples together."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.options.asg_gradient != "none"):
            share = self.gate(tokens).softmax(dim=-1)
            return share.mean(dim=1) if self.options.gate_scope == "sample" else share.mean(dim=(0, 1)).unsqueeze(0)

    def _keep(self, hidden: Tensor, ratio: Tensor, experts: slice) -> Tensor | None:
        """Sets what some experts do not keep to 0.

        Args:
            hidden: activations `(images, tokens, experts, bottleneck)`, none below 0.
            ratio: share that each of all experts keeps, `(images or 1, experts)`.
            experts: which experts these are.

        Returns:
            What they keep, or None if nothing above 0 is kept; only on a CPU, where one need not wait to know.
        """
        if not self.options.sdd:
            return hidden
        within = kept(hidden, ratio[:, experts], self.rules.part(experts), self.options.sdd_scope)
        selected = where_positive(hidden, within)
        return None if works_in_pieces(hidden.device) and selected.amax() <= 0 else selected

    def _weights_of_kept(self, routing: Tensor, ratio: Tensor) -> Tensor:
        """Weights of the kept activations `(batch, tokens, experts)`."""
        if self.options.asg_gradient == "none":
            return routing.view_as(routing)  # What is compiled hands no tensor over twice.
        # The factor is 1; through it the gate gets the gradient that the selection lets through to nobody (moase §2.2).
        return routing * (1 + (ratio - ratio.detach())).unsqueeze(1)

    @torch.no_grad()
    def _observe(self, tokens: Tensor, routing: Tensor, gate: Tensor, ratio: Tensor) -> None:
        self.routing = routing.mean(dim=1)
        self.gate_mean, self.keep_ratio = gate.detach(), ratio.detach()
        if self.inspect:
            self.inspection = self._inspect(tokens, gate.detach(), ratio)

    def _inspect(self, tokens: Tensor, gate: Tensor, ratio: Tensor) -> dict[str, Tensor]:
        hidden = functional.linear(tokens, self.down_weight.flatten(0, 1), self.down_bias.flatten()).relu()
        hidden = hidden.unflatten(-1, self.down_bias.shape)
        energy = hidden.square().sum(dim=(0, 1, 3))
        kept_energy = torch.zeros_like(energy)
        for expert in range(self.options.num_experts):
            this = slice(expert, expert + 1)
            kept = self._keep(hidden[:, :, this], ratio, this)
            if kept is not None:
                kept_energy[expert] = kept.square().sum()
        return {
            "hidden": hidden,
            "kept_energy": kept_energy / energy,
            "zero_share": (hidden == 0).to(hidden.dtype).mean(),
            "gate_mean": gate.mean(dim=0),
        }

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Sets initial values (moase §2.3); biases stay 0.

        They are drawn on the CPU in float32, so that they agree on all devices and in all precisions.
        """
        weights = [self.router.weight, self.gate.weight]
        if self.options.adapter_init == "trunc_normal":
            weights += [self.down_weight, self.up_weight]
        else:
            bound = 1 / math.sqrt(self.down_weight.shape[-1])  # Kaiming uniform with a = sqrt(5).
            self.down_weight.copy_(torch.empty(self.down_weight.shape).uniform_(-bound, bound, generator=generator))
        for weight in weights:
            drawn = torch.empty(weight.shape)
            weight.copy_(nn.init.trunc_normal_(drawn, std=TRUNCATED_STD, generator=generator))
        for linear in (self.router, self.gate):
            nn.init.zeros_(linear.bias)


class AdaptedBlock(nn.Module):
    """A timm transformer block with experts beside its MLP (moase §2.1); its layers keep their names.

    The experts read the residual stream after attention, before the second norm; layer scale and stochastic depth of
    the MLP do not apply to them.
    """

    norm1: nn.Module
    attn: nn.Module
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module

    def __init__(self, block: nn.Module, adapter: SparseExperts) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.adapter = adapter

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Maps the residual stream `(batch, tokens, dim)` to the next block's."""
        attended = self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        x = x + self.drop_path1(self.ls1(attended))
        added: Tensor = self.adapter(x, onto=x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))))
        return added


def add_experts(network: nn.Module, options: ExpertOptions, generator: torch.Generator) -> dict[str, SparseExperts]:
    """Puts experts beside the MLP of every block of a timm vision transformer, in place.

    Returns:
        The experts by qualified name.

    Raises:
        InputError: if the network has no such block.
    """

    def adapted(block: nn.Module) -> AdaptedBlock:
        weight = block.get_parameter("attn.proj.weight")
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return AdaptedBlock(block, SparseExperts(weight.shape[0], options, generator, weight.device, dtype))

    names = [name for name, module in network.named_modules() if type(module) is Block]
    if not names:
        raise InputError(
            "the experts stand beside the MLP of the blocks that timm's VisionTransformer is made of, and "
            f"{type(network).__name__} has none: choose a vision transformer"
        )
    replace_modules(network, names, adapted, "transformer block")
    return {f"{name}.adapter": network.get_submodule(f"{name}.adapter") for name in names}  # type: ignore[misc]
