"""BECoTTA, for segmentation: adapters behind every block learn the classes that the network gives to views.

Deviations from the release: the chosen adapters are used, where it always takes the first ones; gates learn. The
release has four gates a block, and a network that was trained on styled source images chooses among them: without it
each step draws one, and one is the default.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.backbones.segformer import Block
from tta_core.device import scalar
from tta_core.methods.base import Diagnostics
from tta_core.methods.becotta.layers import AdapterOptions, GateDraws, add_gated_adapters
from tta_core.methods.becotta.pixel_spec import PixelBECoTTASettings
from tta_core.methods.common.experts import expert_usage
from tta_core.methods.common.pixels import AdaptingPixels, log, pixel_entropy, pixel_mean
from tta_core.methods.common.teacher import random_positions, restore
from tta_core.methods.stateful import Remembering, Stateful


class StepDraws(GateDraws, Remembering):
    """All blocks and all views of a step go through the gate of one domain.

    Attributes:
        domain: its number.
    """

    remembers = ("domain",)

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(generator)
        self.domain = 0

    def renew(self, num_domains: int) -> None:
        """Draws the gate of another step, where there are several."""
        if num_domains > 1:
            self.domain = int(torch.randint(num_domains, (), generator=self.generator))

    def domains(self, block: int, batch: int, num_domains: int, device: torch.device) -> Tensor:
        """The gate of the step for each image or window, int64 `(batch,)`."""
        return torch.full((batch,), self.domain, dtype=torch.int64, device=device)


class PixelBECoTTA(AdaptingPixels[PixelBECoTTASettings]):
    """One step per batch towards the network's own classes; scores them, as they are before the update.

    Attributes:
        adapters: by qualified name.
        draws: noise of the gates, and which of them a step goes through.
    """

    def prepare(self) -> None:
        """Adds adapters and gates, and thaws them."""
        settings = self.settings
        options = AdapterOptions(
            num_experts=settings.num_experts,
            rank=max(settings.ranks),
            top_k=settings.top_k,
            num_domains=settings.num_domains,
            noise_strength=settings.noise_strength,
            noise_floor=settings.noise_floor,
            init_std=settings.init_std,
        )
        widths = dict.fromkeys(block.width for block in self.network.modules() if isinstance(block, Block))
        ranks = dict(zip(widths, settings.ranks, strict=True))
        self.draws = StepDraws(self.generator)
        self.adapters = add_gated_adapters(self.network, options, self.draws, self.generator, ranks)
        for adapter in self.adapters.values():
            adapter.requires_grad_(True)

    def parts(self) -> dict[str, Stateful]:
        """The gate of the last step."""
        return {"draws": self.draws}

    def step(self, images: Tensor) -> Tensor:
        """Returns the logarithms that decide, `(batch, classes, height, width)`. Waits for the device once."""
        target = self.frozen_logits(images)
        logits = self.enlarged(self.whole(self.network, images), images)
        loss = functional.cross_entropy(logits, target.argmax(dim=1), reduction="none")
        if self.settings.learn_from == "hard":
            chosen = loss.detach() >= self.settings.margin
        else:
            chosen = pixel_entropy(logits.detach()) < self.settings.margin * math.log(self.num_classes)
        self.record = {
            "selected": chosen.flatten(1).any(dim=1).sum(),
            "selected_pixels": chosen.double().mean(),
            "restored": scalar(0, images.device),
        }
        for adapter in self.adapters.values():
            adapter.choice = None
        if bool(chosen.any()):
            mean = pixel_mean(loss, chosen)
            self.descend(mean)
            parameters = self.trainable_parameters()
            count = sum(parameter.numel() for parameter in parameters.values())
            positions = random_positions(count, self.settings.restore_probability, self.generator)
            self.record |= {"loss": mean.detach(), "restored": restore(parameters, self.source_parameters, positions)}
        return target

    @torch.no_grad()
    def frozen_logits(self, images: Tensor) -> Tensor:
        """At each pixel what the network says to one view where it is sure; elsewhere its mean over views."""
        self.draws.renew(self.settings.num_domains)
        single, mean = self.single_and_mean(self.network, images, self.settings.views)
        anchor, own = self.source_confidence(self.network, images), single.amax(dim=1)
        sure = (own > self.settings.anchor_threshold) & (own >= anchor)
        return log(torch.where(sure.unsqueeze(1), single, mean))

    def diagnostics(self) -> Diagnostics:
        """`expert_usage`: mean weight of each adapter, by layer, since the last reset."""
        return expert_usage(self.adapters)
