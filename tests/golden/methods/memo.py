"""MEMO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower, ruled_view
from tta_core.methods.base import Method
from tta_core.methods.memo.augmix import Draws
from tta_core.methods.memo.method import MEMO

VIEWS = 37
"""The published views come again after so many."""


class MEMOFollower(Follower):
    """Takes the published views, one image after the other, and one optimizer for all."""

    name = "memo"
    translated = frozenset({"views", "niter", "optimizer", "lr", "weight_decay", "prior_strength"})

    def settings(self) -> dict[str, Any]:
        """All options."""
        hyper = self.case.hyper
        kept = ("views", "optimizer", "lr", "weight_decay")
        return {name: hyper[name] for name in kept} | {
            "steps": hyper["niter"],
            "prior_strength": None if hyper["prior_strength"] < 0 else float(hyper["prior_strength"]),
        }

    def build(self) -> Method[Any]:
        """Replaces the views."""
        method = super().build()
        assert isinstance(method, MEMO)
        self.view = 0
        method._views = self._views  # type: ignore[method-assign]
        return method

    def internals(self, step: int) -> Iterator[Comparison]:
        """The mean loss of the first updates."""
        loss = self.case.expected("loss", self.dtype)
        if loss is not None:
            tolerance = self.case.tolerance("loss", self.dtype)
            yield Comparison("loss", self.method.record["loss"], loss[step][:, 0].mean(), tolerance)

    def _views(self, images: Tensor, _draws: Draws, _number: int) -> Tensor:
        inside = self.case.normalises_inside
        pixels = images * 0.5 + 0.5 if inside else images
        numbers = [(self.view + n) % VIEWS for n in range(self.method.settings.views)]
        self.view += len(numbers)
        views = torch.stack([ruled_view(pixels, number) for number in numbers], dim=1)
        return (views - 0.5) / 0.5 if inside else views


FOLLOWERS = {"memo": MEMOFollower}
