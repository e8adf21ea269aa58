"""Finding and replacing modules of a network. Replacing nothing is an error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from timm.layers import RmsNorm, RmsNorm2d, RmsNorm2dFp32, RmsNormFp32
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from tta_core.backbones.segformer import SegFormer
from tta_core.backbones.spec import NetworkKind
from tta_core.errors import InputError

RMS_NORMS = (nn.RMSNorm, RmsNorm, RmsNorm2d, RmsNormFp32, RmsNorm2dFp32)

NORM_TYPES = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, _InstanceNorm, *RMS_NORMS)
"""The normalisation layers that test-time adaptation adapts, of any number of dimensions and synchronised ones too.

timm's layers are subclasses of these but for RMS norms.
"""


def network_kinds(network: nn.Module) -> tuple[NetworkKind, ...]:
    """What kind of network it is, in the words of method specs."""
    if isinstance(network, SegFormer):
        return ("segformer",)
    kinds: list[NetworkKind] = []
    if isinstance(network, VisionTransformer):
        kinds.append("transformer")
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        kinds.append("batch-norm")
    return tuple(kinds)


def norm_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """All normalisation layers with an affine pair, with their qualified names, in registration order."""
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, NORM_TYPES) and module.weight is not None
    ]


def thaw_norms(network: nn.Module, method: str, keep: Callable[[str], bool] = lambda name: True) -> None:
    """Thaws weight and bias of the normalisation layers and lets BatchNorm use batch statistics (mixed §2.0).

    Args:
        network: the network to edit.
        method: who trains them, for the message.
        keep: whether the layer of a qualified name is one of them.

    Raises:
        InputError: if there are none.
    """
    norms = [norm for name, norm in norm_layers(network) if keep(name)]
    if not norms:
        raise InputError(f"{method} adapts normalisation layers, and {type(network).__name__} has none for it")
    use_batch_statistics(network)
    for norm in norms:
        norm.requires_grad_(True)


def thaw_weights(network: nn.Module, method: str, owners: Collection[str] | None = None) -> None:
    """Thaws every parameter that is literally called weight or bias (mixed §2.6).

    Class tokens, position embeddings and the factors of layer scale have other names.

    Args:
        network: the network to edit.
        method: who trains them, for the message.
        owners: qualified names of the modules whose parameters are thawed; None for all.

    Raises:
        InputError: if there are none.
    """
    thawed = False
    for name, parameter in network.named_parameters():
        owner, _, own_name = name.rpartition(".")
        if own_name in ("weight", "bias") and (owners is None or owner in owners):
            parameter.requires_grad_(True)
            thawed = True
    if not thawed:
        where = "no" if owners is None else "no normalisation layer with a"
        raise InputError(f"{method} trains weights and biases, and {type(network).__name__} has {where} weight or bias")


def replace_modules(
    network: nn.Module, names: Sequence[str], replacement: Callable[[nn.Module], nn.Module], what: str
) -> None:
    """Replaces the named modules in place.

    Args:
        network: the network to edit.
        names: qualified names, as in `named_modules`.
        replacement: makes the new module from the old one.
        what: what is being replaced, for the message.

    Raises:
        InputError: if there is nothing to replace.
    """
    if not names:
        raise InputError(f"no {what} to replace in {type(network).__name__}: choose a backbone that has some")
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = network.get_submodule(parent)
        setattr(owner, child, replacement(getattr(owner, child)))


def use_batch_statistics(network: nn.Module) -> None:
    """Makes every BatchNorm normalise with the statistics of the current batch, in eval mode too.

    A channel of which a batch shows a single value has no variance there, and the statistics of the source stand in.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.register_buffer("source_mean", module.running_mean, persistent=False)
            module.register_buffer("source_variance", module.running_var, persistent=False)
            module.track_running_stats = False
            module.num_batches_tracked = None
            _forget_source(module)
            module.register_forward_pre_hook(_recall_source)
            module.register_forward_hook(_forget_source, always_call=True)


def _recall_source(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if inputs[0].numel() == inputs[0].shape[1]:
        norm.running_mean, norm.running_var = norm.source_mean, norm.source_variance


def _forget_source(norm: nn.Module, *_: Any) -> None:
    norm._buffers.update(running_mean=None, running_var=None)


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether what the network says to an image depends on the others in the batch."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is None for m in network.modules())


def count_parameters(parameters: Sequence[nn.Parameter]) -> int:
    """Number of scalars in the given parameters."""
    return sum(parameter.numel() for parameter in parameters)
