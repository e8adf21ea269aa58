"""BatchNorm layers whose statistics follow the test stream: blended with each batch, or as a running average.

Statistics are those of all values of a channel, over the batch and over all places; in float32 or wider. The variance
is divided by their number, or by one less where a release does so (further §1). A channel of which a batch shows a
single value has no variance there, and the statistics of the source stand in for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from tta_core.errors import InputError
from tta_core.methods.common.losses import widened
from tta_core.methods.common.surgery import replace_modules


class Statistics(NamedTuple):
    """Mean and variance of each channel, `(channels,)`."""

    mean: Tensor
    variance: Tensor


class StreamBatchNorm(nn.Module, ABC):
    """A BatchNorm layer that takes its statistics from somewhere else than the source alone.

    Attributes:
        weight, bias: the affine pair of the layer that it replaces, the very parameters; None if it had none.
        mean, variance: buffers with the statistics of the source, or what became of them, `(channels,)`.
        after: what timm's BatchNormAct2d does after the normalisation.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        """Takes over everything of a layer with running statistics."""
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.weight, self.bias, self.epsilon = norm.weight, norm.bias, norm.eps
        self.register_buffer("mean", norm.running_mean.detach().clone())
        self.register_buffer("variance", norm.running_var.detach().clone())
        self.after = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalises `(batch, channels, ...)` and applies the affine pair."""
        single = inputs.numel() == inputs.shape[1]
        statistics = Statistics(self.mean, self.variance) if single else self.statistics(inputs)
        outputs: Tensor = self.after(normalise(inputs, statistics, self.weight, self.bias, self.epsilon))
        return outputs

    @abstractmethod
    def statistics(self, inputs: Tensor) -> Statistics:
        """What to normalise `(batch, channels, ...)` with."""


class BlendedBatchNorm(StreamBatchNorm):
    """Weighs the source like `source_weight` images: (N source + n batch) / (N + n) with n images in the batch.

    For the mean and for the variance alike (Schneider et al. 2020, equation 1); keeps nothing from batch to batch.
    Where the source counts, the variance of the batch is the unbiased one, as released; otherwise the biased one.
    """

    def __init__(self, norm: _BatchNorm, source_weight: float) -> None:
        """Takes N, at least 0: 0 takes the statistics of the batch alone."""
        super().__init__(norm)
        self.source_weight = source_weight

    def statistics(self, inputs: Tensor) -> Statistics:
        """Those of the source and of the batch, weighed."""
        batch = batch_statistics(inputs, unbiased=self.source_weight > 0)
        share = len(inputs) / (self.source_weight + len(inputs))
        return batch if share == 1 else _towards(Statistics(self.mean, self.variance), batch, share)


class RunningBatchNorm(StreamBatchNorm):
    """Moves its statistics by `momentum` towards those of each batch, then normalises with them.

    This is the robust batch normalisation of RoTTA (Yuan et al. 2023, equation 2). The gradient of a loss goes through
    the part that the batch has in the statistics.

    Attributes:
        updating: whether a forward moves the statistics; otherwise they are used as they are.
    """

    def __init__(self, norm: _BatchNorm, momentum: float, updating: bool = True) -> None:
        """Takes the momentum, from 0 to 1."""
        super().__init__(norm)
        self.momentum = momentum
        self.updating = updating

    def statistics(self, inputs: Tensor) -> Statistics:
        """The running ones, with this batch in them if they are `updating`."""
        running = Statistics(self.mean, self.variance)
        if not self.updating:
            return running
        moved = _towards(running, batch_statistics(inputs), self.momentum)
        with torch.no_grad():
            self.mean.copy_(moved.mean)
            self.variance.copy_(moved.variance)
        return moved


class TwoPassBatchNorm(RunningBatchNorm):
    """While it is `updating` it normalises with the batch alone and moves its statistics; otherwise with these.

    So the running statistics are of what a layer sees when all layers before it use those of the batch, as in the train
    mode of PyTorch, whose unbiased variance they take in (further §1, BN-EMA).
    """

    def statistics(self, inputs: Tensor) -> Statistics:
        """Those of the batch while `updating`, the running ones otherwise."""
        running = Statistics(self.mean, self.variance)
        if not self.updating:
            return running
        moved = _towards(running, batch_statistics(inputs, unbiased=True), self.momentum)
        self.mean.copy_(moved.mean)
        self.variance.copy_(moved.variance)
        return batch_statistics(inputs)


Layer = TypeVar("Layer", bound=StreamBatchNorm)


def replace_batch_norms(network: nn.Module, method: str, make: Callable[[_BatchNorm], Layer]) -> dict[str, Layer]:
    """Replaces every BatchNorm of a network.

    Args:
        network: the network to edit.
        method: who asks, for the message.
        make: makes the new layer from the old one.

    Returns:
        The new layers by qualified name.

    Raises:
        InputError: if there is no BatchNorm, or one without running statistics.
    """
    found = batch_norms(network)
    kind = type(network).__name__
    if not found:
        raise InputError(
            f"{method} adapts the statistics of BatchNorm layers, and {kind} has no BatchNorm: choose a backbone with "
            "BatchNorm, such as digits-resnet-supervised"
        )
    for name, norm in found.items():
        if norm.running_mean is None or norm.running_var is None:
            raise InputError(
                f"{method} starts from the source's statistics, and the BatchNorm layer {name!r} of {kind} keeps none: "
                "choose a network trained with track_running_stats"
            )
    made: dict[str, Layer] = {}

    def replacement(norm: nn.Module) -> nn.Module:
        assert isinstance(norm, _BatchNorm)
        return make(norm)

    replace_modules(network, list(found), replacement, "BatchNorm layer")
    for name in found:
        made[name] = network.get_submodule(name)  # type: ignore[assignment]
    return made


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """All BatchNorm layers, of any number of dimensions, by qualified name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def batch_statistics(inputs: Tensor, *, unbiased: bool = False) -> Statistics:
    """Mean and variance of each channel of `(batch, channels, ...)`, both with a graph where the inputs have one.

    `unbiased` divides the sum of squares by one less than the number of values, of which there must be two.

    In two passes, which loses no digits where the mean is large, and on the CPU is several times as fast as
    `torch.var_mean` over several dimensions.
    """
    wide = widened(inputs)
    dims = (0, *range(2, inputs.ndim))
    mean = wide.mean(dims)
    variance = (wide - _along_channels(mean, inputs.ndim)).square().mean(dims)
    values = inputs.numel() // inputs.shape[1]
    return Statistics(mean, variance * (values / (values - 1)) if unbiased else variance)


def normalise(
    inputs: Tensor, statistics: Statistics, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Normalises `(batch, channels, ...)`; the gradient goes through the statistics too if they have one."""
    mean, variance = statistics
    if not mean.requires_grad:
        if weight is not None:
            mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        return functional.batch_norm(inputs, mean, variance, weight, bias, False, 0.0, epsilon)
    scale = (variance + epsilon).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    ndim = inputs.ndim
    return torch.addcmul(_along_channels(shift, ndim), widened(inputs), _along_channels(scale, ndim)).to(inputs.dtype)


def _towards(one: Statistics, other: Statistics, share: float) -> Statistics:
    pairs = ((mine.to(theirs.dtype), theirs) for mine, theirs in zip(one, other, strict=True))
    return Statistics(*(torch.lerp(mine, theirs, share) for mine, theirs in pairs))


def _along_channels(values: Tensor, ndim: int) -> Tensor:
    return values.view(-1, *[1] * (ndim - 2))
