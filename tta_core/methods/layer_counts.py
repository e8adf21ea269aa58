"""How many layers of each kind a network has, and how many of them a method takes hold of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn


class LayerCount(NamedTuple):
    """Layers of one kind: how many were `found`, and how many are `taken`, which is trained or replaced."""

    found: int
    taken: int

    @property
    def left(self) -> int:
        """How many stay as they are."""
        return self.found - self.taken


def layers_with_parameters(network: nn.Module) -> list[nn.Module]:
    """The modules that hold parameters themselves."""
    return [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]


def count_layers(layers: Sequence[nn.Module], network: nn.Module) -> Mapping[str, LayerCount]:
    """Counts by the name of the class: kinds of which a method takes any, and normalisation layers in any case.

    Args:
        layers: those of the network before a method edited it.
        network: the network after that.
    """
    there = set(network.modules())
    found, taken = Counter[str](), Counter[str]()
    for layer in layers:
        kind = type(layer).__name__
        found[kind] += 1
        taken[kind] += layer not in there or any(p.requires_grad for p in layer.parameters(recurse=False))
    shown = [kind for kind in sorted(found) if taken[kind] or "norm" in kind.lower()]
    return {kind: LayerCount(found[kind], taken[kind]) for kind in shown}


def layers_values(counts: Mapping[str, LayerCount]) -> dict[str, dict[str, int]]:
    """The counts as plain values, ready for JSON."""
    return {kind: {"found": each.found, "taken": each.taken, "left": each.left} for kind, each in counts.items()}


def layers_text(values: Mapping[str, Mapping[str, int]]) -> str:
    """`layers_values` for people, such as `LayerNorm 5 of 7 (2 left)`."""
    return ", ".join(
        f"{kind} {each['taken']} of {each['found']}" + (f" ({each['left']} left)" if each["left"] else "")
        for kind, each in values.items()
    )
