"""What MoASE and MoASE++ share: a student with experts beside every MLP, and its moving average (moase §2)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tta_core.methods.base import Diagnostics
from tta_core.methods.common.experts import expert_usage
from tta_core.methods.common.surgery import norm_layers, thaw_weights
from tta_core.methods.common.teacher import TeacherStudent
from tta_core.methods.moase.distance import distance
from tta_core.methods.moase.sparsity import ExpertOptions, SparseExperts, add_experts
from tta_core.methods.moase.spec import ExpertSettings

Settings = TypeVar("Settings", bound=ExpertSettings)


class SparseStudent(TeacherStudent[Settings]):
    """A student with experts, whose teacher is equal to it at first.

    Attributes:
        adapters: the student's experts by qualified name.
    """

    def prepare(self) -> None:
        """Adds the experts and thaws what `train_scope` names."""
        self.adapters = self.added_experts()
        for adapter in self.adapters.values():
            adapter.requires_grad_(True)
        if self.settings.train_scope == "adapters+norm":
            for _, norm in norm_layers(self.network):
                norm.requires_grad_(True)
        elif self.settings.train_scope == "all":
            thaw_weights(self.network, "moase")

    def added_experts(self) -> dict[str, SparseExperts]:
        """Puts the experts into the network; by qualified name."""
        return add_experts(self.network, expert_options(self.settings), self.generator)

    def begin(self) -> None:
        """Makes the teacher, whose experts show nothing of what they do."""
        super().begin()
        for module in self.teacher.network.modules():
            if isinstance(module, SparseExperts):
                module.observed = False

    def update(self, loss: Tensor | None, ema: float, restore_probability: float = 0.0) -> Tensor:
        """As every student's; counts the usage of the experts, of all layers at once."""
        used = torch.stack([adapter.routing for adapter in self.adapters.values() if adapter.routing is not None])
        torch._foreach_add_([adapter.usage for adapter in self.adapters.values()], list(used.sum(dim=1).unbind()))
        return super().update(loss, ema, restore_probability)

    def expert_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the student's experts by qualified name."""
        return {
            f"{layer}.{name}": parameter
            for layer, adapter in self.adapters.items()
            for name, parameter in adapter.expert_parameters().items()
        }

    def distance_to_teacher(self, power: int) -> Tensor:
        """Sum of the distance of each expert's tensors to the teacher's, or of its square."""
        students = self.expert_parameters()
        return distance(list(students.values()), [self.teacher.parameters[name] for name in students], power)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, or SGD with Nesterov momentum; no weight decay."""
        settings = self.settings
        if settings.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=settings.lr, betas=settings.betas, fused=True)
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, nesterov=True, fused=True)

    def diagnostics(self) -> Diagnostics:
        """`expert_usage`: mean routing weight of each expert, by layer, since the last reset."""
        return expert_usage(self.adapters)


def expert_options(settings: ExpertSettings) -> ExpertOptions:
    """The settings that concern the experts."""
    values: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(ExpertOptions)}
    if settings.constant_total_rank:
        values["bottleneck"] = settings.bottleneck // settings.num_experts
    return ExpertOptions(**values)
