"""T3A: changes no weights; predicts with class prototypes that confident samples of the stream are averaged into.

Paper: Iwasawa and Matsuo, NeurIPS 2021 (further §5). Deviations from the release are settings, see the preset
`official`; without one: buffers of fixed size, and without a filter sums alone, hold the supports.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.device import scalar
from tta_core.methods.base import Method
from tta_core.methods.common.losses import softmax_entropy, widened
from tta_core.methods.common.penultimate import PenultimateForward
from tta_core.methods.stateful import Stateful
from tta_core.methods.t3a.class_space import class_space
from tta_core.methods.t3a.spec import T3ASettings
from tta_core.methods.t3a.supports import AllSupports, DwindlingSupports, FilteredSupports, Supports


class T3A(Method[T3ASettings]):
    """Scores the inner products of features with prototypes to which the batch has contributed already."""

    supports: Supports

    def prepare(self) -> None:
        """Finds the classifier and the space that it compares in."""
        self.forward = PenultimateForward(self.network, "t3a")
        self.space = class_space(self.forward.classifier, "t3a")

    def begin(self) -> None:
        """Makes the rows of the classifier the first supports."""
        settings, logits = self.settings, self.space.logits
        unit = functional.normalize(widened(self.space.vectors), dim=-1)
        own = settings.row_class == "own"
        labels = torch.arange(len(unit), device=unit.device) if own else logits.argmax(dim=-1)
        if settings.filter_k > 0:
            self.supports = FilteredSupports(unit, settings.filter_k)
        else:
            self.supports = DwindlingSupports(unit) if settings.drops_last else AllSupports(unit)
        self.supports.add(unit, softmax_entropy(logits), labels)

    def parts(self) -> dict[str, Stateful]:
        """The supports."""
        return {"supports": self.supports}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """There is nothing to train."""
        return

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` of the prototypes after the batch has gone into the supports."""
        with torch.no_grad():
            features, logits = self._read(images)
            self.supports.add(functional.normalize(features, dim=-1), softmax_entropy(logits), logits.argmax(dim=-1))
            scored = self._compare(features)
            self.record = {
                "selected": scalar(0, images.device),
                "supports": self.supports.counts().sum(),
                "changed": (logits.argmax(dim=-1) != scored.argmax(dim=-1)).sum(),
            }
        return scored

    def frozen_logits(self, images: Tensor) -> Tensor:
        """Logits of the present prototypes."""
        return self._compare(self._read(images)[0])

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(batch, dim)` in the space of the prototypes, at least float32, and the classifier's logits."""
        features, logits = self.forward(images)
        return widened(self.space.project(features)), logits

    def _compare(self, features: Tensor) -> Tensor:
        """Inner products `(batch, classes)` of features `(batch, dim)` with the prototypes."""
        with torch.autocast(features.device.type, enabled=False):
            return features @ self.supports.prototypes(self.settings.unit_prototypes).T
