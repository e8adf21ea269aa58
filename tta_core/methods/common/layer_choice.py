"""Which normalisation layers a method trains, where it leaves out the last part of the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from tta_core.methods.common.surgery import norm_layers

TrainedNorms = Literal["all", "not_last_quarter", "legacy_names"]
"""Which normalisation layers are trained (mixed §2.4):

- `all`: every one.
- `not_last_quarter`: those before the last quarter of the network; neither these nor the final norm.
- `legacy_names`: the rule that SAR and DeYO released, which goes by names: for a ViT of 12 blocks, and for a ResNet, it
  is `not_last_quarter`; a deeper ViT loses blocks of its middle.
"""

LEGACY_PARTS = ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm.")
LEGACY_NAMES = ("norm",)
"""What a name must not contain, and not be, under `legacy_names`."""
LEGACY_PARTS_OF_24 = (*LEGACY_PARTS, "blocks.21", "blocks.22", "blocks.23")
"""Likewise in DPAL's release, which names the last blocks of a network of 24 too."""

UNITS = (
    re.compile(r"(?:^|.*\.)blocks\.\d+(?=\.|$)"),  # Transformers; ConvNeXt and Swin, all stages in one row.
    re.compile(r"(?:^|.*\.)layer\d+(?=\.|$)"),  # The stages of a ResNet.
)
"""What a network is counted in, by names: the first of these that finds two units or more."""


def trained_norms(
    rule: TrainedNorms, network: nn.Module, legacy_parts: Sequence[str] = LEGACY_PARTS
) -> Callable[[str], bool]:
    """Whether the normalisation layer of a qualified name is trained; the `keep` of `surgery.thaw_norms`.

    `not_last_quarter` counts blocks (`blocks.N`, of all stages in registration order), else the stages of a ResNet
    (`layerN`), else the normalisation layers themselves. The last quarter of these, rounded to whole ones as IMSE does,
    and whatever is registered after its start or after the last unit stays as it is: blocks 0 to 8 of 12 are trained.
    In a network that is counted by its normalisation layers at least the last stays as it is, and the first is trained.

    Args:
        rule: which to train.
        network: the network, before it is edited.
        legacy_parts: what a name must not contain under `legacy_names`.
    """
    if rule == "all":
        return lambda name: True
    if rule == "legacy_names":
        return lambda name: name not in LEGACY_NAMES and not any(part in name for part in legacy_parts)
    return frozenset(_before_last_quarter([name for name, _ in network.named_modules()], network)).__contains__


def _before_last_quarter(names: Sequence[str], network: nn.Module) -> list[str]:
    norms = [name for name, _ in norm_layers(network)]
    for pattern in UNITS:
        found = [match.group() for name in names if (match := pattern.match(name))]
        units = list(dict.fromkeys(found))
        if len(units) > 1:
            quarter = round(len(units) / 4)
            last = max(number for number, name in enumerate(names) if name == units[-1] or _within(name, units[-1]))
            end = names.index(units[-quarter]) if quarter else last + 1
            before = frozenset(names[:end])
            return [name for name in norms if name in before]
    return norms[: max(1, len(norms) - max(1, round(len(norms) / 4)))]


def _within(name: str, unit: str) -> bool:
    return name.startswith(f"{unit}.")
