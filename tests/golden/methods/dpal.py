"""DPAL."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError

COUNTS = {"n_reliable": "reliable", "n_selected": "selected", "event_reset": "reset"}
VALUES = {"loss_first": "first_loss", "loss": "loss", "similarity": "similarity", "ema": "ema"}
"""Published name -> our scalar: whole numbers, which must agree exactly, and others."""

LAYERS = {"fc1": "hidden", "fc2": "output"}


class DPALFollower(Follower):
    """Takes the published domain tokens and predictors, which are zero where none are stored."""

    name = "dpal"
    exact_inputs = True
    translated = frozenset(
        {
            "norm_lr", "prompt_lr", "predictor_lr", "momentum", "rho", "margin_e0", "nominal_batch_size",
            "reset_threshold_effective", "num_prompt_tokens", "prompt_deep",
        }
    )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """All options; one token in every block is what is published."""
        hyper = self.case.hyper
        if hyper["num_prompt_tokens"] != 1 or not hyper["prompt_deep"]:
            raise InputError("other domain tokens than one in each block are not implemented")
        return {
            "lr": hyper["norm_lr"],
            "token_lr": hyper["prompt_lr"],
            "predictor_lr": hyper["predictor_lr"],
            "momentum": hyper["momentum"],
            "rho": hyper["rho"],
            "entropy_margin": hyper["margin_e0"] / math.log(self.case.num_classes),
            "reset_threshold": hyper["reset_threshold_effective"],
        }

    def initial(self) -> dict[str, Tensor]:
        """Tokens by block, and the predictors that are stored."""
        published = self.case.tensors("extra/", self.dtype)
        found = {f"blocks.{block}.domain_token": token for block, token in enumerate(published.pop("domain_tokens"))}
        for name, value in published.items():
            _, block, layer, part = name.split(".")
            found[f"blocks.{block}.noise_predictor.{LAYERS[layer]}.{part}"] = value
        return found

    def internals(self, step: int) -> Iterator[Comparison]:
        """Counts, losses, similarity, moving average and resets, where the release has a number."""
        for names, tolerance in ((COUNTS, 0.0), (VALUES, self.case.tolerance("loss", self.dtype))):
            for published, ours in names.items():
                for comparison in self.compare(published, step, self.method.record[ours], tolerance):
                    if np.isfinite(np.asarray(comparison.published, np.float64)):
                        yield comparison
        norms = {n: p for n, p in self.method.trainable_parameters().items() if "norm" in n}
        yield from self.compare_final(step, "final/", norms)


FOLLOWERS = {"dpal": DPALFollower}
