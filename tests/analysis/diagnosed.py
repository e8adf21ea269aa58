"""Made-up diagnostics with every quantity that observers write, in plausible sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.analysis.conftest import ResultsFolder, measurement

Rows = list[dict[str, Any]]


def write_every_quantity(
    results: ResultsFolder,
    domains: Sequence[str] = ("snow", "fog", "frost"),
    *,
    samples: int = 8,
    batch: int = 4,
    blocks: int = 2,
    experts: int = 3,
    seeds: Sequence[int] = (0, 1),
) -> None:
    """Writes source, tent, two moetta (one collapsed), imse and moase cells on a continual stream.

    Args:
        results: where.
        domains: of the stream, one after the other.
        samples: of each domain.
        batch: samples in a batch.
        blocks: of the network, with two layers each.
        experts: in each layer.
        seeds: cells of each configuration.
    """
    layers = [f"blocks.{block}.norm{norm}" for block in range(blocks) for norm in (1, 2)]
    steps = len(domains) * samples // batch
    plan = (
        ("source", {}, 0.6),
        ("tent", {}, 0.7),
        ("moetta", {"lambda_balance": 1.0}, 0.74),
        ("moetta", {"lambda_balance": 0.0}, 0.4),
        ("imse", {}, 0.77),
        ("moase", {}, 0.72),
    )
    for seed in seeds:
        for number, (method, settings, accuracy) in enumerate(plan):
            random = np.random.default_rng([seed, number])
            make = _Maker(
                random, list(domains), layers, experts, steps, collapsed=settings.get("lambda_balance") == 0.0
            )
            results.add(
                method,
                seed,
                [int(hit) for hit in random.random(len(domains) * samples) < accuracy],
                settings=settings,
                domains=np.repeat(domains, samples).tolist(),
                segments=np.repeat(range(len(domains)), samples).tolist(),
                protocol={"stream": "continual", "domains": list(domains), "reset": "never"},
                usage=make.usage() if method == "moetta" else None,
                measured=make.rows(method),
                scalars=make.scalars(method),
                steps=steps,
            )


class _Maker:
    def __init__(
        self,
        random: np.random.Generator,
        domains: list[str],
        layers: list[str],
        experts: int,
        steps: int,
        *,
        collapsed: bool,
    ) -> None:
        self.random, self.domains, self.layers = random, domains, layers
        self.experts, self.steps, self.collapsed = experts, steps, collapsed
        self.measured_at = sorted({*range(0, steps, max(1, steps // 20)), steps - 1})
        self.ends = [(number + 1) * steps // len(domains) - 1 for number in range(len(domains))]

    def rows(self, method: str) -> Rows:
        rows = [*self._alignment(method), *self._forgetting(method), *self._features()]
        if method != "source":
            rows += self._displacement()
        of_method = {"moetta": self._moetta, "imse": self._imse, "moase": self._moase}
        return rows + (of_method[method]() if method in of_method else [])

    def usage(self) -> dict[str, list[float]]:
        return {layer: self.random.dirichlet(np.ones(self.experts)).tolist() for layer in self.layers}

    def scalars(self, method: str) -> dict[str, list[float | None]]:
        decay = np.exp(-np.arange(self.steps) / self.steps)
        names = {
            "moetta": {"threshold": 1.2, "balance_coefficient": 0.9, "balance_loss": 1.1, "effective_experts": 6.0},
            "imse": {"shift": 0.1, "shift_distance": 0.4, "bank_size": 3.0, "retrieved": 1.0, "diversity": 0.02},
        }.get(method, {})
        return {
            name: (level * decay + 0.05 * level * self.random.normal(size=self.steps)).tolist()
            for name, level in names.items()
        }

    def _along(self, quantity: str, first: float, last: float, spread: float = 0.03) -> Rows:
        rows = []
        for layer in self.layers:
            offset = self.random.normal(0, spread)
            for step in self.measured_at:
                part = step / max(1, self.steps - 1)
                value = first + (last - first) * part + offset + self.random.normal(0, spread / 5)
                rows.append(measurement(quantity, value, step=step, layer=layer))
        return rows

    def _alignment(self, method: str) -> Rows:
        end = {"tent": 0.035, "imse": 0.055}.get(method, 0.045)
        rows = [measurement("alignment_std_source", 0.05 + 0.002 * n, layer=x) for n, x in enumerate(self.layers)]
        rows += self._along("alignment_std", 0.05, end, 0.002)
        for name, shift in (("q10", -0.02), ("q50", -0.002), ("q90", 0.02)):
            rows += self._along(f"alignment_std_{name}", 0.05 + shift, end + shift, 0.002)
        return rows

    def _moetta(self) -> Rows:
        rows = self._along("expert_similarity_weight", 0.8, 0.57) + self._along("expert_similarity_bias", 0.74, 0.55)
        rows += self._along("top1_probability", 1 / self.experts, 0.9 if self.collapsed else 0.4)
        rows += self._along("load_balance", 1.0, 2.5 if self.collapsed else 1.05)
        rows += self._along("routing_change", 0.1, 0.5)
        for number, layer in enumerate(self.layers):
            bad = self.collapsed and number % 2 == 1
            table = self.random.dirichlet([0.05 if bad else 3.0] * self.experts, len(self.domains)) * 100
            if bad:
                table[:, 0] += 400
            rows += self._table("routing", table, layer)
            rows += [
                measurement("routing_information", 0.02 if bad else 0.3, layer=layer),
                measurement("routing_entropy", 0.3 if bad else 0.95, layer=layer),
                measurement("routing_collapse", float(bad), layer=layer),
            ]
        return rows

    def _imse(self) -> Rows:
        rows = self._along("code_drift", 0.0, 0.05, 0.005)
        for layer in self.layers:
            rows += [measurement("code_change", x, layer=layer, item=n) for n, x in enumerate((0.4, 0.1, -0.2, -0.3))]
        rows += self._cosines("code_similarity", 0.5)
        for tolerance, (precision, recall) in enumerate([(0.8, 0.7), (0.9, 0.8), (1.0, 0.9), (1.0, 0.9)]):
            f1 = 2 * precision * recall / (precision + recall)
            for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
                rows.append(measurement(f"shift_{name}", value, item=tolerance))
        rows.append(measurement("shift_tail_triggers", 1.0))
        rows += [
            measurement("bank_size", 1.0 + step * len(self.domains) // self.steps, step=step)
            for step in self.measured_at
        ]
        for number, (domain, end) in enumerate(zip(self.domains[1:], self.ends[:-1], strict=True), start=1):
            entries = ["source", *self.domains[:number]]
            weights = self.random.dirichlet(np.ones(len(entries)))
            rows += [
                measurement("retrieval", weight, step=end + 1, domain=domain, against=entry, item=item)
                for item, (entry, weight) in enumerate(zip(entries, weights.tolist(), strict=True))
            ]
        return rows

    def _moase(self) -> Rows:
        rows: Rows = []
        for layer in self.layers:
            for domain in self.domains:
                shape = np.exp(-((np.arange(14) - self.random.normal(8, 0.5)) ** 2) / 8)
                shares = [0.5, *(0.5 * shape / shape.sum()).tolist()]
                rows += [
                    measurement("hidden_histogram", share, layer=layer, domain=domain, item=n)
                    for n, share in enumerate(shares)
                ]
                rows.append(measurement("hidden_zero_share", 0.5, layer=layer, domain=domain))
            table = self.random.dirichlet(np.full(4, 5.0), len(self.domains))
            rows += self._table("router_weight", table, layer)
            for step in self.measured_at:
                energy = (0.0, 0.004, 0.96, 0.99)
                rows += [measurement("kept_energy", x, step=step, layer=layer, item=n) for n, x in enumerate(energy)]
            rows.append(measurement("kept_energy_alarm", 1.0, layer=layer))
            rows += [measurement("gate_mean", 0.25, layer=layer, item=item) for item in range(4)]
        return rows

    def _features(self) -> Rows:
        rows = [
            measurement("intra_class_scatter", self.random.uniform(10, 20), domain=domain) for domain in self.domains
        ]
        neighbours = zip(self.domains, self.domains[1:], strict=False)
        return rows + [
            measurement("js_divergence", self.random.uniform(0, 0.02), domain=a, against=b) for a, b in neighbours
        ]

    def _displacement(self) -> Rows:
        rows = self._cosines("displacement_cosine", 0.6)
        rows += [measurement("displacement_norm", self.random.uniform(1, 2), domain=domain) for domain in self.domains]
        rows += [measurement("displacement_cosine_mean", 0.6), measurement("displacement_cosine_min", 0.1)]
        return rows + [
            measurement("displacement_cosine_mean", self.random.uniform(0.3, 0.8), layer=x) for x in self.layers
        ]

    def _forgetting(self, method: str) -> Rows:
        rows = []
        loss = 0.0 if method == "source" else 0.2 if self.collapsed else 0.04
        for step in sorted({*self.measured_at, *self.ends}):
            rows.append(measurement("forgetting_accuracy", 0.97 - loss * step / self.steps, step=step, domain="clean"))
        for after, end in enumerate(self.ends):
            for on in range(after + 1):
                value = 0.7 - loss * (after - on) / len(self.ends) + self.random.normal(0, 0.01)
                place = {"step": end, "domain": self.domains[on], "against": self.domains[after]}
                rows.append(measurement("forgetting_accuracy", value, **place))
        rows.append(measurement("backward_transfer", -loss / 2))
        return [*rows, measurement("forgetting_clean_drop", -loss)]

    def _cosines(self, quantity: str, level: float) -> Rows:
        size = len(self.domains)
        values = self.random.normal(level, 0.2, (size, size)).clip(-0.3, 0.99)
        values = np.where(np.eye(size) > 0, 1.0, (values + values.T) / 2)
        return [
            measurement(quantity, float(value), domain=domain, against=against)
            for domain, row in zip(self.domains, values, strict=True)
            for against, value in zip(self.domains, row, strict=True)
            if not math.isnan(value)
        ]

    def _table(self, quantity: str, table: np.ndarray, layer: str) -> Rows:
        return [
            measurement(quantity, float(value), layer=layer, domain=domain, item=item)
            for domain, row in zip(self.domains, table, strict=True)
            for item, value in enumerate(row)
        ]
