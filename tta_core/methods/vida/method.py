"""ViDA: puts an adapter of low and one of high rank beside attention, and weighs them by a mean teacher's uncertainty.

Paper: ViDA, ICLR 2024 (continual §4.4). Deviations from the release: adapters are warmed up here, on labelled source
images, and both are scaled, as in the paper; the release scales one only, see the preset `official`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.common.losses import teacher_loss, widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.teacher import TeacherStudent
from tta_core.methods.common.views import predict_views, random_view
from tta_core.methods.context import Artefact, Context
from tta_core.methods.spec import LABELLED_SOURCE_IMAGES
from tta_core.methods.vida.layers import (
    adapter_parameters,
    add_low_rank,
    set_scales,
    share_scales,
    signed_uncertainty,
    two_rates,
)
from tta_core.methods.vida.spec import ViDASettings
from tta_core.methods.vida.warm_up import warmed_up_adapters


class ViDA(TeacherStudent[ViDASettings]):
    """One step per batch towards the teacher; scores the teacher's logits on the plain batch, before the update.

    Attributes:
        scales: factors of the adapters of all layers, student's and teacher's, `(rank_low + rank_high,)`.
    """

    @classmethod
    def make_artefact(cls, network: nn.Module, settings: ViDASettings, context: Context) -> Artefact:
        """Adapters trained on the labelled source; nothing without a warm-up."""
        if not settings.warm_up:
            return {}
        context.require("vida", (LABELLED_SOURCE_IMAGES,))
        assert context.labelled_source is not None
        return warmed_up_adapters(network, context.labelled_source, settings)

    def prepare(self) -> None:
        """Adds the adapters and thaws what `train_scope` names."""
        layers = add_low_rank(
            self.network, self.settings.rank_low, self.settings.rank_high, self.generator, method="vida"
        )
        adapters = adapter_parameters(layers)
        self.adapter_names = frozenset(adapters)
        with torch.no_grad():
            for name, value in self.artefact.items():
                adapters[name].copy_(value)
        if self.settings.train_scope == "all":
            self.network.requires_grad_(True)
        for parameter in adapters.values():
            parameter.requires_grad_(True)
        self.scales = next(iter(layers.values())).scales

    def begin(self) -> None:
        """Makes the teacher, whose adapters have the scales of the student's."""
        super().begin()
        share_scales(self.teacher.network, self.scales)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """What the settings describe, with two learning rates."""
        settings, named = self.settings, self.trainable_parameters()
        rates = {"adapter_lr": settings.lr, "backbone_lr": settings.backbone_lr}
        return make_optimizer(self.settings, two_rates(named, self.adapter_names, **rates), fused=True)

    def step(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)` before the update."""
        uncertainty = self.uncertainty(images)
        low, high = self.allot(uncertainty)
        target = self.teacher(images)
        loss = teacher_loss(self.network(images), target, self.settings.loss)
        restored = self.update(loss, self.settings.ema, self.settings.restore_probability)
        self.record = {
            "loss": loss.detach(),
            "selected": scalar(len(images), images.device),
            "uncertainty": uncertainty,
            "low_scale": low,
            "high_scale": high,
            "restored": restored,
        }
        return target

    def uncertainty(self, images: Tensor) -> Tensor:
        """Unbiased variance of the logits over the teacher's views, averaged over images and classes, weighted; `()`.

        The adapters have the scales of the step before.
        """
        variance = widened(self.view_logits(images)).var(dim=0)
        return self.settings.uncertainty_weight * variance.mean()

    def view_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits on augmented views of the batch, `(views, batch, classes)`."""
        return predict_views(
            self.teacher,
            images,
            self.settings.views,
            self.generator,
            mean=self.context.mean,
            std=self.context.std,
            augment=self.augment,
        )

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """One view of images in [0, 1] (continual §4.1)."""
        return random_view(pixels, generator)

    def allot(self, uncertainty: Tensor) -> tuple[Tensor, Tensor]:
        """Sets the scales of both networks to 1 + u and 1 - u (homeostatic knowledge allotment).

        The adapters of high rank are enlarged where the uncertainty u has reached its threshold, those of low rank
        where it has not.

        Args:
            uncertainty: u, no dimensions.

        Returns:
            The scales of the adapters of low and of high rank, no dimensions.
        """
        settings = self.settings
        signed = signed_uncertainty(uncertainty, settings.uncertainty_threshold)
        low = 1 - signed
        high = 1 + signed if settings.scaled == "both" else torch.ones_like(signed)
        set_scales(self.scales, low, high, (settings.rank_low, settings.rank_high))
        return low, high

    def move_teacher(self, ema: float) -> None:
        """Moves the backbone by `ema`, the adapters at a pace of their own."""
        self.teacher.update(ema, self.trainable_parameters().keys() - self.adapter_names)
        self.teacher.update(self.settings.adapter_ema, self.adapter_names)
