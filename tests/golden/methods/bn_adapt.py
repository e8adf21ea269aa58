"""Adaptation of BatchNorm statistics: bethgelab's, and BN-EMA and BN-alpha of mariodoebler's repository."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.bn_adapt.method import BNAdapt


class BNAdaptFollower(Follower):
    """Translates a share of the batch into images that the source counts as."""

    method: BNAdapt
    name = "bn-adapt"
    exact_inputs = True
    translated = frozenset({"statistics", "N", "alpha", "momentum"})

    def settings(self) -> dict[str, Any]:
        """The kind of statistics with its one number."""
        hyper = self.case.hyper
        kind = hyper["statistics"]
        if kind == "test":
            return {"source_weight": 0.0}
        if kind == "bayesian":
            return {"source_weight": float(hyper["N"])}
        if kind == "alpha":
            return {"source_weight": self.case.batches.shape[1] * (1 - hyper["alpha"]) / hyper["alpha"]}
        if kind == "ema":
            return {"statistics": "ema", "momentum": hyper["momentum"]}
        raise InputError(f"statistics {kind!r} are not implemented: test, bayesian, alpha and ema are")

    def internals(self, step: int) -> Iterator[Comparison]:
        """Running statistics where they end."""
        for ours, published in (("mean", "running_mean"), ("variance", "running_var")):
            found = {f"{name}.{published}": getattr(layer, ours) for name, layer in self.method.layers.items()}
            yield from self.compare_final(step, "final/", found)


FOLLOWERS = {"bn_adapt": BNAdaptFollower}
