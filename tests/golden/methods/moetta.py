"""MoETTA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.case import Case
from tests.golden.follower import Comparison, Follower
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.moetta.router import Decision, load_balance


class MoETTAFollower(Follower):
    """The release weights entropies with ln 1000 whatever the classes; our margins are in units of ln(classes).

    Attributes:
        decisions: of each layer in the step just taken, in the order of the published layers.
    """

    name = "moetta"
    translated = frozenset(
        {
            "lr", "num_expert", "topk", "lb_coeff", "e_margin_coeff", "disabled_layer",
            "dynamic_lb", "dynamic_threshold", "weight_by_prob", "weight_by_entropy", "randomness",
            "activate_shared_expert", "route_penalty", "decay", "self_router", "samplewise", "normal_layer",
            "pass_through_coeff", "global_router_idx",
        }
    )  # fmt: skip

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        super().__init__(case, dtype)
        self.layers = [str(name) for name in case.trace.get("extra/__layers__", [])]
        self.decisions: dict[str, Decision] = {}
        for name, router in self.method.routers.items():
            router.decide = self._watched(name, router.decide)

    def _watched(self, name: str, decide: Callable[..., Decision]) -> Callable[..., Decision]:
        def watched(*arguments: Any) -> Decision:
            self.decisions[name] = decide(*arguments)
            return self.decisions[name]

        return watched

    def settings(self) -> dict[str, Any]:
        """All options of the manifest."""
        hyper = self.case.hyper
        unaliased = any("removes the aliasing" in patch for patch in self.case.manifest["patches"])
        disabled, read_by_router = set(hyper["disabled_layer"]), hyper["global_router_idx"]
        shared = {}
        if hyper["self_router"]:
            # The layers have their own routers; all that is left of the global one is what it does to earlier norms.
            disabled |= set(range(read_by_router)) - set(hyper["normal_layer"])
        else:
            shared = {"router": "global", "global_router_norm": read_by_router}
        return shared | {
            "lr": hyper["lr"],
            "num_experts": hyper["num_expert"],
            "top_k": hyper["topk"],
            "lambda_balance": hyper["lb_coeff"],
            "dynamic_balance": hyper["dynamic_lb"],
            "dynamic_threshold": hyper["dynamic_threshold"],
            "weight_by_probability": hyper["weight_by_prob"],
            "weight_by_entropy": hyper["weight_by_entropy"],
            "entropy_margin": hyper["e_margin_coeff"] * math.log(1000) / math.log(self.case.num_classes),
            "expert_init_ratio": hyper["randomness"],
            "train_shared_expert": hyper["activate_shared_expert"],
            "route_penalty": hyper["route_penalty"],
            "route_penalty_decay": hyper["decay"],
            "samplewise_routing": hyper["samplewise"],
            "disabled_norms": sorted(disabled),
            "normal_norms": hyper["normal_layer"],
            "detach_coefficients": not hyper["pass_through_coeff"],
            "threshold_mode": "paper" if unaliased else "official",
        }

    def step(self, step: int) -> Tensor:
        """Takes one step and returns the logits `(batch, classes)`."""
        self.logits = super().step(step)
        return self.logits

    def internals(self, step: int) -> Iterator[Comparison]:
        """Selection, threshold, losses; experts, coefficients and penalties of every layer."""
        record = self.method.record
        entropy = softmax_entropy(self.logits)
        yield from self._compare("entropy", entropy, step)
        yield from self._compare("batch_mean_entropy", entropy.mean(), step)
        yield from self._compare("threshold", record["threshold"], step)
        yield from self._compare("lb_coeff", record["balance_coefficient"], step)
        yield from self._compare("n_selected", record["selected"], step, exact=True)
        yield from self._compare("mask_selected", entropy <= record["threshold"], step, exact=True)
        # The mean over an empty selection is not a number in the release.
        if not np.isnan(self._published("loss", step)).any():
            yield from self._compare("loss", record["loss"], step)
        if self.layers and self.method.routers.keys() >= set(self.layers):
            yield from self._routing(step)

    def _routing(self, step: int) -> Iterator[Comparison]:
        decisions = [self.decisions[name] for name in self.layers]
        counts = torch.stack([decision.chosen.sum(dim=0) for decision in decisions])
        yield from self._compare("count", counts, step, exact=True)
        balance = torch.stack([load_balance(d.probabilities, n) for d, n in zip(decisions, counts, strict=True)])
        if not self.case.hyper["samplewise"]:
            balance = self.method.record["balance_loss"].expand(len(decisions))
        yield from self._compare("lb_loss", balance, step)
        penalty = torch.stack([self.method.routers[name].penalty for name in self.layers])
        yield from self._compare("penalty", penalty, step)
        chosen = self._published("topk", step)
        if chosen.size:
            index = torch.from_numpy(chosen.astype(np.int64))
            ours = torch.stack([decision.chosen for decision in decisions])
            yield Comparison("topk", ours, torch.zeros_like(ours).scatter(-1, index, 1.0), 0)
            coefficients = torch.stack([decision.coefficients.detach() for decision in decisions])
            yield from self._compare("coeff_topk", coefficients.gather(-1, index), step)

    def _published(self, quantity: str, step: int) -> np.ndarray[Any, Any]:
        """Of this precision, else of float32, whose decisions are the same; empty if nothing was recorded."""
        recorded = self.case.expected(quantity, self.dtype)
        recorded = recorded if recorded is not None else self.case.expected(quantity, torch.float32)
        return np.asarray(recorded[step]) if recorded is not None else np.empty(0)

    def _compare(self, quantity: str, ours: Tensor, step: int, *, exact: bool = False) -> Iterator[Comparison]:
        own_precision = self.case.expected(quantity, self.dtype) is not None
        published = self._published(quantity, step)
        if published.size:
            tolerance = self.case.tolerance("loss", self.dtype if own_precision else torch.float32)
            yield Comparison(quantity, ours.detach(), published, 0 if exact else tolerance)


FOLLOWERS = {"moetta": MoETTAFollower}
