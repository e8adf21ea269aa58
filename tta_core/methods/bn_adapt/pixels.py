"""BN-Adapt, for segmentation: the one BatchNorm of the head normalises with the image at hand; nothing is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.bn_adapt.pixel_spec import PixelBNAdaptSettings
from tta_core.methods.common.batch_norm import BlendedBatchNorm, replace_batch_norms
from tta_core.methods.common.pixels import PixelMethod


class PixelBNAdapt(PixelMethod[PixelBNAdaptSettings]):
    """Predicts with adapted statistics."""

    def prepare(self) -> None:
        """Replaces every BatchNorm layer."""
        replace_batch_norms(self.network, "bn-adapt", lambda norm: BlendedBatchNorm(norm, self.settings.source_weight))

    def make_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """There is nothing to train."""
        return

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes, height, width)` under the adapted statistics."""
        self.record = {"selected": scalar(0, images.device)}
        with torch.no_grad():
            return self.frozen_logits(images)
