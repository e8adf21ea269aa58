"""T3A."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.golden.follower import Comparison, Follower
from tta_core.methods.t3a.method import T3A


class T3AFollower(Follower):
    """The preset `official`, which without a filter drops a support of each class and step."""

    name = "t3a"
    exact_inputs = True
    translated = frozenset({"filter_K"})
    method: T3A

    def settings(self) -> dict[str, Any]:
        """The number of supports that a class keeps."""
        return {"filter_k": self.case.hyper["filter_K"], "drops_last": self.case.hyper["filter_K"] < 0}

    def internals(self, step: int) -> Iterator[Comparison]:
        """Supports of each class."""
        expected = self.case.expected("n_supports", torch.float32)
        if expected is not None:
            yield Comparison("n_supports", self.method.supports.counts(), expected[step], 0)


FOLLOWERS = {"t3a": T3AFollower}
