"""ETA, for segmentation: pixels are chosen by their entropy, images by how much they are like those before.

Single pixels of a common class are all alike, so redundancy is a matter of images. Deviation: without a pixel there is
no step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.methods.common.losses import entropy_margin
from tta_core.methods.common.pixels import AdaptingPixels, chosen_pixels, pixel_entropy, pixel_mean, thaw_pixel_norms
from tta_core.methods.eta.pixel_spec import PixelETASettings


class PixelETA(AdaptingPixels[PixelETASettings]):
    """One step per batch on the weighted entropy of the chosen pixels; scores the prediction before the update.

    Attributes:
        average: running mean of the mean probabilities of images that were learned from `(classes,)`; 0 at first.
    """

    remembers = ("average",)

    def prepare(self) -> None:
        """Thaws the affine pair of every normalisation layer."""
        thaw_pixel_norms(self.network, batch_statistics=False)

    def begin(self) -> None:
        """Nothing was seen yet."""
        first = next(self.network.parameters())
        self.margin = entropy_margin(self.settings.entropy_margin, self.num_classes)
        self.average = torch.zeros(self.num_classes, device=first.device, dtype=first.dtype)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes, height, width)` before the update. Waits for the device once."""
        logits = self.whole(self.network, images)
        scored = self.frozen_logits(images) if self.settings.views > 1 else self.as_predicted(logits, images)
        enlarged = self.enlarged(logits, images)
        entropy = pixel_entropy(enlarged)
        means = enlarged.detach().softmax(dim=1).mean(dim=(2, 3))
        similarity = functional.cosine_similarity(self.average.unsqueeze(0), means, dim=1)
        margin = self.settings.redundancy_margin
        fresh = torch.ones_like(similarity, dtype=torch.bool) if margin >= 1 else similarity.abs() < margin
        chosen = chosen_pixels(entropy.detach(), self.margin, self.settings.select) & fresh[:, None, None]
        self.record = {"selected": chosen.flatten(1).any(dim=1).sum(), "selected_pixels": chosen.double().mean()}
        if bool(chosen.any()):
            weight = (self.margin - entropy.detach()).exp() if self.settings.weight_by_entropy else 1.0
            loss = pixel_mean(weight * entropy, chosen)
            self.descend(loss)
            self.record["loss"] = loss.detach()
            mean = torch.where(fresh[:, None], means, 0).sum(dim=0) / fresh.sum()
            keep = self.settings.average_momentum
            self.average = torch.where(self.average.any(), torch.lerp(mean, self.average, keep), mean)
        return scored
