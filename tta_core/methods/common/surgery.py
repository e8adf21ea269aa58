"""Finding and replacing modules of a network. Replacing nothing is an error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tta_core.backbones.spec import NetworkKind
from tta_core.errors import InputError

NORM_TYPES = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
"""The normalisation layers that test-time adaptation adapts; timm's LayerNorm2d is a LayerNorm."""


def network_kinds(network: nn.Module) -> tuple[NetworkKind, ...]:
    """What kind of network it is, in the words of method specs."""
    kinds: list[NetworkKind] = []
    if isinstance(network, VisionTransformer):
        kinds.append("transformer")
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
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
    """Makes every BatchNorm2d normalise with the statistics of the current batch, in eval mode too."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = None
            module.running_var = None
            module.num_batches_tracked = None


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether what the network says to an image depends on the others in the batch."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in network.modules())


def count_parameters(parameters: Sequence[nn.Parameter]) -> int:
    """Number of scalars in the given parameters."""
    return sum(parameter.numel() for parameter in parameters)
