"""What the followers of methods with a stochastic restore share: the published masks, and a look at the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.follower import Follower
from tta_core.methods.base import Method


class RestoringFollower(Follower):
    """Restores what the published run restored.

    Attributes:
        student_logits: logits of the student in the step just taken, of one forward after the other.
    """

    def published_view(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """The part of our tensors that holds the published tensor of that name, in its layout."""
        return tensors[name]

    def build(self) -> Method[Any]:
        """Replaces the random restore and watches the student."""
        method = super().build()
        method.draw_restored = lambda probability: self.restored
        self.positions = self._published_positions(method)
        self.student_logits: list[Tensor] = []
        method.network.register_forward_hook(lambda *seen: self.student_logits.append(seen[-1].detach()))
        return method

    def step(self, step: int) -> Tensor:
        """Takes one step with the published restore."""
        order = self.case.trace["out/idx_restored"][step]
        self.restored = self.positions[torch.from_numpy(order[order >= 0].astype(np.int64))].sort().values
        self.student_logits.clear()
        return super().step(step)

    def _published_positions(self, method: Method[Any]) -> Tensor:
        """Position among our trained parameters of each number, in the published order."""
        numbers, start = {}, 0
        for name, parameter in method.trainable_parameters().items():
            numbers[name] = torch.arange(start, start + parameter.numel()).view(parameter.shape)
            start += parameter.numel()
        order = self.case.trace["extra/__restore_order__"]
        return torch.cat([self.published_view(str(name), numbers).flatten() for name in order])
