"""RoTTA: its own repository, and mariodoebler's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower, ruled_view
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.rotta.method import ENTROPY_EPSILON, RoTTA


class RoTTAFollower(Follower):
    """Takes the published views; compares the memory by the numbers of its images."""

    name = "rotta"
    translated = frozenset(
        {
            "optimizer", "lr", "momentum", "nesterov", "betas", "memory_size", "lambda_t", "lambda_u", "nu", "alpha",
            "update_frequency", "entropy_epsilon",
        }
    )  # fmt: skip
    method: RoTTA

    def settings(self) -> dict[str, Any]:
        """All options; the number in the entropy is a constant here."""
        hyper = self.case.hyper
        if hyper.get("entropy_epsilon", ENTROPY_EPSILON) != ENTROPY_EPSILON:
            raise InputError(f"entropy_epsilon must be {ENTROPY_EPSILON}, as released")
        renamed = {
            "memory_size": "capacity",
            "lambda_t": "lambda_timeliness",
            "lambda_u": "lambda_uncertainty",
            "nu": "teacher_update",
            "alpha": "norm_momentum",
        }
        kept = ("optimizer", "lr", "momentum", "nesterov", "betas", "update_frequency", *renamed)
        return {renamed.get(name, name): hyper[name] for name in kept if name in hyper}

    def initial(self) -> dict[str, Tensor]:
        """None: the method adds nothing to the network."""
        return {}

    def build(self) -> Method[Any]:
        """Replaces the view."""
        method = super().build()
        assert isinstance(method, RoTTA)
        self.view = 0
        method.augment = self._augment  # type: ignore[method-assign]
        return method

    def step(self, step: int) -> Tensor:
        """Takes one step and notes which images of the batch the memory took."""
        memory, taken = self.method.memory, []
        offer = memory.offer

        def watched(category: int, uncertainty: float, position: int) -> bool:
            taken.append(offer(category, uncertainty, position))
            return taken[-1]

        memory.offer = watched  # type: ignore[method-assign]
        logits = super().step(step)
        memory.offer = offer  # type: ignore[method-assign]
        self.taken = taken
        return logits

    def internals(self, step: int) -> Iterator[Comparison]:
        """Loss, memory, updates; at the end the parameters of student and teacher."""
        record, memory = self.method.record, self.method.memory
        yield from self.compare_adapted_names(step)
        loss = record.get("loss", torch.tensor(torch.nan))
        yield from self.compare_where_given("loss", step, loss, self.case.tolerance("loss", self.dtype))
        capacity = self.method.settings.capacity
        numbers = sorted(kept.born for kept in memory.entries)
        padded = numbers + [-1] * (capacity - len(numbers))
        expected = self.case.trace.get("out/idx_memory")
        if expected is not None:
            yield Comparison("idx_memory", sorted(padded), np.sort(expected[step]), 0)
        for published, ours in (
            ("n_taken", record["selected"]),
            ("mask_taken", self.taken),
            ("n_updates", record["updates"]),
            ("mem_size", record["memory_size"]),
            ("mem_classes", record["memory_classes"]),
            ("mem_age_sum", sum(memory.ages())),
        ):
            yield from self.compare(published, step, ours, 0)
        # Adam turns the rounding of gradients that are zero into steps.
        if self.method.settings.optimizer == "sgd":
            for whose, network in self.method.networks().items():
                yield from self.compare_final(step, f"final/{whose}/", dict(network.named_parameters()))

    def _augment(self, pixels: Tensor, _generator: torch.Generator) -> Tensor:
        number, self.view = self.view, self.view + 1
        return ruled_view(pixels, number)


FOLLOWERS = {"rotta": RoTTAFollower}
