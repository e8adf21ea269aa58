"""Tent (SAR repository)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError


class TentFollower(Follower):
    """SGD on every LayerNorm."""

    name = "tent"
    translated = frozenset({"lr", "momentum", "steps"})

    def settings(self) -> dict[str, Any]:
        """Learning rate and momentum; one step a batch is all there is."""
        if self.case.hyper.get("steps", 1) != 1:
            raise InputError(f"{self.case.hyper['steps']} steps a batch are not implemented: 1 is what is published")
        return {"lr": self.case.hyper["lr"], "momentum": self.case.hyper["momentum"]}

    def internals(self, step: int) -> Iterator[Comparison]:
        """Loss."""
        loss = self.case.expected("loss", self.dtype)
        if loss is not None:
            tolerance = self.case.tolerance("loss", self.dtype)
            yield Comparison("loss", self.method.record["loss"], loss[step], tolerance)


FOLLOWERS = {"tent": TentFollower}
