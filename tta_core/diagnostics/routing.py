"""Routing: which expert serves which domain, how evenly, and how far the routers have moved (moetta §7.3)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr, rel_entr
from torch import Tensor, nn
from torch.nn import functional

from tta_core.diagnostics.capture import FirstForward
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene
from tta_core.methods.base import Method
from tta_core.methods.moetta.router import SharedRouter, load_balance

LOWEST_ENTROPY = 0.5
"""Share of the largest usage entropy below which routing has collapsed."""

LARGEST_EXCESS = 7 / 16
"""Largest share above balance, as a part of the way from balance to a single expert, before routing has collapsed."""

ROUNDING = 1e-9
"""A share or an entropy at its limit, up to rounding, is within it."""


class Routed(NamedTuple):
    """What one layer shows of one forward; what a layer does not expose is None.

    Attributes:
        shares: `(batch, experts)`, the part that each expert has in serving each sample; rows sum to 1.
        probabilities: `(batch, experts)`, of the router.
        router_input: `(batch, dim)`.
    """

    shares: Tensor
    probabilities: Tensor | None
    router_input: Tensor | None


class Routing(Observer):
    """Sums `(domains, experts)` of each layer at every step, and three scalars a layer at measuring steps.

    `routing_change` compares with the router as it was before the stream, fed the same input of the layer.
    """

    remembers = ("_sums", "_scalars")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        layers = _routed_layers(scene.method)
        self._first = FirstForward(layers, _read)
        self._domain = scene.domain
        self._domains = torch.arange(len(scene.order.domains), device=scene.device).unsqueeze(1)
        self._sums: dict[str, Tensor] = {}
        self._routers = {
            name: (router.weight.detach().clone(), router.bias.detach().clone())
            for name, layer in layers.items()
            if (router := _router(layer)) is not None
        }
        self._scalars: list[tuple[int, str, str, Tensor]] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether a layer exposes its `routing`."""
        return bool(_routed_layers(method))

    def before_step(self, moment: Moment) -> None:
        """Reads the coming forward."""
        self._first.arm()

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Adds to the sums; at measuring steps keeps the scalars."""
        self._first.disarm()
        # functional.one_hot would wait for the device.
        member = (self._domains == self._domain[moment.positions]).double()
        for width in sorted({routed.shares.shape[-1] for routed in self._first.kept.values()}):
            kept = {n: routed.shares for n, routed in self._first.kept.items() if routed.shares.shape[-1] == width}
            sums = member @ torch.stack(list(kept.values())).double()
            for name, added in zip(kept, sums, strict=True):
                self._sums[name] = self._sums[name] + added if name in self._sums else added
        if moment.measuring:
            for name, routed in self._first.kept.items():
                self._measure(moment.step, name, routed)

    def _measure(self, step: int, layer: str, routed: Routed) -> None:
        if routed.probabilities is not None:
            highest = routed.probabilities.max(dim=-1).values.mean()
            self._scalars.append((step, "top1_probability", layer, highest))
            balance = load_balance(routed.probabilities, routed.shares.sum(dim=0))
            self._scalars.append((step, "load_balance", layer, balance))
        if routed.router_input is not None and layer in self._routers:
            weight, bias = self._routers[layer]
            at_first = functional.linear(routed.router_input.to(weight.dtype), weight, bias).argmax(dim=-1)
            change = (routed.shares.argmax(dim=-1) != at_first).double().mean()
            self._scalars.append((step, "routing_change", layer, change))

    def measurements(self) -> list[Measurement]:
        """Tables, information, entropy and alarm of each layer; the scalars."""
        found = [
            Measurement(quantity, float(value), step=step, layer=layer)
            for step, quantity, layer, value in self._scalars
        ]
        for layer, sums in self._sums.items():
            table = sums.cpu().numpy()
            found += [
                Measurement("routing", float(value), layer=layer, domain=domain, item=expert)
                for domain, row in zip(self.scene.order.domains, table, strict=True)
                for expert, value in enumerate(row)
            ]
            usage = table.sum(axis=0) / table.sum()
            found += [
                Measurement("routing_information", mutual_information(table), layer=layer),
                Measurement("routing_entropy", relative_entropy(usage), layer=layer),
                Measurement("routing_collapse", float(collapsed(usage)), layer=layer),
            ]
        return found


def mutual_information(table: NDArray[np.floating]) -> float:
    """Mutual information in nat between the rows and the columns of a table of counts."""
    joint = table / table.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return max(0.0, float(rel_entr(joint, independent).sum()))


def relative_entropy(shares: NDArray[np.floating]) -> float:
    """Entropy of shares `(experts,)` in units of the largest possible one; NaN for a single expert."""
    return float(entr(shares).sum()) / math.log(len(shares)) if len(shares) > 1 else math.nan


def collapsed(shares: NDArray[np.floating]) -> bool:
    """Whether the usage `(experts,)` of a layer has collapsed onto few experts (moetta §7.3).

    The limits there are for nine experts: one above 50 %, or a usage entropy below half the largest. Two experts
    in perfect balance have 50 % each, so the limit on the share is taken as a part of the way from balance
    (1 / experts) to a single expert (1): 7/16, which is 50 % for nine experts, 58 % for four and 72 % for two. A single
    expert cannot collapse.
    """
    if len(shares) == 1:
        return False
    balance = 1 / len(shares)
    limit = balance + LARGEST_EXCESS * (1 - balance) + ROUNDING
    return float(shares.max()) > limit or relative_entropy(shares) < LOWEST_ENTROPY - ROUNDING


def _routed_layers(method: Method[Any]) -> dict[str, nn.Module]:
    return {name: module for name, module in method.network.named_modules() if hasattr(module, "routing")}


def _router(layer: nn.Module) -> nn.Linear | None:
    """The linear layer that routes, if there is one: the layer's own, or the one that it shares with others."""
    router = getattr(layer, "router", None)
    if isinstance(router, SharedRouter):
        router = router.router
    return router if isinstance(router, nn.Linear) else None


def _read(name: str, layer: Any, _: Tensor) -> Routed:
    shares: Tensor = layer.routing
    probabilities, router_input = getattr(layer, "probabilities", None), getattr(layer, "router_input", None)
    return Routed(shares.detach(), probabilities, router_input)
