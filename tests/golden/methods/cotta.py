"""CoTTA: the ImageNet and the CIFAR version of its repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.golden.follower import Comparison, ruled_view
from tests.golden.restoring import RestoringFollower
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.cotta.method import CoTTA

SYMMETRIC = "softmax(student)*log_softmax(teacher)"
"""What the description of the loss holds if it goes both ways."""


class CoTTAFollower(RestoringFollower):
    """Takes the published views, or what the published teacher said to them, and the published restore masks."""

    name = "cotta"
    translated = frozenset(
        {
            "lr", "optimizer", "betas", "momentum", "nesterov", "ema", "restore_probability", "views",
            "anchor_threshold", "num_classes",
        }
    )  # fmt: skip
    method: CoTTA

    def settings(self) -> dict[str, Any]:
        """All options, and which version it is: the one for CIFAR runs the views of every batch."""
        hyper, manifest = self.case.hyper, self.case.manifest
        if hyper["optimizer"] not in ("sgd", "nesterov", "adam"):
            raise InputError(f"optimizer {hyper['optimizer']!r} is not implemented: sgd, nesterov and adam are")
        if hyper["optimizer"] == "nesterov":
            hyper |= {"optimizer": "sgd", "nesterov": True}
        kept = ("lr", "optimizer", "momentum", "nesterov", "betas", "ema", "restore_probability", "views")
        return {name: hyper[name] for name in kept if name in hyper} | {
            "anchor_threshold": hyper["anchor_threshold"],
            "run_views": "always" if "cifar" in manifest["variant"] else "needed",
            "loss": "symmetric" if SYMMETRIC in manifest["hyper_words"]["loss"] else "one_directional",
        }

    def initial(self) -> dict[str, Tensor]:
        """Nothing is added to the network."""
        return {}

    def build(self) -> Method[Any]:
        """Replaces the views."""
        method = super().build()
        assert isinstance(method, CoTTA)
        if "out/aug_view_logits" in self.case.trace:
            method.view_logits = self._published_logits
        else:
            method.augment = self._augment
        return method

    def step(self, step: int) -> Tensor:
        """Takes one step and counts its views."""
        self.number, self.view = step, 0
        return super().step(step)

    def internals(self, step: int) -> Iterator[Comparison]:
        """Loss, student, the anchor and its decision, number of restored values; at the end both networks."""
        record = self.method.record
        yield from self.compare("loss", step, record["loss"])
        yield from self.compare("student_logits", step, self.student_logits[0])
        yield from self.compare("anchor_prob", step, self.method.anchor_confidence(self.inputs(step)))
        yield from self.compare("event_augmented", step, record["augmented"], 0)
        yield from self.compare("n_restored", step, record["restored"], 0)
        # Adam turns the rounding of gradients that are zero into steps.
        if step == len(self.case.batches) - 1 and self.method.settings.optimizer == "sgd":
            yield from self._final("student", dict(self.method.network.named_parameters()))
            yield from self._final("teacher", dict(self.method.teacher.network.named_parameters()))

    def _final(self, whose: str, parameters: Mapping[str, Tensor]) -> Iterator[Comparison]:
        tolerance = self.case.tolerance("loss", torch.float32)
        for name, published in self.case.trace.items():
            own = name.removeprefix(f"final/{whose}/")
            if own != name:
                yield Comparison(f"final {whose} {own}", parameters[own].detach(), published, tolerance)
        published = self.case.trace.get(f"final/{whose}_stats")
        if published is not None:
            values = [parameters[str(name)].detach().double() for name in self.case.trace["extra/__param_order__"]]
            ours = torch.stack([torch.stack([v.sum(), v.abs().sum(), v.square().sum()]) for v in values])
            # Sums over thousands of numbers: relative to the sum of their sizes.
            scale = torch.from_numpy(published[:, 1:2]).clamp(min=1)
            yield Comparison(f"final {whose} sums", ours / scale, torch.from_numpy(published) / scale, tolerance)

    def _published_logits(self, _images: Tensor) -> Tensor:
        return torch.from_numpy(self.case.trace["out/aug_view_logits"][self.number]).to(self.dtype)

    def _augment(self, pixels: Tensor, _generator: torch.Generator) -> Tensor:
        """The published rule that stands in for the random transform."""
        number, self.view = self.view, self.view + 1
        return ruled_view(pixels, number)


FOLLOWERS = {"cotta": CoTTAFollower}
