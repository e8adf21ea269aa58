"""The mean teacher of a network, and the stochastic return of trained parameters to the source (CoTTA, MoASE, ViDA)."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn


class MeanTeacher:
    """An exponential moving average of a network, which it starts equal to.

    It shares the parameters that the network does not train, so it costs one copy of those that it does. Its state is
    empty before it has moved: a method that keeps its first state for a reset keeps no second copy of the network.

    Attributes:
        network: the averaged network; nothing in it has a gradient.
        parameters: its averaged parameters by qualified name.
        moved: whether it may differ from the network as that was when the teacher was made.
    """

    def __init__(self, network: nn.Module) -> None:
        frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
        self.network = copy.deepcopy(network, memo=frozen).requires_grad_(False)
        own = dict(self.network.named_parameters())
        self._student = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.parameters: dict[str, Tensor] = {name: own[name] for name in self._student}
        self.moved = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)`."""
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def update(self, momentum: float, names: Collection[str] | None = None) -> None:
        """Moves averaged parameters, all or those named, to `momentum` times themselves plus the rest of the student's.

        Of parameters that have a momentum of their own, each kind is moved by a call.
        """
        moved = [name for name in self.parameters if names is None or name in names]
        if moved:
            own, student = ([tensors[name] for name in moved] for tensors in (self.parameters, self._student))
            torch._foreach_lerp_(own, student, 1 - momentum)
            self.moved = True

    def state(self) -> dict[str, Tensor]:
        """The averaged parameters, for `Method.extra_state`; nothing before they moved."""
        return {f"teacher.{name}": parameter for name, parameter in self.parameters.items()} if self.moved else {}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave; other entries are not looked at.

        A teacher that had not moved equals its network, whose parameters must have been put back before.
        """
        self.moved = any(f"teacher.{name}" in state for name in self.parameters)
        for name, parameter in self.parameters.items():
            parameter.copy_(state[f"teacher.{name}"] if self.moved else self._student[name])


def random_positions(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draws each of `count` positions with the same probability, independently of the others.

    The gaps between neighbours are geometric, so the cost goes with the number of positions that are drawn. The draws
    are on the CPU: all devices get the same, and their number is known without waiting for a device.

    Returns:
        The positions in ascending order, int64 `(drawn,)`, on the CPU.
    """
    if probability <= 0:
        return torch.empty(0, dtype=torch.int64)
    if probability >= 1:
        return torch.arange(count)
    expected = count * probability
    chunk = int(expected + 6 * math.sqrt(expected)) + 16  # One chunk is nearly always enough.
    drawn: list[Tensor] = []
    last = -1
    while last < count:
        gaps = torch.empty(chunk, dtype=torch.float64).geometric_(probability, generator=generator)
        drawn.append(last + gaps.cumsum(0).long())
        last = int(drawn[-1][-1])
    positions = torch.cat(drawn)
    return positions[: int(torch.searchsorted(positions, count))]


@torch.no_grad()
def restore(parameters: Sequence[Tensor], source: Iterable[Tensor], positions: Tensor) -> None:
    """Sets single elements of parameters back to their source values, in place.

    Args:
        parameters: tensors that are changed, contiguous.
        source: what they were, tensors of the same shapes.
        positions: ascending positions in all parameters laid end to end, int64 `(restored,)`, on the CPU.
    """
    sizes = torch.tensor([parameter.numel() for parameter in parameters])
    ends = sizes.cumsum(0)
    borders = [0, *torch.searchsorted(positions, ends).tolist()]
    device = parameters[0].device
    if device.type == "cuda":
        positions = positions.pin_memory()  # Only then does the copy not wait for the device.
    positions = positions.to(device, non_blocking=True)
    starts = (ends - sizes).tolist()
    for number, (parameter, value) in enumerate(zip(parameters, source, strict=True)):
        if borders[number] == borders[number + 1]:  # Most biases are too short to be met.
            continue
        inside = positions[borders[number] : borders[number + 1]] - starts[number]
        parameter.view(-1).index_copy_(0, inside, value.view(-1)[inside])
