"""Low-rank bypasses of linear layers, added into the layers' own weights at each forward."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.backbones.segformer import Attention, SegFormer
from tta_core.methods.common.surgery import replace_modules
from tta_core.methods.common.transformer import as_transformer

TENSORS = ("down", "up")
"""The trained tensors of a `LowRankLinear`."""


class LowRankLinear(nn.Module):
    """A linear layer with a bypass of low and one of high rank (continual §4.4).

    y = W x + b + s_low U_low (D_low x) + s_high U_high (D_high x), computed as (W + U diag(s) D) x + b with the two
    bypasses laid side by side in U and D. With n tokens the bypasses as they are written take `n rank (in + out)`
    multiplications in the forward and twice that in the backward; adding them into W takes `rank in out` and twice
    that, as many as 144 tokens do in a layer from 192 to 576, where 16 images have 3152. The gradient of the sum is
    that of W, which is wanted anyway where W is trained.

    Attributes:
        weight: W `(out, in)`, under the name that it has in the plain layer.
        bias: b `(out,)`; None if there is none.
        down: D `(rank_low + rank_high, in)`, the low rank first.
        up: U `(out, rank_low + rank_high)`.
        scales: s `(rank_low + rank_high,)`; one tensor for all layers of a network, see `set_scales`.
    """

    weight: Tensor
    bias: nn.Parameter | None
    scales: Tensor

    def __init__(self, linear: nn.Linear, down: Tensor, scales: Tensor) -> None:
        """Takes over the parameters of `linear`, and `down` for its own; U is 0, so that nothing is added at first."""
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.down = nn.Parameter(down.to(linear.weight), requires_grad=False)
        self.up = nn.Parameter(linear.weight.new_zeros(len(linear.weight), len(down)), requires_grad=False)
        self.register_buffer("scales", scales)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(..., in)` to `(..., out)`."""
        return functional.linear(x, self.combined_weight(), self.bias)

    def combined_weight(self) -> Tensor:
        """W + U diag(s) D, `(out, in)`."""
        # In half precision a product would lose the steps that small learning rates make.
        with torch.autocast(self.weight.device.type, enabled=False):
            return torch.addmm(self.weight, self.up * self.scales, self.down)


def add_low_rank(
    network: nn.Module, rank_low: int, rank_high: int, generator: torch.Generator, method: str
) -> dict[str, LowRankLinear]:
    """Puts bypasses beside every linear layer in the attention of every block, all with scales of 1.

    D is normal with standard deviation 1 / rank^2 for each rank, U is 0 (continual §4.4).

    Args:
        network: the network to edit.
        rank_low: rank of the first bypass.
        rank_high: rank of the second.
        generator: draws D, on the CPU.
        method: who adds them, for the message.

    Returns:
        The new layers by their qualified names.

    Raises:
        InputError: if the network is neither a vision transformer of timm nor a SegFormer.
    """
    if isinstance(network, SegFormer):
        attentions = [name for name, module in network.named_modules() if isinstance(module, Attention)]
    else:
        attentions = [f"blocks.{number}.attn" for number, _ in enumerate(as_transformer(network, method).blocks)]
    names = [
        f"{attention}.{name}"
        for attention in attentions
        for name, module in network.get_submodule(attention).named_modules()
        if isinstance(module, nn.Linear)
    ]
    added: list[LowRankLinear] = []
    deviations = torch.tensor([1 / rank_low**2] * rank_low + [1 / rank_high**2] * rank_high)
    scales = next(network.parameters()).new_ones(len(deviations))

    def replacement(linear: nn.Module) -> LowRankLinear:
        assert isinstance(linear, nn.Linear), "only linear layers are named"
        noise = torch.randn(len(deviations), linear.in_features, generator=generator)
        added.append(LowRankLinear(linear, noise * deviations.unsqueeze(1), scales))
        return added[-1]

    replace_modules(network, names, replacement, "linear layers of attention")
    return dict(zip(names, added, strict=True))


def low_rank_layers(network: nn.Module) -> dict[str, LowRankLinear]:
    """The layers that `add_low_rank` put into a network, or into what it is a copy of."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LowRankLinear)}


def adapter_parameters(layers: dict[str, LowRankLinear]) -> dict[str, nn.Parameter]:
    """D and U of the layers by qualified name."""
    return {f"{name}.{tensor}": getattr(layer, tensor) for name, layer in layers.items() for tensor in TENSORS}


def share_scales(network: nn.Module, scales: Tensor) -> None:
    """Gives all adapters of a network the same scales, which change for all of them at once."""
    for layer in low_rank_layers(network).values():
        layer.scales = scales


def signed_uncertainty(uncertainty: Tensor, threshold: float) -> Tensor:
    """U where it has reached its threshold, else -u: the scales are 1 + that for high rank, 1 - that for low."""
    return torch.where(uncertainty >= threshold, uncertainty, -uncertainty)


def set_scales(scales: Tensor, low: Tensor, high: Tensor, ranks: tuple[int, int]) -> None:
    """Sets the scales `(rank_low + rank_high,)` to one value for each of the two ranks."""
    scales.copy_(torch.cat([scale.expand(rank) for scale, rank in zip((low, high), ranks, strict=True)]))


def two_rates(
    parameters: Mapping[str, nn.Parameter], adapters: Collection[str], *, adapter_lr: float, backbone_lr: float
) -> list[dict[str, Any]]:
    """Groups of an optimizer: the adapters named, and the rest; without those that are empty."""
    groups = [
        {"params": [p for n, p in parameters.items() if n not in adapters], "lr": backbone_lr},
        {"params": [p for n, p in parameters.items() if n in adapters], "lr": adapter_lr},
    ]
    return [group for group in groups if group["params"]]
