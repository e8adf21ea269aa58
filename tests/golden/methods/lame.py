"""LAME: its release, and FOA's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.lame.laplacian import PROBABILITY_EPSILON


class LAMEFollower(Follower):
    """Compares the assigned probabilities: of very small ones the logarithms are rounding."""

    name = "lame"
    scored = "probabilities"
    exact_inputs = True
    translated = frozenset(
        {
            "affinity", "knn", "force_symmetry", "bound_lambda", "max_steps", "energy_tolerance", "probability_epsilon",
        }
    )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """All options; the number that is added to probabilities is a constant here."""
        hyper = self.case.hyper
        if hyper["probability_epsilon"] != PROBABILITY_EPSILON:
            raise InputError(f"probability_epsilon must be {PROBABILITY_EPSILON}, as released")
        return {
            "affinity": hyper["affinity"].lower(),
            "neighbours": hyper["knn"],
            "symmetric": hyper["force_symmetry"],
            "lambda_laplacian": float(hyper["bound_lambda"]),
            "max_steps": hyper["max_steps"],
            "tolerance": hyper["energy_tolerance"],
        }

    def step(self, step: int) -> Tensor:
        """Takes one step and returns the probabilities."""
        self.logits = super().step(step)
        return self.logits.exp()

    def internals(self, step: int) -> Iterator[Comparison]:
        """In double precision the logarithms and the iterations; in single precision rounding ends the iteration."""
        if self.dtype == torch.float64:
            yield from self.compare("logits", step, self.logits)
            yield from self.compare("iterations", step, self.method.record["iterations"], 0)


FOLLOWERS = {"lame": LAMEFollower}
