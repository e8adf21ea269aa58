"""What methods with experts tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from tta_core.methods.base import Diagnostics


class Counted(Protocol):
    """A layer that knows how much each of its experts was used since the last reset: `usage` `(experts,)`."""

    usage: Tensor


def expert_usage(layers: Mapping[str, Counted]) -> Diagnostics:
    """`expert_usage`: share of each expert, by layer."""
    return {
        "expert_usage": {
            name: (layer.usage / layer.usage.sum().clamp(min=1)).tolist() for name, layer in layers.items()
        }
    }
