"""MGTTA (MoETTA repository)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.common.feature_statistics import source_statistics
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.mgtta.checkpoint import PREFIX, meta_from
from tta_core.methods.mgtta.method import MGTTA
from tta_core.methods.registry import build_method

UPDATE_TOLERANCE = 1e-3
"""In float32: a tanh of normalised gradients (README of the cases)."""

SAME_ROUNDED = 2e-6
"""The expected statistics are stored in float32."""


class MGTTAFollower(Follower):
    """Takes the published learned optimizer, and makes the source statistics of the stored images."""

    name = "mgtta"
    translated = frozenset({"adapt_lr", "beta1", "beta2", "fitness_lambda", "norm_dim", "mgg_hidden", "mgg_heads"})
    method: MGTTA

    def settings(self) -> dict[str, Any]:
        """Learning rate, betas and weight; the sizes are those of the network and of the stored optimizer."""
        hyper, model = self.case.hyper, self.case.manifest["model"]
        if hyper.get("mgg_heads", 1) != 1:
            raise InputError(f"mgg_heads = {hyper['mgg_heads']} is not implemented: 1 is what is published")
        if hyper.get("norm_dim", model["embed_dim"]) != model["embed_dim"]:
            raise InputError(f"norm_dim = {hyper['norm_dim']} does not fit embed_dim = {model['embed_dim']}")
        renamed = {"adapt_lr": "lr", "fitness_lambda": "lambda_discrepancy"}
        betas = {"betas": (hyper.get("beta1", 0.9), hyper.get("beta2", 0.99))}
        return {ours: hyper[published] for published, ours in renamed.items() if published in hyper} | betas

    def build(self) -> Method[Any]:
        """Hands over what the published run had prepared."""
        network = self.case.network(self.dtype)
        batches = self.case.pixels(self.case.trace["extra/source_u8"], normalised=self._normalised())
        self.statistics = source_statistics(network, batches.to(self.dtype))
        meta = meta_from(self.case.tensors("extra/mgg.", self.dtype), "the case")
        hidden = self.case.hyper.get("mgg_hidden", len(meta.output))
        if hidden != len(meta.output):
            raise InputError(f"mgg_hidden = {hidden}, but the stored optimizer has {len(meta.output)} hidden units")
        artefact = {f"source_{name}": value for name, value in self.statistics._asdict().items()}
        return build_method(
            self.name,
            network,
            num_classes=self.case.num_classes,
            preset="official",
            artefact=artefact | {PREFIX + name: value for name, value in meta._asdict().items()},
            **self.settings(),
        )

    def _normalised(self) -> bool:
        return "(x-0.5)/0.5" in self.case.manifest["input_rule"]

    def step(self, step: int) -> Tensor:
        """Takes one step and returns the logits `(batch, classes)`."""
        self.logits = super().step(step)
        return self.logits

    def internals(self, step: int) -> Iterator[Comparison]:
        """Source statistics, loss, entropies, updates; after the last step the layers."""
        if step == 0:
            for name, ours in self.statistics._asdict().items():
                yield Comparison(f"source_{name}", ours, self.case.trace[f"extra/source_{name}"], SAME_ROUNDED)
        yield from self._compare("loss", self.method.record["loss"], step)
        yield from self._compare("entropy", softmax_entropy(self.logits), step)
        yield from self._compare("update", self._in_published_order(self.method.last_update), step, UPDATE_TOLERANCE)
        if step == len(self.case.batches) - 1:
            parameters = self.method.trainable_parameters()
            for name, published in self.case.tensors("final/", torch.float32).items():
                tolerance = self.case.tolerance("logits", torch.float32)
                yield Comparison(f"final {name}", parameters[name].detach(), published, tolerance)

    def _in_published_order(self, values: Tensor) -> Tensor:
        parameters = self.method.trainable_parameters()
        parts = dict(zip(parameters, values.split([p.numel() for p in parameters.values()]), strict=True))
        return torch.cat([parts[str(name)] for name in self.case.trace["extra/__norm_order__"]])

    def _compare(self, quantity: str, ours: Tensor, step: int, tolerance: float | None = None) -> Iterator[Comparison]:
        """Compares with the run in this precision, or in float32 if only that is stored."""
        published, dtype = self.case.expected(quantity, self.dtype), self.dtype
        if published is None:
            published, dtype = self.case.expected(quantity, torch.float32), torch.float32
        if published is None:
            return
        if tolerance is None or dtype == torch.float64:
            tolerance = self.case.tolerance("loss", dtype)
        yield Comparison(quantity, ours.detach(), published[step], tolerance)


FOLLOWERS = {"mgtta": MGTTAFollower}
