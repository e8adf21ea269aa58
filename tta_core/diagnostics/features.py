"""Features before the head: how domains differ, and how classes scatter within a domain (moase §7.4)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import rel_entr
from torch import Tensor, nn

from tta_core.backbones.classifier import find_classifier
from tta_core.diagnostics.capture import FirstForward
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene
from tta_core.methods.base import Method


class Features(Observer):
    """Sums what enters the head by domain and by true class; true classes are known to the evaluator only.

    It keeps `(domains, classes, dim)` in float64 on the device.
    """

    remembers = ("_distributions", "_squares", "_sums", "_counts")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        head = _head(scene.method)
        assert head is not None
        self._first = FirstForward({"head": head}, lambda name, module, features: features.flatten(1).double())
        self._group = scene.domain * scene.method.num_classes + scene.label
        self._distributions: Tensor | None = None

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether the network has a head that can be told from the rest."""
        return _head(method) is not None

    def before_step(self, moment: Moment) -> None:
        """Reads the coming forward."""
        self._first.arm()

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Adds the batch to the sums."""
        self._first.disarm()
        if self._first.kept:
            with torch.no_grad():
                self._add(self._first.kept["head"], moment.positions)

    def _add(self, features: Tensor, positions: slice | Tensor) -> None:
        domains, classes = len(self.scene.order.domains), self.scene.method.num_classes
        domain, group = self.scene.domain[positions], self._group[positions]
        if self._distributions is None:
            dim = features.shape[1]
            self._distributions = features.new_zeros(domains, dim)
            self._squares = features.new_zeros(domains)
            self._sums = features.new_zeros(domains * classes, dim)
            self._counts = features.new_zeros(domains * classes)
        self._distributions.index_add_(0, domain, features.softmax(dim=-1))
        self._squares.index_add_(0, domain, features.square().sum(dim=-1))
        self._sums.index_add_(0, group, features)
        self._counts.index_add_(0, group, torch.ones_like(features[:, 0]))

    def measurements(self) -> list[Measurement]:
        """`js_divergence` between domains that are neighbours in their published order; `intra_class_scatter`."""
        if self._distributions is None:
            return []
        names = self.scene.order.domains
        counts = self._counts.view(len(names), -1)
        distributions = (self._distributions / counts.sum(dim=1, keepdim=True)).cpu().numpy()
        # Mean squared distance to the centroid: mean square less the mean over samples of the centroid's square.
        centroid_squares = (self._sums.square().sum(dim=-1) / self._counts.clamp(min=1)).view(len(names), -1)
        scatter = (self._squares - centroid_squares.sum(dim=1)) / counts.sum(dim=1)
        neighbours = zip(pairwise(names), pairwise(distributions), strict=True)
        return [
            Measurement("js_divergence", js_divergence(*given), domain=domain, against=against)
            for (domain, against), given in neighbours
        ] + [
            Measurement("intra_class_scatter", value, domain=domain)
            for domain, value in zip(names, scatter.clamp(min=0).tolist(), strict=True)
        ]


def js_divergence(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Jensen-Shannon divergence of two distributions `(values,)` in nat: 0 if equal, at most ln 2."""
    middle = (one + other) / 2
    return float(rel_entr(one, middle).sum() + rel_entr(other, middle).sum()) / 2


def _head(method: Method[Any]) -> nn.Module | None:
    head = None if method.watched is None else find_classifier(method.watched)
    return None if isinstance(head, nn.Identity) else head
