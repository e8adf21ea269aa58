"""MoETTA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tests.golden.follower import Comparison, Follower


class MoETTAFollower(Follower):
    """The release weights entropies with ln 1000 whatever the classes; our margins are in units of ln(classes)."""

    name = "moetta"
    translated = frozenset(
        {
            "lr", "num_expert", "topk", "lb_coeff", "e_margin_coeff", "disabled_layer",
            "dynamic_lb", "dynamic_threshold", "weight_by_prob", "weight_by_entropy", "randomness",
            "activate_shared_expert", "route_penalty", "decay", "self_router", "samplewise", "normal_layer",
            "pass_through_coeff", "global_router_idx",
        }
    )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """All options of the manifest."""
        hyper = self.case.hyper
        unaliased = any("removes the aliasing" in patch for patch in self.case.manifest["patches"])
        return {
            "lr": hyper["lr"],
            "num_experts": hyper["num_expert"],
            "top_k": hyper["topk"],
            "lambda_balance": hyper["lb_coeff"],
            "entropy_margin": hyper["e_margin_coeff"] * math.log(1000) / math.log(self.case.num_classes),
            "disabled_norms": hyper["disabled_layer"],
            "threshold_mode": "paper" if unaliased else "official",
        }

    def internals(self, step: int) -> Iterator[Comparison]:
        """Number of selected samples, threshold."""
        record, expected = self.method.record, self.case.expected
        selected, threshold = expected("n_selected", self.dtype), expected("threshold", self.dtype)
        if selected is not None:
            yield Comparison("selected", record["selected"], selected[step], 0)
        if threshold is not None:
            tolerance = self.case.tolerance("loss", self.dtype)
            yield Comparison("threshold", record["threshold"], threshold[step], tolerance)
