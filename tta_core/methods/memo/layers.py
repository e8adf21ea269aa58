"""Normalisation layers that give each image of a batch a weight and a bias of its own.

Adapting to every image on its own takes one small network a time. Where only the affine pairs of normalisation layers
are trained, one forward does it for many images: all other layers treat their samples alike. The layers here compute
what those that they replace compute, under the same names of parameters. In place of a weight `(channels,)` they take
one `(images, channels)` too, as `torch.func.functional_call` puts it there; a batch then holds that many images, one
after the other, each with the same number of copies (views of it, windows, ...).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from timm.layers import BatchNormAct2d, GroupNorm, GroupNormAct, LayerNorm, LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from tta_core.errors import InputError
from tta_core.methods.common.losses import widened
from tta_core.methods.common.surgery import norm_layers


class PerImageNorm(nn.Module, ABC):
    """A normalisation layer whose affine pair may differ from image to image.

    Attributes:
        weight, bias: those of the layer that it replaces, the very parameters; bias may be None.
        after: what timm's layers with activation do afterwards.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, norm: Any) -> None:
        """Takes over the parameters of a layer."""
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.after = nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalises `(batch, ...)` and applies the affine pairs."""
        weight, bias = self.weight, self.bias
        if weight.ndim == self.affine_dims:
            scaled = self.normalised(inputs, weight, bias)
        else:
            plain = self.normalised(inputs, None, None).unflatten(0, (len(weight), -1))
            scaled = plain * self.along(weight, plain.ndim)
            scaled = (scaled if bias is None else scaled + self.along(bias, plain.ndim)).flatten(0, 1)
        outputs: Tensor = self.after(scaled)
        return outputs

    affine_dims = 1
    """Dimensions of the weight that the layer was made with."""

    @abstractmethod
    def normalised(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Normalises, and applies an affine pair that is the same for all images, if there is one."""

    def along(self, values: Tensor, ndim: int) -> Tensor:
        """`(images, channels)` such that it multiplies `(images, copies, channels, ...)`."""
        return values.view(len(values), 1, -1, *[1] * (ndim - 3))


class PerImageLayerNorm(PerImageNorm):
    """Layer normalisation over the last dimensions."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        """Takes over a layer."""
        super().__init__(norm)
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.affine_dims = len(self.shape)

    def normalised(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """See the base class."""
        return functional.layer_norm(inputs, self.shape, weight, bias, self.eps)

    def along(self, values: Tensor, ndim: int) -> Tensor:
        """`(images, *shape)` such that it multiplies `(images, copies, ..., *shape)`."""
        return values.view(len(values), *[1] * (ndim - 1 - self.affine_dims), *self.shape)


class PerImageLayerNorm2d(PerImageNorm):
    """Layer normalisation over the channels of `(batch, channels, height, width)`, as timm has it."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        """Takes over a layer."""
        super().__init__(norm)
        self.shape, self.eps = norm.normalized_shape, norm.eps

    def normalised(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """See the base class."""
        moved = functional.layer_norm(inputs.permute(0, 2, 3, 1), self.shape, weight, bias, self.eps)
        return moved.permute(0, 3, 1, 2)


class PerImageGroupNorm(PerImageNorm):
    """Group normalisation."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Takes over a layer."""
        super().__init__(norm)
        self.groups, self.eps = norm.num_groups, norm.eps

    def normalised(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """See the base class."""
        return functional.group_norm(inputs, self.groups, weight, bias, self.eps)


class PerImageBatchNorm(PerImageNorm):
    """Batch normalisation with the statistics of the source, or with these and those of each image.

    With a prior strength N, mean and variance are (N source + own) / (N + 1), where own are those of all copies of one
    image and all places, with the unbiased variance (Schneider et al. 2020, with one image; further §1). No gradient
    goes through them. Where an image shows a single value of a channel, there is no variance, and the source stands
    alone.

    Attributes:
        mean, variance: buffers with the statistics of the source `(channels,)`.
        copies: how many samples in a row are copies of one image; whoever calls the network sets it.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, norm: _BatchNorm, prior_strength: float | None) -> None:
        """Takes over a layer with running statistics; without a prior strength it uses these alone."""
        super().__init__(norm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.eps, self.prior_strength, self.copies = norm.eps, prior_strength, 1
        self.register_buffer("mean", norm.running_mean.detach().clone())
        self.register_buffer("variance", norm.running_var.detach().clone())

    def normalised(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """See the base class."""
        if self.prior_strength is None or self.copies * inputs[0, 0].numel() == 1:
            return functional.batch_norm(inputs, self.mean, self.variance, weight, bias, False, 0.0, self.eps)
        own = widened(inputs).unflatten(0, (-1, self.copies))
        with torch.no_grad():
            dims = (1, *range(3, own.ndim))
            mean = own.mean(dims, keepdim=True)
            values = self.copies * inputs[0, 0].numel()
            variance = (own - mean).square().sum(dims, keepdim=True) / (values - 1)
            shape = (1, 1, -1, *[1] * (own.ndim - 3))
            share = 1 / (self.prior_strength + 1)
            mean = torch.lerp(self.mean.view(shape).to(mean), mean, share)
            scale = torch.lerp(self.variance.view(shape).to(variance), variance, share).add(self.eps).rsqrt()
        plain = ((own - mean) * scale).flatten(0, 1).to(inputs.dtype)
        if weight is None:
            return plain
        shape = (-1, *[1] * (inputs.ndim - 2))
        return plain * weight.view(shape) + (0 if bias is None else bias.view(shape))


def replace_norms(network: nn.Module, method: str, prior_strength: float | None) -> bool:
    """Replaces the normalisation layers that there are such layers for.

    Args:
        network: the network to edit.
        method: who asks, for the message.
        prior_strength: weight of the source against one image in the statistics of BatchNorm; None: the source alone.

    Returns:
        Whether all were replaced: otherwise weights must be the same for all images of a batch.

    Raises:
        InputError: if a BatchNorm layer keeps no statistics that a prior could stand for.
    """
    every = True
    for name, norm in norm_layers(network):
        made = _per_image(norm, prior_strength)
        if made is None:
            every = False
            if prior_strength is not None and isinstance(norm, _BatchNorm):
                raise InputError(
                    f"{method} mixes the source's statistics of BatchNorm with an image's, and the layer {name!r} "
                    f"({type(norm).__name__}) keeps none that it knows: give prior_strength: null"
                )
            continue
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, made)
    return every


def _per_image(norm: Any, prior_strength: float | None) -> PerImageNorm | None:
    """The layer that stands for a norm; None if there is none. Types are exact: subclasses may do something else."""
    kind = type(norm)
    if kind in (nn.LayerNorm, LayerNorm):
        return PerImageLayerNorm(norm)
    if kind is LayerNorm2d:
        return PerImageLayerNorm2d(norm)
    if kind in (nn.GroupNorm, GroupNorm, GroupNormAct):
        return PerImageGroupNorm(norm)
    batch_norms = (nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d)
    if kind in batch_norms and norm.running_mean is not None and norm.running_var is not None:
        return PerImageBatchNorm(norm, prior_strength)
    return None
