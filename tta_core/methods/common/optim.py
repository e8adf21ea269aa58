"""Online optimizers: made from settings, the ascent of sharpness-aware minimisation, Adam's memory as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tta_core.methods.common.optimizer_settings import OptimizerSettings

NORM_EPSILON = 1e-12


def make_optimizer(
    settings: OptimizerSettings,
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    *,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """The optimizer that the settings describe; groups of parameters may have an `lr` of their own.

    `fused` steps in one pass over the memory, which counts where whole networks are trained.
    """
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=settings.lr, betas=settings.betas, fused=fused)
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=fused)


@torch.no_grad()
def ascend(parameters: Sequence[nn.Parameter], rho: float) -> list[Tensor]:
    """Moves parameters by `rho` up their joint gradient: the first half of a SAM step (imse §1.4).

    With g the gradients of all parameters, one behind the other, each moves by its part of `rho * g / (|g| + 1e-12)`.
    Parameters without a gradient stay where they are. No host synchronisation.

    Args:
        parameters: parameters with their gradients.
        rho: length of the move, in the units of the parameters.

    Returns:
        The values before the move, for `put_back`.
    """
    before = [torch.empty_like(parameter) for parameter in parameters]
    put_back(before, parameters)
    moved: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if moved:
        torch._foreach_add_(moved, list(torch._foreach_mul(gradients, rho / (norm + NORM_EPSILON))))
    return before


@torch.no_grad()
def put_back(parameters: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Puts back, bit for bit, the values that `ascend` returned, or others of the same shapes."""
    if parameters:
        torch._foreach_copy_(list(parameters), list(before))


def adam_memory(optimizer: torch.optim.Adam, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Copies step counts and moments of Adam into one vector `(parameters + 2 x scalars,)` on the parameters' device.

    A parameter that Adam has not stepped yet counts as one with step 0 and moments of 0, which is the same.
    """
    steps, moments = [], []
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        steps.append(state["step"].to(parameter) if state else parameter.new_zeros(()))
        moments += [state[key] if state else torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")]
    return torch.cat([torch.stack(steps).detach(), *(moment.detach().flatten() for moment in moments)])


def load_adam_memory(optimizer: torch.optim.Adam, parameters: Sequence[nn.Parameter], memory: Tensor) -> None:
    """Takes back what `adam_memory` gave for the same parameters; `memory` is copied."""
    sizes = [size for parameter in parameters for size in (parameter.numel(), parameter.numel())]
    steps, *moments = memory.clone().split([len(parameters), *sizes])
    for number, parameter in enumerate(parameters):
        optimizer.state[parameter] = {
            "step": steps[number].to("cpu", torch.float32),
            "exp_avg": moments[2 * number].view_as(parameter),
            "exp_avg_sq": moments[2 * number + 1].view_as(parameter),
        }
