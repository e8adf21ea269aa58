"""Linear layers that are trained through their singular values alone (imse §1.1 and §1.2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.methods.common.losses import HALF_PRECISIONS, widened
from tta_core.methods.common.spectral_cache import cached_decomposition
from tta_core.methods.common.surgery import replace_modules
from tta_core.methods.imse.alignment import Alignment


class SpectralLinear(nn.Module):
    """y = x W(sigma)^T + b with W(sigma) = U diag(sigma) V^T, of which only sigma is ever trained.

    Everything frozen is a parameter without gradient, not a buffer, so that no copy of it is in a method's state.

    Attributes:
        weight: the original matrix `(out, in)`, frozen.
        bias: the original bias `(out,)`, frozen; None if there was none.
        u, vh: singular vectors `(out, rank)` and `(rank, in)`, frozen.
        source_sigma: the singular values `(rank,)` of `weight`, frozen.
        sigma: the current ones `(rank,)`: may become negative and change their order.
        measures_alignment: whether each forward leaves `alignment`.
        alignment: of the last forward; `take_alignment` empties it.
    """

    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        """Decomposes a linear layer; its parameters become this layer's own, and are frozen."""
        super().__init__()
        linear.requires_grad_(False)
        self.weight = linear.weight
        self.bias = linear.bias
        factors = cached_decomposition(linear.weight)
        self.u, self.vh, self.source_sigma = (_frozen(f) for f in (factors.u, factors.vh, factors.sigma))
        self.sigma = _frozen(factors.sigma.clone())
        self.measures_alignment = False
        self.alignment: Alignment | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(..., in)` to `(..., out)`."""
        if not self.measures_alignment and not self.factored_is_cheaper(x.numel() // x.shape[-1]):
            return functional.linear(x, self.composed_weight(), self.bias)
        y, *seen = FactoredLinear.apply(x, self.sigma, self.u, self.vh, self.bias, self.measures_alignment)
        self.alignment = Alignment(*seen) if self.measures_alignment else None
        return y

    def composed_weight(self) -> Tensor:
        """W(sigma) `(out, in)`: the original matrix, bit for bit, as long as sigma is the source's."""
        # Rounding sigma to half precision would lose the steps that it makes.
        with torch.autocast(self.weight.device.type, enabled=False):
            return torch.addmm(self.weight, self.u * (self.sigma - self.source_sigma), self.vh)

    def factored_is_cheaper(self, tokens: int) -> bool:
        """Whether ((x V) sigma) U^T takes fewer multiplications than x W(sigma)^T, forward and backward together.

        With n tokens, the factored form takes `2 n rank (in + out)`; its gradient for sigma is nearly free. The other
        takes `2 n in out` and `rank in out` to compose W, and again `n in out + rank in out` if sigma is trained. A
        layer that measures alignment needs x V anyway, so there the factored form is never dearer.
        """
        (out, rank), columns = self.u.shape, self.vh.shape[1]
        trained = int(self.sigma.requires_grad)
        factored = 2 * tokens * rank * (columns + out)
        composed = ((2 + trained) * tokens + (1 + trained) * rank) * columns * out
        return factored < composed

    def take_alignment(self) -> Alignment:
        """Returns what the last forward measured and forgets it, so that its graph can go."""
        assert self.alignment is not None, "the network did not run this layer"
        alignment, self.alignment = self.alignment, None
        return alignment

    def merged(self) -> nn.Linear:
        """A plain linear layer that carries a copy of W(sigma)."""
        return _linear(self.composed_weight(), self.bias)


class SplitSpectralLinear(nn.Module):
    """A fused query-key-value layer of which each third is decomposed on its own (`decompose_qkv` of the release)."""

    def __init__(self, linear: nn.Linear) -> None:
        """Splits the rows of the layer in three and decomposes each."""
        super().__init__()
        biases = (None,) * 3 if linear.bias is None else linear.bias.chunk(3)
        thirds = [_linear(w, b) for w, b in zip(linear.weight.chunk(3), biases, strict=True)]
        self.q, self.k, self.v = (SpectralLinear(third) for third in thirds)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(..., in)` to `(..., out)`: queries, keys and values one behind the other."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)

    def merged(self) -> nn.Linear:
        """A plain linear layer that carries a copy of all three."""
        parts = [part.merged() for part in (self.q, self.k, self.v)]
        weight = torch.cat([part.weight for part in parts])
        return _linear(weight, None if parts[0].bias is None else torch.cat([part.bias for part in parts]))


class FactoredLinear(torch.autograd.Function):
    """((x V) sigma) U^T + b, and what an `Alignment` holds.

    Written out because autograd would pass over the tokens more often, and compose the gradient of W for that of sigma.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sigma: Tensor, u: Tensor, vh: Tensor, bias: Tensor | None, measures: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Maps tokens.

        Args:
            ctx: what backward needs.
            x: tokens `(..., in)`.
            sigma: singular values `(rank,)`; the only one, beside `x`, that gets a gradient.
            u: left singular vectors `(out, rank)`.
            vh: right singular vectors `(rank, in)`.
            bias: `(out,)`.
            measures: whether there is an alignment.

        Returns:
            y `(..., out)`, x V `(..., rank)` and |x|^2 `(..., 1)`; without an alignment y alone.
        """
        projection = functional.linear(x, vh)
        y = functional.linear(projection, u * sigma, bias)
        ctx.save_for_backward(x if measures else None, sigma, u, vh, projection)
        ctx.precision = x.dtype
        if not measures:
            return y, None, None
        wide = torch.float32 if x.dtype in HALF_PRECISIONS else None
        return y, projection, torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()

    @staticmethod
    def backward(
        ctx: Any, of_y: Tensor, of_projection: Tensor | None, of_square: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Gradients of `x` and `sigma`; autocast does not reach here, so precisions are matched by hand."""
        x, sigma, u, vh, projection = ctx.saved_tensors
        of_scaled = of_y @ u.to(of_y.dtype)
        of_x = of_sigma = None
        if ctx.needs_input_grad[0] and of_projection is None:
            of_x = of_scaled @ (sigma.unsqueeze(1) * vh).to(of_y.dtype)
        elif ctx.needs_input_grad[0] and of_projection is not None and of_square is not None:
            of_projection = torch.addcmul(of_projection, of_scaled, sigma).to(of_y.dtype)
            of_x = widened(of_projection @ vh.to(of_y.dtype)).addcmul_(x, of_square, value=2)
        if ctx.needs_input_grad[1]:
            of_sigma = widened(of_scaled).mul_(projection).flatten(0, -2).sum(dim=0)
        return None if of_x is None else of_x.to(ctx.precision), of_sigma, None, None, None, None


def replace_by_spectral(network: nn.Module, names: Sequence[str], *, split: bool = False) -> None:
    """Puts spectral layers in place of the named linear layers, with three parts each if `split`."""

    def replacement(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, nn.Linear), "only linear layers are named"
        return SplitSpectralLinear(layer) if split else SpectralLinear(layer)

    replace_modules(network, names, replacement, "linear layers to decompose")


def merged(network: nn.Module) -> nn.Module:
    """A copy of a network in which W(sigma) is in ordinary linear layers again, under their old names."""
    plain = copy.deepcopy(network)
    spectral = {n: m for n, m in plain.named_modules() if isinstance(m, SpectralLinear | SplitSpectralLinear)}
    for name, layer in spectral.items():
        holder, _, child = name.rpartition(".")
        if holder not in spectral:
            setattr(plain.get_submodule(holder), child, layer.merged())
    return plain


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen linear layer that carries copies."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = _frozen(weight.detach().clone())
    if bias is not None:
        linear.bias = _frozen(bias.detach().clone())
    return linear
