"""ViDA, for segmentation: adapters of low and of high rank beside attention, in CoTTA's released step for pixels.

Its own step for Cityscapes to ACDC was not released. Assumed: the uncertainty is the variance of the logits over the
teacher's views, at the size of the maps, mean over pixels and classes; it sets the scales of the next step. The
adapters are warmed up here on labelled source images.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.data.files.label_maps import IGNORED
from tta_core.methods.common.losses import widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.pixel_teacher import PixelTeacher, Target
from tta_core.methods.common.pixels import View, at_ratio, resized
from tta_core.methods.common.surgery import thaw_weights
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
from tta_core.methods.vida.pixel_spec import PixelViDASettings
from tta_core.methods.vida.warm_up import warmed_up_adapters


class PixelViDA(PixelTeacher):
    """One step per batch, see `PixelTeacher`.

    Attributes:
        moments: sums of the views' logits and of their squares, of the image at hand.
        uncertainty: how much the views of the image at hand differ, no dimensions.
        scales: factors of the adapters of all layers, student's and teacher's, `(rank_low + rank_high,)`.
    """

    moments: tuple[Tensor, Tensor] | None = None
    uncertainty: Tensor

    @property
    def own(self) -> PixelViDASettings:
        """The settings, as ViDA's."""
        return cast(PixelViDASettings, self.settings)

    @classmethod
    def make_artefact(  # type: ignore[override]
        cls, network: nn.Module, settings: PixelViDASettings, context: Context
    ) -> Artefact:
        """Adapters trained on the labelled source; nothing without a warm-up."""
        if not settings.warm_up:
            return {}
        context.require("vida", (LABELLED_SOURCE_IMAGES,))
        assert context.labelled_source is not None

        def loss(edited: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            logits = widened(edited(at_ratio(images, context.base_scale)))
            enlarged = resized(logits, (labels.shape[-2], labels.shape[-1]))
            return functional.cross_entropy(enlarged, labels.long(), ignore_index=IGNORED)

        return warmed_up_adapters(network, context.labelled_source, settings, loss)

    def prepare(self) -> None:
        """Adds the adapters and thaws what `train_scope` names."""
        layers = add_low_rank(self.network, self.own.rank_low, self.own.rank_high, self.generator, method="vida")
        adapters = adapter_parameters(layers)
        self.adapter_names = frozenset(adapters)
        with torch.no_grad():
            for name, value in self.artefact.items():
                adapters[name].copy_(value)
        if self.own.train_scope == "all":
            thaw_weights(self.network, "vida")
        for parameter in adapters.values():
            parameter.requires_grad_(True)
        self.scales = next(iter(layers.values())).scales

    def begin(self) -> None:
        """Makes the teacher, whose adapters have the scales of the student's."""
        super().begin()
        share_scales(self.teacher.network, self.scales)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """What the settings describe, with two learning rates."""
        settings, named = self.own, self.trainable_parameters()
        rates = {"adapter_lr": settings.lr, "backbone_lr": settings.backbone_lr}
        return make_optimizer(self.settings, two_rates(named, self.adapter_names, **rates))

    def look(self, view: View) -> None:
        """Adds a view's logits and their squares."""
        if self.moments is None:
            self.moments = torch.zeros_like(view.logits), torch.zeros_like(view.logits)
        total, squares = self.moments
        total.add_(view.logits)
        squares.addcmul_(view.logits, view.logits)

    def target(self, images: Tensor) -> Target:
        """As of all such methods; also how much the views differ."""
        self.moments = None
        found = super().target(images)
        assert self.moments is not None, "there is a view"
        total, squares = self.moments
        views = self.settings.views
        variance = squares.addcmul_(total, total, value=-1 / views) / max(1, views - 1)
        self.uncertainty = self.own.uncertainty_weight * variance.mean()
        self.moments = None
        return found

    def further_record(self) -> dict[str, Tensor]:
        """The uncertainty, and the scales that it sets for the next step: 1 + u for one, 1 - u for the other."""
        settings, u = self.own, self.uncertainty.detach()
        signed = signed_uncertainty(u, settings.uncertainty_threshold) if settings.allotment else torch.zeros_like(u)
        low, high = 1 - signed, 1 + signed
        set_scales(self.scales, low, high, (settings.rank_low, settings.rank_high))
        return {"uncertainty": u, "low_scale": low, "high_scale": high}
