"""MoASE: puts experts with sparse activations beside every MLP and teaches the network by its own moving average.

Paper: MoASE, AAAI 2026 (moase §2). Deviations from the release, all in the default settings and not in `official`:
half of the experts keep their largest activations, the router reads the low half, each sample has its own gate.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from tta_core.methods.base import Diagnostics
from tta_core.methods.common.experts import expert_usage
from tta_core.methods.common.losses import soft_cross_entropy
from tta_core.methods.common.surgery import norm_layers, thaw_weights
from tta_core.methods.common.teacher import TeacherStudent
from tta_core.methods.moase.sparsity import ExpertOptions, SparseExperts, add_experts
from tta_core.methods.moase.spec import ExpertSettings, MoASESettings


class MoASE(TeacherStudent[MoASESettings]):
    """One step per batch on the cross-entropy to the teacher plus the distance to it.

    Student and teacher start equal and are only ever compared with each other, so every gradient is zero but for
    rounding at first, as released. Adam makes steps of the size of its learning rate out of that rounding, which sets
    off what follows; SGD hardly moves, unless with `hp_power` 1, whose gradient has length one at any distance.

    Attributes:
        adapters: the student's experts by qualified name.
    """

    def prepare(self) -> None:
        """Adds the experts and thaws what `train_scope` names."""
        self.adapters = thawed_experts(self.network, self.settings, self.generator)

    def begin(self) -> None:
        """Makes the teacher, equal to the student, whose experts show nothing."""
        super().begin()
        conceal(self.teacher.network)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, or SGD with Nesterov momentum; no weight decay."""
        return expert_optimizer(self.settings, parameters)

    def step(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)` before the update (moase §2.5)."""
        target = self.teacher(images)
        teacher_loss = soft_cross_entropy(self.network(images), target).mean()
        proximal_loss = self._proximal_loss()
        loss = teacher_loss + proximal_loss
        restored = self.update(loss, self.settings.ema, self.settings.restore_probability)
        self.record = {
            "loss": loss.detach(),
            "selected": torch.tensor(len(images)),
            "teacher_loss": teacher_loss.detach(),
            "proximal_loss": proximal_loss.detach(),
            "restored": restored,
        }
        return target

    def diagnostics(self) -> Diagnostics:
        """`expert_usage`: mean routing weight of each expert, by layer, since the last reset."""
        return expert_usage(self.adapters)

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


def thawed_experts(
    network: nn.Module, settings: ExpertSettings, generator: torch.Generator
) -> dict[str, SparseExperts]:
    """Adds the experts to a frozen network, thaws what `train_scope` names, and returns them by qualified name."""
    adapters = add_experts(network, expert_options(settings), generator)
    for adapter in adapters.values():
        adapter.requires_grad_(True)
    if settings.train_scope == "adapters+norm":
        for _, norm in norm_layers(network):
            norm.requires_grad_(True)
    elif settings.train_scope == "all":
        thaw_weights(network, "moase")
    return adapters


def conceal(network: nn.Module) -> None:
    """Lets the experts of a network show nothing of what they do."""
    for module in network.modules():
        if isinstance(module, SparseExperts):
            module.observed = False


def expert_optimizer(settings: ExpertSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum; no weight decay."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=settings.lr, betas=settings.betas, fused=True)
    return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, nesterov=True, fused=True)


def expert_options(settings: ExpertSettings) -> ExpertOptions:
    """The settings that concern the experts."""
    values: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(ExpertOptions)}
    if settings.constant_total_rank:
        values["bottleneck"] = settings.bottleneck // settings.num_experts
    return ExpertOptions(**values)
