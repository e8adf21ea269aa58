"""MoETTA, for segmentation: experts in every LayerNorm of a SegFormer, routed by the mean token of each image.

Deviations: the load balance goes by a running frequency, and pixels are selected, since there is one image a step. The
head's BatchNorm keeps its running statistics and has no experts: its affine pair is trained.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tta_core.methods.common.losses import entropy_margin
from tta_core.methods.common.pixels import PixelMethod, chosen_pixels, pixel_entropy, pixel_mean
from tta_core.methods.moetta.layers import install_experts, norm_roles
from tta_core.methods.moetta.method import MoETTA, effective_number
from tta_core.methods.moetta.pixel_spec import PixelMoETTASettings
from tta_core.methods.moetta.router import load_balance
from tta_core.methods.moetta.threshold import OfficialThreshold, PaperThreshold


class PixelMoETTA(PixelMethod[PixelMoETTASettings], MoETTA):
    """One SGD step per batch on the weighted entropy of pixels plus load balance; scores the logits before it.

    Attributes:
        frequency: running share of images of each expert, `(routers, experts)`; 0 at first.
    """

    remembers = ("frequency",)

    def prepare(self) -> None:
        """Replaces LayerNorms by layers with experts, and thaws these and the BatchNorm's pair."""
        settings = self.settings
        roles = norm_roles(self.network, settings)
        batch = [name for name in roles.experts if isinstance(self.network.get_submodule(name), nn.BatchNorm2d)]
        for name in (*roles.normal, *batch):
            self.network.get_submodule(name).requires_grad_(True)
        roles = roles._replace(experts=[name for name in roles.experts if name not in batch])
        self.layers, self.routers = install_experts(self.network, roles, settings, self.generator)
        self.threshold = OfficialThreshold() if settings.threshold_mode == "official" else PaperThreshold()
        self.margin = entropy_margin(settings.entropy_margin, self.num_classes)
        first = next(self.network.parameters())
        self.frequency = torch.zeros(len(self.routers), settings.num_experts, device=first.device)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes, height, width)` before the update."""
        settings = self.settings
        # The mean over views changes what the routers remember of the batch, so it comes first.
        views = self.frozen_logits(images) if settings.views > 1 else None
        logits = self.whole(self.network, images)
        scored = self.as_predicted(logits, images) if views is None else views
        entropy = pixel_entropy(self.enlarged(logits, images))
        running_mean = self.threshold.update(entropy.detach().mean())
        # Equal to the mean is selected too.
        largest = torch.nextafter(running_mean, torch.full_like(running_mean, torch.inf))
        chosen = chosen_pixels(entropy.detach(), cast(float, largest), settings.select)
        weight = torch.exp(self.margin - entropy.detach()) if settings.weight_by_entropy else 1.0
        coefficient = settings.lambda_balance * (running_mean if settings.dynamic_balance else torch.ones_like(largest))
        balance, selections = self._balance(entropy.detach())
        loss = pixel_mean(weight * entropy, chosen) + coefficient * balance.sum()
        self.descend(loss)
        self.record = {
            "loss": loss.detach(),
            "selected": chosen.flatten(1).any(dim=1).sum(),
            "selected_pixels": chosen.double().mean(),
            "threshold": running_mean,
            "balance_coefficient": coefficient.detach(),
            "balance_loss": balance.detach().mean(),
            "effective_experts": effective_number(selections).mean(),
        }
        return scored

    def _balance(self, entropy: Tensor) -> tuple[Tensor, Tensor]:
        """The load-balancing loss of every router by the running frequency, and this batch's samples per expert."""
        if not self.routers:
            return super()._balance(entropy)
        decisions = [self._decision(name, router) for name, router in self.routers.items()]
        probabilities = torch.stack([decision.probabilities for decision in decisions])
        selections = torch.stack([decision.chosen for decision in decisions]).sum(dim=1)
        for router, counts in zip(self.routers.values(), selections, strict=True):
            router.count(counts)
        shares = (selections / selections.sum(dim=-1, keepdim=True)).to(self.frequency)
        keep = self.settings.frequency_memory
        self.frequency = torch.where(self.frequency.any(), torch.lerp(shares, self.frequency, keep), shares)
        return load_balance(probabilities, self.frequency.to(probabilities)), selections
