"""MoASE: puts experts with sparse activations beside every MLP and teaches the network by its own moving average.

Paper: MoASE, AAAI 2026 (moase §2). Deviations from the release, all in the default settings and not in `official`:
half of the experts keep their largest activations, the router reads the low half, each sample has its own gate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tta_core.device import scalar
from tta_core.methods.common.losses import soft_cross_entropy
from tta_core.methods.moase.spec import MoASESettings
from tta_core.methods.moase.student import SparseStudent


class MoASE(SparseStudent[MoASESettings]):
    """One step per batch on the cross-entropy to the teacher plus the distance to it.

    Student and teacher start equal and are only ever compared with each other, so every gradient is zero but for
    rounding at first, as released. Adam makes steps of the size of its learning rate out of that rounding, which sets
    off what follows; SGD hardly moves, unless with `hp_power` 1, whose gradient has length one at any distance.
    """

    def step(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)` before the update (moase §2.5)."""
        target = self.teacher(images)
        teacher_loss = soft_cross_entropy(self.network(images), target).mean()
        self.backward(teacher_loss)
        proximal_loss = self._add_proximal_gradient()
        restored = self.update(None, self.settings.ema, self.settings.restore_probability)
        self.record = {
            "loss": teacher_loss.detach() + proximal_loss,
            "selected": scalar(len(images), images.device),
            "teacher_loss": teacher_loss.detach(),
            "proximal_loss": proximal_loss,
            "restored": restored,
        }
        return target

    def _add_proximal_gradient(self) -> Tensor:
        """Adds the gradient of half the experts' distance to the teacher's, or of its square; returns the loss.

        That is step 3 of moase §2.5. On its own it goes to all tensors at once.
        """
        experts = list(self.expert_parameters().values())
        loss = self.settings.hp_weight / 2 * self.distance_to_teacher(self.settings.hp_power)
        gradients = [parameter.grad for parameter in experts if parameter.grad is not None]
        torch._foreach_add_(gradients, list(torch.autograd.grad(loss, experts)))
        return loss.detach()
