"""The linear layers that IMSE decomposes, by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tta_core.errors import InputError
from tta_core.methods.imse.layers import SpectralLinear, replace_by_spectral

HOLDERS = ("Attention", "Mlp")
"""Names of the classes whose linear layers are decomposed (imse §1.1)."""


def decompose_layers(
    network: VisionTransformer, components: Sequence[str], decompose_qkv: bool
) -> list[tuple[int, str, SpectralLinear]]:
    """Puts a spectral layer in place of each linear layer of the given kinds.

    Args:
        network: the network to edit.
        components: paths in a block, such as `attn.qkv`.
        decompose_qkv: whether queries, keys and values become three layers.

    Returns:
        Block, qualified name and layer, in the order of the network.

    Raises:
        InputError: if a block has no such layer.
    """
    names = [f"blocks.{block}.{component}" for block in range(len(network.blocks)) for component in components]
    modules = dict(network.named_modules())
    for name in names:
        _check_linear(modules, name)
    fused = [name for name in names if decompose_qkv and name.endswith(".qkv")]
    if fused:
        replace_by_spectral(network, fused, split=True)
    if len(names) > len(fused):
        replace_by_spectral(network, [name for name in names if name not in fused])
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, SpectralLinear)]
    return [(int(name.split(".")[1]), name, layer) for name, layer in layers]


def _check_linear(modules: Mapping[str, nn.Module], name: str) -> None:
    holder, _, layer = name.rpartition(".")
    if type(modules.get(holder)).__name__ not in HOLDERS or not isinstance(modules.get(name), nn.Linear):
        raise InputError(
            f"imse needs a linear layer {name!r} in a module of class {' or '.join(HOLDERS)}, and this network has "
            f"none: choose another vision transformer, or leave {layer!r} out of components"
        )
