"""MoASE: puts experts with sparse activations beside every MLP and teaches the network by its own moving average.

Paper: MoASE, AAAI 2026 (moase §2). Deviations from the release, all in the default settings and not in `official`:
half of the experts keep their largest activations, the router reads the low half, each sample has its own gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tta_core.methods.base import Diagnostics, Method
from tta_core.methods.common.losses import soft_cross_entropy
from tta_core.methods.common.surgery import norm_layers, thaw_weights
from tta_core.methods.common.teacher import MeanTeacher, random_positions, restore
from tta_core.methods.moase.sparsity import ExpertOptions, SparseExperts, add_experts
from tta_core.methods.moase.spec import ExpertSettings, MoASESettings

Settings = TypeVar("Settings", bound=ExpertSettings)


class ExpertMethod(Method[Settings]):
    """What MoASE and MoASE++ share: the experts, the mean teacher, and the update of both.

    Student and teacher start equal and are only ever compared with each other, so every gradient is zero but for
    rounding at first, as released. Adam makes steps of the size of its learning rate out of that rounding, which sets
    off what follows; SGD hardly moves, unless with `hp_power` 1, whose gradient has length one at any distance.

    Attributes:
        adapters: the student's experts by qualified name.
        teacher: the moving average of the student.
    """

    def prepare(self) -> None:
        """Adds the experts and thaws what `train_scope` names."""
        self.adapters = add_experts(self.network, expert_options(self.settings), self.generator)
        for adapter in self.adapters.values():
            adapter.requires_grad_(True)
        if self.settings.train_scope == "adapters+norm":
            for _, norm in norm_layers(self.network):
                norm.requires_grad_(True)
        elif self.settings.train_scope == "all":
            thaw_weights(self.network, "moase")

    def begin(self) -> None:
        """Makes the teacher, equal to the student."""
        self.teacher = MeanTeacher(self.network)
        # The experts' initial values come from the generator, not from the backbone: they are part of the state.
        self.initial_experts = {
            name: parameter.detach().clone()
            for name, parameter in self.trainable_parameters().items()
            if name.rpartition(".adapter.")[1]
        }
        for module in self.teacher.network.modules():
            if isinstance(module, SparseExperts):
                module.observed = False

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits, which are the scored ones."""
        return self.teacher(images)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, or SGD with Nesterov momentum; no weight decay."""
        settings = self.settings
        if settings.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=settings.lr, betas=settings.betas, fused=True)
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, nesterov=True, fused=True)

    def update(self) -> int:
        """Steps the student, moves the teacher, restores single numbers; returns how many (moase §2.5, steps 4-6)."""
        assert self.optimizer is not None
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.teacher.update(self.settings.ema)
        student, positions = self.trainable_parameters(), self.draw_restored()
        source = {**self.source_parameters, **self.initial_experts}
        restore(list(student.values()), [source[name] for name in student], positions)
        return len(positions)

    def draw_restored(self) -> Tensor:
        """Positions in the trained parameters laid end to end that return to the source; ascending, on the CPU."""
        count = sum(parameter.numel() for parameter in self.trainable_parameters().values())
        return random_positions(count, self.settings.restore_probability, self.generator)

    def extra_state(self) -> dict[str, Tensor]:
        """The teacher, and what the experts return to."""
        return self.teacher.state() | {f"initial.{name}": value for name, value in self.initial_experts.items()}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `extra_state` gave."""
        self.teacher.load_state(state)
        self.initial_experts = {name: state[f"initial.{name}"] for name in self.initial_experts}

    def diagnostics(self) -> Diagnostics:
        """`expert_usage`: mean routing weight of each expert, by layer, since the last reset."""
        return {
            "expert_usage": {
                name: (adapter.usage / adapter.usage.sum().clamp(min=1)).tolist()
                for name, adapter in self.adapters.items()
            }
        }


class MoASE(ExpertMethod[MoASESettings]):
    """One step per batch on the cross-entropy to the teacher plus the distance to it; scores the teacher's logits."""

    def step(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)` before the update (moase §2.5)."""
        target = self.teacher(images)
        teacher_loss = soft_cross_entropy(self.network(images), target).mean()
        proximal_loss = self._proximal_loss()
        loss = teacher_loss + proximal_loss
        loss.backward()
        restored = self.update()
        self.record = {
            "loss": loss.detach(),
            "selected": torch.tensor(len(images)),
            "teacher_loss": teacher_loss.detach(),
            "proximal_loss": proximal_loss.detach(),
            "restored": torch.tensor(restored),
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


def expert_options(settings: ExpertSettings) -> ExpertOptions:
    """The settings that concern the experts."""
    values: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(ExpertOptions)}
    if settings.constant_total_rank:
        values["bottleneck"] = settings.bottleneck // settings.num_experts
    return ExpertOptions(**values)
