"""Tent, for segmentation: trains the affine pairs of all norms on every pixel.

The released version for Cityscapes to ACDC learns from its own hard classes instead of the entropy, and makes its
optimizer anew at each border between domains; `official` does so too.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tta_core.device import scalar
from tta_core.methods.common.pixels import AdaptingPixels, thaw_pixel_norms
from tta_core.methods.tent.pixel_spec import PixelTentSettings


class PixelTent(AdaptingPixels[PixelTentSettings]):
    """One step per batch on the mean loss of all pixels; scores the prediction before the update."""

    def prepare(self) -> None:
        """Thaws the affine pair of every normalisation layer."""
        thaw_pixel_norms(self.network, batch_statistics=self.settings.batch_statistics)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes, height, width)` before the update."""
        logits = self.whole(self.network, images)
        scored = self.frozen_logits(images) if self.settings.views > 1 else self.as_predicted(logits, images)
        log_probabilities = self.enlarged(logits, images).log_softmax(dim=1)
        if self.settings.loss == "entropy":
            loss = -(log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        else:
            loss = functional.nll_loss(log_probabilities, scored.argmax(dim=1))
        self.descend(loss)
        self.record = {"loss": loss.detach(), "selected": scalar(len(images), images.device)}
        return scored
