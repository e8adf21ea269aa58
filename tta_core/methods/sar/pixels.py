"""SAR, for segmentation: a sharpness-aware step on the entropy of pixels that are reliable in both passes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from tta_core.methods.common.layer_choice import trained_norms
from tta_core.methods.common.losses import entropy_margin
from tta_core.methods.common.optim import ascend, put_back
from tta_core.methods.common.pixels import AdaptingPixels, chosen_pixels, pixel_entropy, pixel_mean
from tta_core.methods.common.recovery import Recovery
from tta_core.methods.common.surgery import norm_layers
from tta_core.methods.sar.pixel_spec import PixelSARSettings
from tta_core.methods.stateful import Stateful


class PixelSAR(AdaptingPixels[PixelSARSettings]):
    """One SAM step of SGD per batch; scores the prediction before it. Without a reliable pixel there is none.

    Attributes:
        recovery: the moving average of the loss.
    """

    def prepare(self) -> None:
        """Thaws the affine pairs of the chosen normalisation layers."""
        keep = trained_norms(self.settings.norms, self.network)
        for name, norm in norm_layers(self.network):
            norm.requires_grad_(keep(name))

    def begin(self) -> None:
        """Makes the recovery."""
        settings = self.settings
        self.margin = entropy_margin(settings.entropy_margin, self.num_classes)
        self.trained = list(self.trainable_parameters().values())
        self.recovery = Recovery(
            settings.reset_threshold, settings.reset_ema, clears_memory=True, device=self.trained[0].device
        )

    def parts(self) -> dict[str, Stateful]:
        """The recovery."""
        return {"recovery": self.recovery}

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes, height, width)` of the first pass. Waits for the device twice."""
        settings = self.settings
        logits = self.whole(self.network, images)
        scored = self.frozen_logits(images) if settings.views > 1 else self.as_predicted(logits, images)
        entropy = pixel_entropy(self.enlarged(logits, images))
        chosen = chosen_pixels(entropy.detach(), self.margin, settings.select)
        self.record = {}
        if bool(chosen.any()):
            loss = pixel_mean(entropy, chosen)
            if settings.rho > 0:
                self.backward(loss)
                before = ascend(self.trained, settings.rho)
                self.optimizer_of_steps.zero_grad()
                entropy = pixel_entropy(self.enlarged(self.whole(self.network, images), images))
                chosen = chosen & chosen_pixels(entropy.detach(), self.margin, settings.select)
                loss = pixel_mean(entropy, chosen)
                self.backward(loss)
                put_back(self.trained, before)
            else:
                self.backward(loss)
            some = chosen.any()
            if bool(some):
                self.descend()
                self.record["loss"] = loss.detach()
            self.optimizer_of_steps.zero_grad()
            self.recovery.follow(loss.detach(), some)
        self.record |= {
            "selected": chosen.flatten(1).any(dim=1).sum(),
            "selected_pixels": chosen.double().mean(),
            **self.recovery.recover(self.optimizer_of_steps, self.trainable_parameters(), self.source_parameters),
        }
        return scored

    @property
    def optimizer_of_steps(self) -> torch.optim.SGD:
        """The optimizer, which is one of SGD."""
        return cast(torch.optim.SGD, self.optimizer)
