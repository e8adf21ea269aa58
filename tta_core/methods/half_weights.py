"""Half-precision copies of frozen weights: autocast keeps none, and would cast them in every forward."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn
from torch.nn import functional

LAYERS = (nn.Linear, nn.Conv2d)
"""The layers whose weights autocast casts. Subclasses may do anything else with theirs."""


@cache
def casts(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether autocast, which is enabled, casts there to that type: a device may be registered without such rules."""
    one = torch.ones(1, 1, device=device)
    return functional.linear(one, one).dtype == dtype


class HalfWeights:
    """Lends layers their frozen weights in half precision while autocast is enabled; logits stay the same bit for bit.

    The copies cost half of the memory of these weights.
    """

    def __init__(self, networks: Iterable[nn.Module], trained: Collection[str]) -> None:
        """Finds the weights.

        Args:
            networks: whose layers get copies.
            trained: qualified names of the parameters that move, in one of the networks at least.
        """
        self._places = [
            (layer._parameters, own, parameter)
            for network in networks
            for name, layer in network.named_modules()
            if type(layer) in LAYERS
            for own, parameter in layer.named_parameters(recurse=False)
            if parameter.dtype == torch.float32 and f"{name}.{own}" not in trained
        ]
        self._copies: dict[nn.Parameter, tuple[int, nn.Parameter]] = {}

    @contextmanager
    def lent(self, device: torch.device) -> Iterator[None]:
        """Puts the copies in place inside; does nothing if autocast is not enabled for the device, or casts nothing."""
        if not (torch.is_autocast_enabled(device.type) and casts(device, torch.get_autocast_dtype(device.type))):
            yield
            return
        dtype = torch.get_autocast_dtype(device.type)
        for parameters, own, parameter in self._places:
            parameters[own] = self._copy(parameter, dtype)
        try:
            yield
        finally:
            for parameters, own, parameter in self._places:
                parameters[own] = parameter

    def _copy(self, parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
        """The copy of a parameter, made anew if that was written to."""
        version, copy = self._copies.get(parameter, (-1, parameter))
        if version != parameter._version or copy.dtype != dtype:
            copy = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
            self._copies[parameter] = parameter._version, copy
        return copy
