"""Adapters behind the blocks of a network, chosen for each sample by a noisy gate (BECoTTA, mixed §2.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from tta_core.backbones.segformer import Block as SegFormerBlock
from tta_core.device import upload
from tta_core.errors import InputError

MIN_MAX_EPSILON = 1e-6
"""Added to the range of the chosen scores of a sample before they are divided by it."""


@dataclass(frozen=True)
class AdapterOptions:
    """Shape of the adapters and rules of their gate.

    Attributes:
        num_experts: adapters behind each block.
        rank: hidden units of one adapter.
        top_k: adapters that serve one sample.
        num_domains: gates of each block; every sample draws one of them.
        noise_strength: factor of the gate's noise; 0 for none.
        noise_floor: least standard deviation of that noise, before the factor.
        init_std: standard deviation of the initial weights, cut off at 2; biases start at 0.
    """

    num_experts: int = 6
    rank: int = 1
    top_k: int = 1
    num_domains: int = 1
    noise_strength: float = 1.0
    noise_floor: float = 0.01
    init_std: float = 0.02


class GateDraws:
    """What the gates of a network draw at random; replace its methods to inject it."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def noise(self, block: int, like: Tensor) -> Tensor:
        """Standard normal noise of the shape of `like`, for the gate of one block.

        It is drawn in float32 whatever the precision, and on the CPU whatever the device: all get the same.
        """
        drawn = torch.randn(like.shape, generator=self.generator, dtype=torch.float32)
        return upload(drawn, like.device).to(like.dtype)

    def domains(self, block: int, batch: int, num_domains: int, device: torch.device) -> Tensor:
        """The gate that each sample goes through, int64 `(batch,)`; drawn only if there are several."""
        if num_domains == 1:
            return torch.zeros(batch, dtype=torch.int64, device=device)
        return upload(torch.randint(num_domains, (batch,), generator=self.generator), device)


class Choice(NamedTuple):
    """What a gate drew and chose for a batch, without gradient.

    Attributes:
        domains: the gate of each sample, int64 `(batch,)`.
        noise: `(batch, tokens, experts)`.
        experts: the adapters of each sample, best first, int64 `(batch, top_k)`.
    """

    domains: Tensor
    noise: Tensor
    experts: Tensor


class GatedAdapters(nn.Module):
    """The adapters of one block: a linear layer down, GELU, a linear layer up, weighted by a gate.

    For each token the gate gives each adapter a score and the standard deviation of its noise; the noisy scores are
    summed over the tokens, and the best `top_k` adapters weigh the softmax of their scores, scaled to [0, 1] first.
    With one adapter that weight is exactly 1 whatever the scores, and the gate gets no gradient; with two, scaling
    leaves 0 and almost 1 of any scores, and the gradient is about 1e-6 of what it is without (mixed §2.7).

    It computes in the precision of its weights, whatever the autocast around it.

    Attributes:
        options: shape and rules.
        block: number of the block, as `GateDraws` counts them.
        channel_axis: axis of the channels of what the block puts out, 1 or -1.
        gate: `(domains, 2 experts, dim)`, rows of scores and then of noise.
        down_weight, down_bias: `(experts, rank, dim)`, `(experts, rank)`.
        up_weight, up_bias: `(experts, rank, dim)`, `(experts, dim)`.
        usage: `(experts,)`, summed weight of each adapter since the last reset.
        routing: weight of each adapter for each sample of the last batch, `(batch, experts)`, without gradient.
        choice: of the last batch; None once it was forgotten.
        again: samples of the last batch, int64 `(selected,)`, that the next batches consist of; see `repeating`.
    """

    usage: Tensor

    def __init__(
        self,
        dim: int,
        options: AdapterOptions,
        draws: GateDraws,
        generator: torch.Generator,
        *,
        block: int = 0,
        channel_axis: int = -1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.options, self.draws = options, draws
        self.block, self.channel_axis = block, channel_axis
        experts, rank = options.num_experts, options.rank

        def drawn(*shape: int) -> nn.Parameter:
            # On the CPU in float32, so that they agree on all devices and in all precisions.
            values = nn.init.trunc_normal_(torch.empty(shape), std=options.init_std, generator=generator)
            return nn.Parameter(values.to(device, dtype))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        self.gate = drawn(options.num_domains, 2 * experts, dim)
        self.down_weight, self.down_bias = drawn(experts, rank, dim), zeros(experts, rank)
        self.up_weight, self.up_bias = drawn(experts, rank, dim), zeros(experts, dim)
        self.register_buffer("usage", torch.zeros(experts, device=device, dtype=dtype))
        self.routing: Tensor = torch.empty(0)
        self.choice: Choice | None = None
        self.again: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Adds the adapters to the output of the block, `(batch, ..., dim)` or `(batch, dim, ...)`."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            channels_last = x.movedim(self.channel_axis, -1).to(self.up_bias.dtype)
            tokens = channels_last.flatten(1, -2)
            weights, choice = self._weigh(tokens)
            adapted = self._selected(tokens, weights, choice.experts) if self._selects() else self._all(tokens, weights)
            return adapted.view(channels_last.shape).movedim(-1, self.channel_axis).to(x.dtype)

    def _weigh(self, tokens: Tensor) -> tuple[Tensor, Choice]:
        """Weights `(batch, experts)` of the adapters for tokens `(batch, tokens, dim)`, and what chose them."""
        options = self.options
        learns = options.top_k > 1
        choice: Choice | None = None
        if self.again is not None:
            assert self.choice is not None, "a batch runs before part of it is repeated"
            choice = Choice(*(part[self.again] for part in self.choice))
        scores: Tensor | None = None
        if learns or choice is None:
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                scores, domains, noise = self._scores(tokens, choice)
            if choice is None:
                choice = Choice(domains, noise, scores.detach().topk(options.top_k, dim=-1).indices)
        assert choice is not None
        weights = tokens.new_zeros(len(tokens), options.num_experts)
        if not learns:
            weights = weights.scatter(-1, choice.experts, 1.0)
        else:
            assert scores is not None
            weights = weights.scatter(-1, choice.experts, _softmax_of_scaled(scores.gather(-1, choice.experts)))
        if self.again is None:
            self.choice, self.routing = choice, weights.detach()
            self.usage += self.routing.sum(dim=0)
        return weights, choice

    def _scores(self, tokens: Tensor, choice: Choice | None) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy scores `(batch, experts)`, and the domains and the noise that they were made with."""
        options = self.options
        if choice is not None:
            domains = choice.domains
        else:
            domains = self.draws.domains(self.block, len(tokens), options.num_domains, tokens.device)
        if options.num_domains == 1:
            outputs = functional.linear(tokens, self.gate[0])
        else:
            outputs = tokens @ self.gate[domains].transpose(1, 2)
        clean, raw = outputs.chunk(2, dim=-1)
        noise = choice.noise if choice is not None else self.draws.noise(self.block, clean)
        if options.noise_strength > 0:
            spread = functional.softplus(raw) + options.noise_floor
            clean = torch.addcmul(clean, noise, spread, value=options.noise_strength)
        return clean.sum(dim=1), domains, noise

    def _selects(self) -> bool:
        """Whether only the adapters that a sample uses are computed for it: if that is at most half of them.

        Measured on one core (16 x 197 tokens of 192 and 768 channels, six adapters, one of them used, forward and
        backward): as fast as all adapters at one hidden unit each, twice as fast at 16, four times at 64.
        """
        return 2 * self.options.top_k <= self.options.num_experts

    def _all(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Tokens plus all adapters, in one product each way; `(batch, tokens, dim)`."""
        batch, length, dim = tokens.shape
        rows = tokens.reshape(-1, dim)
        hidden = functional.gelu(torch.addmm(self.down_bias.flatten(), rows, self.down_weight.flatten(0, 1).T))
        weighted = hidden.view(batch, length, *self.down_bias.shape) * weights[:, None, :, None]
        # The biases are weighted too: one more hidden unit for each adapter, which is always 1.
        units = torch.cat([weighted.flatten(2), weights.unsqueeze(1).expand(-1, length, -1)], dim=-1)
        up = torch.cat([self.up_weight.flatten(0, 1), self.up_bias])
        return torch.addmm(rows, units.flatten(0, 1), up)

    def _selected(self, tokens: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """Tokens plus the adapters `(batch, top_k)` of each sample only."""
        chosen = weights.gather(-1, experts)
        down = self.down_weight[experts].flatten(1, 2).transpose(1, 2)
        hidden = functional.gelu(torch.baddbmm(self.down_bias[experts].flatten(1).unsqueeze(1), tokens, down))
        weighted = hidden * chosen.repeat_interleave(self.options.rank, dim=-1).unsqueeze(1)
        bias = (chosen.unsqueeze(-1) * self.up_bias[experts]).sum(dim=1, keepdim=True)
        return torch.baddbmm(tokens + bias, weighted, self.up_weight[experts].flatten(1, 2))


def _softmax_of_scaled(scores: Tensor) -> Tensor:
    """Softmax of the scores `(batch, top_k)` of each sample, scaled to [0, 1] first."""
    low, high = scores.amin(dim=-1, keepdim=True), scores.amax(dim=-1, keepdim=True)
    return ((scores - low) / (high - low + MIN_MAX_EPSILON)).softmax(dim=-1)


@contextmanager
def repeating(adapters: Iterable[GatedAdapters], samples: Tensor) -> Iterator[None]:
    """Lets the next batches consist of samples of the last one, `(selected,)`: same gates, noise and adapters."""
    adapters = list(adapters)
    for adapter in adapters:
        adapter.again = samples
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.again = None


class Adapted(nn.Module):
    """What a block becomes beside what it is: it sends its output through its `adapters`.

    A class of its own and no forward hook on the block: compiled code does not look for hooks, so that code compiled
    for a network without them would leave the adapters out.
    """

    adapters: GatedAdapters

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """What the block makes of `x`, adapted."""
        adapted: Tensor = self.adapters(super().forward(x, *arguments, **named))
        return adapted


def _adapted(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of adapted blocks of a kind."""
    return type(f"Adapted{kind.__name__}", (Adapted, kind), {})


def add_gated_adapters(
    network: nn.Module,
    options: AdapterOptions,
    draws: GateDraws,
    generator: torch.Generator,
    ranks: Mapping[int, int] | None = None,
) -> dict[str, GatedAdapters]:
    """Puts adapters behind every block, in place; the blocks keep the names of their layers and get `adapters`.

    Args:
        network: the network to edit.
        options: shape and rules.
        draws: noise and domains.
        generator: of the initial values.
        ranks: width of blocks -> rank of their adapters, 0 for none; by default that of the options everywhere.

    Returns:
        The adapters by qualified name.

    Raises:
        InputError: if the network has no blocks of a known kind.
    """
    found = [(name, module, shape) for name, module in network.named_modules() if (shape := _block_shape(module))]
    if isinstance(network, VisionTransformer):
        found = [(f"blocks.{number}", block, (network.embed_dim, -1)) for number, block in enumerate(network.blocks)]
    if not found:
        raise InputError(
            f"the adapters stand behind the blocks of timm's VisionTransformer, Swin and ConvNeXt, and this network is "
            f"a {type(network).__name__}, which has none: choose one of those"
        )
    kinds = {kind: _adapted(kind) for kind in {type(block) for _, block, _ in found}}
    added = {}
    for number, (name, block, (dim, channel_axis)) in enumerate(found):
        rank = options.rank if ranks is None else ranks[dim]
        if rank == 0:
            continue
        first = next(block.parameters())
        adapters = GatedAdapters(
            dim,
            replace(options, rank=rank),
            draws,
            generator,
            block=number,
            channel_axis=channel_axis,
            device=first.device,
            dtype=torch.promote_types(first.dtype, torch.float32),
        )
        block.add_module("adapters", adapters)
        block.__class__ = kinds[type(block)]
        added[f"{name}.adapters"] = adapters
    return added


def _block_shape(module: nn.Module) -> tuple[int, int] | None:
    """Channels of what a block puts out, and their axis; None if the module is no such block.

    The axis follows from the kind of block: an image as wide and high as it has channels would mislead its shape.
    """
    if isinstance(module, SwinTransformerBlock | SwinTransformerV2Block):
        return module.dim, -1
    if isinstance(module, SegFormerBlock):
        return module.width, -1
    if isinstance(module, ConvNeXtBlock):
        return module.conv_dw.out_channels, 1
    return None
