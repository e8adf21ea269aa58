"""A student of segmentation that learns the classes that its moving average gives to views, as released for CoTTA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.device import scalar
from tta_core.methods.common.pixel_settings import PixelTeacherSettings
from tta_core.methods.common.pixels import AdaptingPixels, View, log
from tta_core.methods.common.teacher import TeacherStudent


class Target(NamedTuple):
    """What the student learns from.

    Attributes:
        logits: logarithms of the probabilities that decide, `(batch, classes, height, width)`; their largest is the
            class that is learned and scored.
        sure: share of the pixels at which the source is sure, no dimensions; -1 where one view leaves no choice.
    """

    logits: Tensor
    sure: Tensor


class PixelTeacher(AdaptingPixels[PixelTeacherSettings], TeacherStudent[PixelTeacherSettings]):
    """One step per batch towards the teacher's classes; scores them, as they are before the update."""

    def step(self, images: Tensor) -> Tensor:
        """Returns the target's logarithms `(batch, classes, height, width)`."""
        target = self.target(images)
        logits = self.enlarged(self.whole(self.network, images), images)
        loss = functional.cross_entropy(logits, target.logits.argmax(dim=1)) + self.further_loss(images)
        restored = self.update(loss, self.settings.ema, self.settings.restore_probability)
        self.record = {
            "loss": loss.detach(),
            "selected": scalar(len(images), images.device),
            "anchor_share": target.sure,
            "restored": restored,
        } | self.further_record()
        return target.logits

    def further_loss(self, images: Tensor) -> Tensor | float:
        """What a method adds to the loss after the student's forward."""
        return 0.0

    def further_record(self) -> dict[str, Tensor]:
        """What a method records beside."""
        return {}

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The target's, which are the scored ones."""
        return self.target(images).logits

    def look(self, view: View) -> None:
        """Called with each view of the teacher, for methods that measure how much these differ."""

    @torch.no_grad()
    def target(self, images: Tensor) -> Target:
        """At each pixel what the teacher says to one view where the source is sure; elsewhere its mean over views."""
        single, mean = self.single_and_mean(self.teacher, images, self.settings.views, self.look)
        if self.settings.views == 1 or self.settings.anchor_threshold >= 1:
            chosen = log(mean)
            return Target(chosen, scalar(-1.0, chosen.device))
        sure = self.source_confidence(self.teacher.network, images) > self.settings.anchor_threshold
        chosen = torch.where(sure.unsqueeze(1), single, mean)
        return Target(log(chosen), sure.double().mean())
