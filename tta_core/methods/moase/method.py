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
        proximal_loss = self._proximal_loss()
        loss = teacher_loss + proximal_loss
        restored = self.update(loss, self.settings.ema, self.settings.restore_probability)
        self.record = {
            "loss": loss.detach(),
            "selected": scalar(len(images), images.device),
            "teacher_loss": teacher_loss.detach(),
            "proximal_loss": proximal_loss.detach(),
            "restored": restored,
        }
        return target

    def _proximal_loss(self) -> Tensor:
        """Half the distance, or its square, of each expert's tensors to the teacher's, summed (moase §2.5, step 3)."""
        terms = [
            proximal(parameter, self.teacher.parameters[f"{layer}.{name}"], self.settings.hp_power)
            for layer, adapter in self.adapters.items()
            for name, parameter in adapter.expert_parameters().items()
        ]
        return self.settings.hp_weight / 2 * torch.stack(terms).sum()


def proximal(student: Tensor, teacher: Tensor, power: int) -> Tensor:
    """Sum over experts of the distance of two tensors `(experts, ...)`, or of its square.

    At equal tensors the gradient of the distance is 0, as that of its square.
    """
    difference = (student - teacher).flatten(1)
    if power == 2:
        return difference.square().sum()
    return torch.linalg.vector_norm(difference, dim=1).sum()
