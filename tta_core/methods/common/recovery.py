"""How the steps of SAR and DPAL end: an update that may not count, and a return to the source after a collapse.

What decides is a number that only the device knows: how many samples a second pass selected, and the moving average of
their loss. So both outcomes are computed and the device takes one; nothing here waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tta_core.methods.stateful import Remembering


class Recovery(Remembering):
    """The model recovery of SAR: follows the loss, and goes back to the source where its average is suspiciously low.

    An entropy near 0 for all samples is what a collapsed network predicts (mixed §2.4).

    Attributes:
        average: moving average of the loss in nat, float64 `()`; 0 before the first one.
        started: whether it holds one, bool `()`.
    """

    remembers = ("average", "started")

    def __init__(self, threshold: float, keep: float, *, clears_memory: bool, device: torch.device) -> None:
        """Makes a recovery that has seen nothing.

        Args:
            threshold: average, in nat, below which the network has collapsed; 0 for never.
            keep: share of the old average in the new one.
            clears_memory: whether going back clears the average and the optimizer's momentum too; without it the
                momentum goes on, and so does the low average, which sends the next steps back as well.
            device: where the losses are.
        """
        self.threshold = threshold
        self.keep = keep
        self.clears_memory = clears_memory
        self.average = torch.zeros((), dtype=torch.float64, device=device)
        self.started = torch.zeros((), dtype=torch.bool, device=device)

    @torch.no_grad()
    def follow(self, loss: Tensor, counts: Tensor) -> None:
        """Takes the loss `()` of a step into the average where `counts`, bool `()`, holds."""
        loss = loss.double()
        moved = torch.where(self.started, self.keep * self.average + (1 - self.keep) * loss, loss)
        self.average = torch.where(counts, moved, self.average)
        self.started = self.started | counts

    @torch.no_grad()
    def recover(
        self,
        optimizer: torch.optim.SGD,
        parameters: Mapping[str, nn.Parameter],
        source: Mapping[str, Tensor],
        forgetful: Sequence[nn.Parameter] = (),
    ) -> dict[str, Tensor]:
        """Puts the source back into `parameters` if the average is below the threshold.

        Args:
            optimizer: the optimizer of the parameters.
            parameters: what is trained, by name.
            source: its values before the stream, by the same names.
            forgetful: parameters whose momentum is cleared even if that of the others goes on.

        Returns:
            What a step records: `ema`, the average that decided, and `reset`, whether it was too low.
        """
        collapsed = self.started & (self.average < self.threshold)
        record = {"ema": self.average, "reset": collapsed}
        if self.threshold > 0:
            live = list(parameters.values())
            assign(live, torch.where(collapsed, flat([source[name] for name in parameters]), flat(live)))
            momenta = list(_momenta(optimizer, live if self.clears_memory else forgetful).values())
            if momenta:
                # A cleared buffer is one of zeros: the next step puts its gradient into either.
                assign(momenta, torch.where(collapsed, 0, flat(momenta)))
            if self.clears_memory:
                self.average = torch.where(collapsed, 0, self.average)
                self.started = self.started & ~collapsed
        return record


@torch.no_grad()
def step_where(optimizer: torch.optim.SGD, made: Tensor) -> None:
    """One step of the parameters that have a gradient; where `made`, bool `()`, is false, bit for bit none at all.

    A gradient of zero is not enough for that: momentum alone would move them.
    """
    moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    values, old = flat(moved), _momenta(optimizer, moved)
    memory = {p: old[p].clone() if p in old else torch.zeros_like(p) for p in moved}
    optimizer.step()
    assign(moved, torch.where(made, flat(moved), values))
    new = _momenta(optimizer, moved)
    if new:
        momenta = list(new.values())
        assign(momenta, torch.where(made, flat(momenta), flat([memory[p] for p in new])))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all values in one row `(scalars,)`: one operation on a device in place of one for each tensor."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@torch.no_grad()
def assign(tensors: Sequence[Tensor], row: Tensor) -> None:
    """Puts back, in place, what `flat` gave."""
    parts = row.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])


def _momenta(optimizer: torch.optim.SGD, parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """The momentum buffers of those of the parameters that have one; not copies."""
    found = {p: optimizer.state[p].get("momentum_buffer") for p in parameters if p in optimizer.state}
    return {p: buffer for p, buffer in found.items() if buffer is not None}
