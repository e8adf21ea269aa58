"""Source, for segmentation: one view, or the mean over several, which is test-time augmentation without learning."""

from __future__ import annotations

from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.common.pixels import PixelMethod
from tta_core.methods.source.pixel_spec import PixelSourceSettings


class PixelSource(PixelMethod[PixelSourceSettings]):
    """Predicts with the pre-trained network."""

    def prepare(self) -> None:
        """Leaves the network as it is."""

    def make_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """There is nothing to train."""
        return

    def step(self, images: Tensor) -> Tensor:
        """Returns the source's logits, or the logarithms of mean probabilities, `(batch, classes, height, width)`."""
        self.record = {"selected": scalar(0, images.device)}
        return self.frozen_logits(images)
