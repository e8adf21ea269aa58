"""Hidden activations of sparse experts: distribution, kept energy, router and gate (moase §7.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tta_core.diagnostics.capture import FirstForward
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene
from tta_core.methods.base import Method

EDGES = tuple(10 ** (half / 2) for half in range(-8, 5))
"""Borders of the bins, 1e-4 to 1e2, two bins a decade. Bin 0 holds the exact zeros, bin 1 what is above 0 and at most
the first border, the last bin what is above the last border."""

LOWEST_ENERGY = 0.01
"""Kept share of the squared activations below which an expert passes on next to nothing."""


class Inspected(NamedTuple):
    """What one layer shows of one forward.

    Attributes:
        above: `(batch, edges + 1)`, hidden activations of each sample above 0 and above each of `EDGES`.
        size: hidden activations of one sample.
        routing: `(batch, experts)`.
        kept_energy, gate: `(experts,)`.
    """

    above: Tensor
    size: int
    routing: Tensor
    kept_energy: Tensor
    gate: Tensor


class Activations(Observer):
    """Turns on the adapters' `inspect` at measuring steps, and at the middle step of each segment.

    The middle steps make sure that short segments are seen, too. What is reported by domain or for the whole stream is
    over these steps.
    """

    remembers = ("_kept",)
    memory_types = (Inspected,)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._layers: Mapping[str, Any] = _inspectable(scene.method)
        self._first = FirstForward(self._layers, self._read)
        self._middles = {(segment.first_step + segment.last_step) // 2 for segment in scene.segments}
        self._kept: list[tuple[int, slice | Tensor, Mapping[str, Inspected]]] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether the network has adapters that can be inspected."""
        return bool(_inspectable(method))

    def before_step(self, moment: Moment) -> None:
        """Asks the adapters for an inspection of the coming forward."""
        if moment.measuring or moment.step in self._middles:
            self._inspect(True)
            self._first.arm()

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Keeps the inspection."""
        if moment.measuring or moment.step in self._middles:
            self._inspect(False)
            self._first.disarm()
            self._kept.append((moment.step, moment.positions, self._first.kept))

    def measurements(self) -> list[Measurement]:
        """Histograms, zeros and router weights by domain; energy by step; alarms and mean gates."""
        found: list[Measurement] = []
        for layer in self._layers:
            kept = [(step, positions, layers[layer]) for step, positions, layers in self._kept if layer in layers]
            if kept:
                found += self._by_domain(layer, [(positions, inspected) for _, positions, inspected in kept])
                found += _energy(layer, [(step, inspected) for step, _, inspected in kept])
                gate = torch.stack([inspected.gate for _, _, inspected in kept]).mean(dim=0)
                found += [Measurement("gate_mean", v, layer=layer, item=item) for item, v in enumerate(gate.tolist())]
        return found

    def _by_domain(self, layer: str, kept: list[tuple[slice | Tensor, Inspected]]) -> list[Measurement]:
        domain = torch.cat([self.scene.domain[positions] for positions, _ in kept])
        above = torch.cat([inspected.above for _, inspected in kept]).double()
        routing = torch.cat([inspected.routing for _, inspected in kept]).double()
        found: list[Measurement] = []
        for number in domain.unique().tolist():
            name, here = self.scene.order.domains[number], domain == number
            shares = bin_shares(above[here].mean(dim=0), kept[0][1].size).tolist()
            found += [
                Measurement("hidden_histogram", share, layer=layer, domain=name, item=item)
                for item, share in enumerate(shares)
            ]
            found.append(Measurement("hidden_zero_share", shares[0], layer=layer, domain=name))
            found += [
                Measurement("router_weight", weight, layer=layer, domain=name, item=expert)
                for expert, weight in enumerate(routing[here].mean(dim=0).tolist())
            ]
        return found

    def _inspect(self, inspect: bool) -> None:
        for adapter in self._layers.values():
            adapter.inspect = inspect
            adapter.inspection = None  # The activations of a layer are large.

    def _read(self, name: str, adapter: Any, _: Tensor) -> Inspected:
        inspection: Mapping[str, Tensor] = adapter.inspection
        routing: Tensor = adapter.routing
        with self.scene.off_clock():
            hidden = inspection["hidden"].flatten(1)
            above = torch.stack([(hidden > edge).sum(dim=1) for edge in (0.0, *EDGES)], dim=1)
        adapter.inspection = None
        return Inspected(above, hidden.shape[1], routing, inspection["kept_energy"], inspection["gate_mean"])


def bin_shares(above: Tensor, size: int) -> Tensor:
    """Share of values in each bin `(edges + 2,)` from the numbers `(edges + 1,)` above 0 and above each edge."""
    at_least = torch.cat([above.new_tensor([size]), above, above.new_zeros(1)])
    return -at_least.diff() / size


def _energy(layer: str, kept: list[tuple[int, Inspected]]) -> list[Measurement]:
    energies = torch.stack([inspected.kept_energy for _, inspected in kept])
    found = [
        Measurement("kept_energy", value, step=step, layer=layer, item=expert)
        for (step, _), values in zip(kept, energies.tolist(), strict=True)
        for expert, value in enumerate(values)
    ]
    alarm = bool((energies.nanmean(dim=0) < LOWEST_ENERGY).any())
    return [*found, Measurement("kept_energy_alarm", float(alarm), layer=layer)]


def _inspectable(method: Method[Any]) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in method.network.named_modules()
        if hasattr(module, "inspect") and hasattr(module, "inspection")
    }
