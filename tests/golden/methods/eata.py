"""EATA and ETA (SAR repository)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.case import Case
from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.eta.method import ETA

FISHER_TOLERANCE = 1e-4
"""Largest difference of a Fisher value, over the largest of its tensor, in both precisions: only the float32 run's are
stored. Ours differ by 0 and 3e-6.
"""


class EATAFollower(Follower):
    """SGD on every LayerNorm. A case without a penalty is ETA; with one, our own preparation measures the Fisher."""

    translated = frozenset(
        {
            "lr", "momentum", "steps", "e_margin", "e_margin_coeff", "d_margin", "fisher_alpha", "fisher_batches",
            "fisher_batch_size", "fisher_size",
        }
    )  # fmt: skip
    method: ETA[Any]

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.name = "eata" if float(case.hyper.get("fisher_alpha", 0)) > 0 else "eta"
        super().__init__(case, dtype)

    def settings(self) -> dict[str, Any]:
        """All options; the Fisher batches are as many as are stored, each of the size it is stored with."""
        hyper = self.case.hyper
        if hyper.get("steps", 1) != 1:
            raise InputError(f"{hyper['steps']} steps a batch are not implemented: 1 is what is published")
        largest = math.log(self.case.num_classes)
        settings = {
            "entropy_margin": hyper.get("e_margin", hyper.get("e_margin_coeff", 0.4) * largest) / largest,
            "redundancy_margin": hyper.get("d_margin", 0.05),
        }
        settings |= {name: hyper[name] for name in ("lr", "momentum") if name in hyper}
        if self.name == "eata":
            settings |= {"fisher_alpha": hyper["fisher_alpha"], "source_images": self._fisher_images()}
        return settings

    def initial(self) -> dict[str, Tensor]:
        """None: the Fisher values are what we compare with, not what we start from."""
        return {}

    def internals(self, step: int) -> Iterator[Comparison]:
        """Both filters, the running probabilities, the loss and its penalty; at the first step the Fisher values."""
        record, judged = self.method.record, self.method.last_selection
        assert judged is not None, "a step was taken"
        tolerance = self.case.tolerance("logits", self.dtype)
        yield from self.compare_where_given("n_selected", step, record["selected"], 0)
        yield from self.compare_where_given("n_reliable", step, record["reliable"], 0)
        yield from self.compare_where_given("mask_reliable", step, judged.reliable, 0)
        yield from self.compare_where_given("mask_selected", step, judged.selected, 0)
        yield from self.compare_where_given("entropy", step, judged.entropy, tolerance)
        yield from self.compare_where_given("cosine", step, judged.similarity, tolerance)
        yield from self.compare_where_given("ema_probs", step, self.method.average, tolerance)
        tolerance = self.case.tolerance("loss", self.dtype)
        yield from self.compare_where_given("loss", step, record.get("loss", torch.tensor(math.nan)), tolerance)
        if self.name == "eata":
            yield from self.compare_where_given("loss_ewc", step, record["penalty"], tolerance)
        if step == 0:
            yield from self._fisher()

    def _fisher(self) -> Iterator[Comparison]:
        for name, ours in self.method.artefact.items():
            expected = self.case.trace.get(f"extra/fisher.{name}")
            if expected is not None:
                scale = float(np.abs(expected).max()) or 1.0
                yield Comparison(f"fisher.{name}", ours / scale, expected / scale, FISHER_TOLERANCE)

    def _fisher_images(self) -> list[Tensor]:
        """The stored batches, less any that the case says are not used."""
        stored = self.case.trace["extra/fisher_u8"]
        used = stored[: self.case.hyper.get("fisher_batches", len(stored))]
        normalised = "(x-0.5)/0.5" in self.case.manifest["input_rule"]
        return [self.case.pixels(batch, normalised=normalised).to(self.dtype) for batch in used]


FOLLOWERS = {"eata": EATAFollower}
