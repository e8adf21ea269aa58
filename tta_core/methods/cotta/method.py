"""CoTTA: trains the whole network towards its own moving average, which sees random views where the source is unsure.

Paper: Wang et al., CVPR 2022 (mixed §2.6, continual §4.3). Deviations: the networks stay in eval mode, which avoids
stochastic depth; views are made of pixels, where MoETTA's and FOA's copies clip normalised images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.common.losses import teacher_loss, widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.surgery import norm_layers, thaw_weights, use_batch_statistics, uses_batch_statistics
from tta_core.methods.common.teacher import TeacherStudent
from tta_core.methods.common.views import predict_views, random_view
from tta_core.methods.cotta.spec import CoTTASettings

NOT_ASKED = -1.0
"""The anchor's confidence where the threshold makes the decision without it."""


class Target(NamedTuple):
    """What the student learns from.

    Attributes:
        logits: the teacher's, `(batch, classes)`, without a graph.
        confidence: the anchor's, no dimensions; `NOT_ASKED` where the threshold decides without it.
        augmented: whether the logits are the mean over random views, no dimensions.
    """

    logits: Tensor
    confidence: Tensor
    augmented: Tensor


class CoTTA(TeacherStudent[CoTTASettings]):
    """One step per batch towards the teacher; scores the teacher's logits before the update.

    Waits for the device once: how sure the source is of a batch decides whether the teacher predicts it or its views.
    With `run_views` "always", or a threshold that leaves no choice, it does not wait.

    The anchor is no third network: the teacher's runs with the source's values of the trained parameters, which are
    there for `reset` and for the restore.
    """

    def prepare(self) -> None:
        """Thaws what `train_scope` names."""
        norms = [name for name, _ in norm_layers(self.network)] if self.settings.train_scope == "norm" else None
        thaw_weights(self.network, "cotta", norms)
        if self.settings.batch_statistics:
            use_batch_statistics(self.network)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD or Adam, no weight decay."""
        return make_optimizer(self.settings, parameters, fused=True)

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits, of random views where the source is unsure, which are the scored ones."""
        return self.target(images).logits

    def step(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)` before the update."""
        target = self.target(images)
        loss = teacher_loss(self.network(images), target.logits, self.settings.loss)
        restored = self.update(loss, self.settings.ema, self.settings.restore_probability)
        self.record = {
            "loss": loss.detach(),
            "selected": scalar(len(images), images.device),
            "anchor_confidence": target.confidence,
            "augmented": target.augmented,
            "restored": restored,
        }
        return target.logits

    def target(self, images: Tensor) -> Target:
        """What the teacher says: to the batch, or, where the source is unsure of it, on average to its views."""
        threshold, not_asked = self.settings.anchor_threshold, scalar(NOT_ASKED, images.device)
        if threshold * self.num_classes <= 1:  # No largest probability is below that of a uniform distribution.
            return Target(self.teacher(images), not_asked, scalar(False, images.device))
        if threshold > 1:
            return Target(self.view_mean(images), not_asked, scalar(True, images.device))
        confidence = self.anchor_confidence(images)
        unsure = confidence < threshold
        if self.settings.run_views == "always":
            return Target(torch.where(unsure, self.view_mean(images), self.teacher(images)), confidence, unsure)
        return Target(self.view_mean(images) if bool(unsure) else self.teacher(images), confidence, unsure)

    @torch.no_grad()
    def anchor_confidence(self, images: Tensor) -> Tensor:
        """Largest probability of the source network, averaged over the batch, no dimensions."""
        logits = torch.func.functional_call(self.teacher.network, dict(self.source_parameters), (images,))
        return widened(logits).softmax(dim=-1).amax(dim=-1).mean()

    def view_mean(self, images: Tensor) -> Tensor:
        """The teacher's logits `(batch, classes)`, averaged over random views."""
        return widened(self.view_logits(images)).mean(dim=0)

    def view_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits on random views of the batch, `(views, batch, classes)`."""
        unchanged = self.settings.views_of == "inputs"
        return predict_views(
            self.teacher,
            images,
            self.settings.views,
            self.generator,
            mean=(0.0, 0.0, 0.0) if unchanged else self.context.mean,
            std=(1.0, 1.0, 1.0) if unchanged else self.context.std,
            augment=self.augment,
            images_at_once=len(images) if uses_batch_statistics(self.network) else None,
        )

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """One view of images in [0, 1] (continual §4.1)."""
        return random_view(pixels, generator)
