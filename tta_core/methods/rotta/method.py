"""RoTTA: trains the affine pair of BatchNorm on a balanced memory, with robust statistics and a mean teacher.

Paper: Yuan, Xie and Li, CVPR 2023. Deviations: without BatchNorm (vision transformers) the affine pair of all
normalisation layers is trained and there are no statistics to adapt; the strong view is CoTTA's, one draw for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_core.device import scalar, upload
from tta_core.methods.common.batch_norm import RunningBatchNorm, batch_norms, replace_batch_norms
from tta_core.methods.common.losses import soft_cross_entropy, widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.common.teacher import TeacherStudent
from tta_core.methods.common.views import normalised_view, random_view
from tta_core.methods.rotta.memory import BalancedMemory
from tta_core.methods.rotta.spec import RoTTASettings
from tta_core.methods.stateful import Stateful

ENTROPY_EPSILON = 1e-6
"""Added to a probability before its logarithm in the entropy by which the memory decides, as released."""


class RoTTA(TeacherStudent[RoTTASettings]):
    """Updates once in `update_frequency` samples on the whole memory; scores the teacher's logits before any update.

    Waits for the device once: for the predicted classes and entropies of the batch, from which the memory decides.
    `selected` counts the samples of the batch that the memory took, whether or not another has taken their place since.

    Attributes:
        memory: what updates learn from.
    """

    def prepare(self) -> None:
        """Replaces BatchNorm and thaws its affine pair; without any, that of the other normalisation layers."""
        if not batch_norms(self.network):
            thaw_norms(self.network, "rotta")
            return
        for layer in replace_batch_norms(self.network, "rotta", self._layer).values():
            layer.requires_grad_(True)

    def begin(self) -> None:
        """Makes the teacher, equal to the student, and an empty memory."""
        super().begin()
        settings, networks = self.settings, self.networks().values()
        self.layers = [m for network in networks for m in network.modules() if isinstance(m, RunningBatchNorm)]
        self.memory = BalancedMemory(
            settings.capacity, self.num_classes, settings.lambda_timeliness, settings.lambda_uncertainty
        )

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam or SGD, no weight decay."""
        return make_optimizer(self.settings, parameters)

    def parts(self) -> dict[str, Stateful]:
        """The memory."""
        return {"memory": self.memory}

    @property
    def watched(self) -> nn.Module:
        """The teacher: the student sees what is in the memory only."""
        return self.teacher.network

    def step(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)` from before the update."""
        scored = self.teacher(images)
        probabilities = widened(scored).softmax(dim=-1)
        entropy = -(probabilities * (probabilities + ENTROPY_EPSILON).log()).sum(dim=-1)
        decided = torch.stack([scored.argmax(dim=-1).to(entropy.dtype), entropy]).tolist()
        taken, losses = 0, []
        for position, (category, uncertainty) in enumerate(zip(*decided, strict=True)):
            taken += self.memory.offer(int(category), uncertainty, position)
            if self.memory.offered % self.settings.update_frequency == 0:
                self.memory.fetch(images)
                losses.append(self._update())
        self.memory.fetch(images)
        ages = self.memory.ages()
        self.record = {
            "selected": scalar(taken, images.device),
            "memory_size": scalar(len(ages), images.device),
            "memory_classes": scalar(len({kept.category for kept in self.memory.entries}), images.device),
            "memory_age": scalar(sum(ages) / len(ages), images.device),
            "updates": scalar(len(losses), images.device),
        }
        if losses:
            self.record["loss"] = torch.stack(losses).mean()
        return scored

    def _update(self) -> Tensor:
        """One step of the student on the memory, then of the teacher; returns the loss."""
        settings, images = self.settings, self.memory.content()
        view = images
        if settings.strong_view:
            view = normalised_view(images, self.context, self.generator, self.augment)
        with self._statistics_move():
            target = self.teacher(images)
            losses = soft_cross_entropy(self.network(view), target)
        if settings.timeliness_weighting:
            losses = losses * timeliness_weights(self.memory.ages(), settings.capacity, losses)
        loss = losses.mean() / (self.num_classes if settings.mean_over_classes else 1)
        self.update(loss, 1 - settings.teacher_update)
        return loss.detach()

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The strong view of images in [0, 1]."""
        return random_view(pixels, generator)

    def _layer(self, norm: _BatchNorm) -> RunningBatchNorm:
        return RunningBatchNorm(norm, self.settings.norm_momentum, updating=False)

    @contextmanager
    def _statistics_move(self) -> Iterator[None]:
        """Lets the statistics of student and teacher follow what each sees; outside they only predict."""
        for layer in self.layers:
            layer.updating = True
        try:
            yield
        finally:
            for layer in self.layers:
                layer.updating = False


def timeliness_weights(ages: list[int], capacity: int, like: Tensor) -> Tensor:
    """Weight of each image by its age A, exp(-A / N) / (1 + exp(-A / N)) with capacity N (equation 6).

    Args:
        ages: in samples.
        capacity: of the memory.
        like: gives device and type.

    Returns:
        `(images,)`, below 1/2.
    """
    relative = torch.tensor(ages, dtype=like.dtype) / capacity
    return torch.sigmoid(-upload(relative, like.device))
