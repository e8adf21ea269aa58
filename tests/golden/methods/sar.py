"""SAR, of its own repository and of MoETTA's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.sar.method import SAR

COUNTS = {"n_reliable": "reliable", "n_selected": "selected", "event_reset": "reset"}
VALUES = {"loss_first": "first_loss", "loss": "loss", "ema": "ema"}
"""Published name -> our scalar: whole numbers, which must agree exactly, and others."""


class SARFollower(Follower):
    """The preset `official`: norms by name, momentum alone where nothing is selected, resets that clear little."""

    name = "sar"
    translated = frozenset(
        {
            "lr", "momentum", "rho", "margin_e0", "margin_coeff", "reset_threshold_effective", "steps", "episodic",
            "adaptive", "nesterov", "weight_decay",
        }
    )  # fmt: skip
    method: SAR
    preset = "official"

    def settings(self) -> dict[str, Any]:
        """All options; those that SAR has but nobody uses must be at what everybody uses."""
        hyper = self.case.hyper
        for option, used in {
            "steps": 1, "episodic": False, "adaptive": False, "nesterov": False, "weight_decay": 0
        }.items():  # fmt: skip
            if hyper.get(option, used) != used:
                raise InputError(f"{option} = {hyper[option]!r} is not implemented: {used!r} is what is published")
        classes = math.log(self.case.num_classes)
        renamed = {
            "lr": "lr",
            "momentum": "momentum",
            "rho": "rho",
            "margin_coeff": "entropy_margin",
            "reset_threshold_effective": "reset_threshold",
        }
        settings = {ours: hyper[published] for published, ours in renamed.items() if published in hyper}
        if "margin_e0" in hyper:
            settings["entropy_margin"] = hyper["margin_e0"] / classes
        return {"preset": self.preset} | settings

    def initial(self) -> dict[str, Tensor]:
        """None: the method adds nothing to the network."""
        return {}

    def step(self, step: int) -> Tensor:
        """Takes one step; keeps its logits."""
        self.logits = super().step(step)
        return self.logits

    def internals(self, step: int) -> Iterator[Comparison]:
        """Trained parameters, masks, counts, losses, moving average, resets, and where the parameters end."""
        case, record = self.case, self.method.record
        if step == 0:
            ours = set(self.method.trainable_parameters())
            theirs = {str(name) for name in case.trace["extra/__adapted_names__"]}
            yield Comparison("adapted names", len(ours ^ theirs), 0, 0)
        for published, mask in (("mask_reliable", self.method.reliable), ("mask_selected", self.method.selected)):
            yield from self._compare(published, step, mask, 0)
        for published, name in COUNTS.items():
            yield from self._compare(published, step, record[name], 0)
        for published, name in VALUES.items():
            yield from self._compare(
                published, step, record.get(name, torch.zeros(())), case.tolerance("loss", self.dtype)
            )
        scored = "entropy" if self.method.settings.variant == "original" else "entropy_second"
        yield from self._compare(scored, step, softmax_entropy(self.logits), case.tolerance("logits", self.dtype))
        if step == len(case.batches) - 1 and self.dtype == torch.float32:
            for name, parameter in self.method.trainable_parameters().items():
                final = case.trace.get(f"final/{name}")
                if final is not None:
                    yield Comparison(f"final {name}", parameter.detach(), final, case.tolerance("logits", self.dtype))

    def _compare(self, name: str, step: int, ours: Any, tolerance: float) -> Iterator[Comparison]:
        """Compares where the release has a number: it has NaN for a loss without samples, and before any average."""
        expected = self.case.expected(name, self.dtype)
        if expected is not None:
            values = np.atleast_1d(np.asarray(expected[step], np.float64))
            given = np.isfinite(values)
            yield Comparison(name, np.atleast_1d(np.asarray(ours, np.float64))[given], values[given], tolerance)


class MoETTAFollower(SARFollower):
    """MoETTA's repository selects the second time from the whole batch, and scores what that pass predicts."""

    preset = "moetta"


FOLLOWERS = {"sar": SARFollower, "sar_moetta_repo": MoETTAFollower}
