"""Methods whose network learns from its own moving average, and the random return of single numbers to the source."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from typing import TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from tta_core.device import scalar, upload, works_in_pieces
from tta_core.methods.base import Method

Settings = TypeVar("Settings", bound=BaseModel)


class MeanTeacher:
    """An exponential moving average of a network, which it starts equal to.

    It shares the parameters that the network does not train, so it costs one copy of those that it does.

    Attributes:
        network: the averaged network; nothing in it has a gradient.
        parameters: its averaged parameters by qualified name.
    """

    def __init__(self, network: nn.Module) -> None:
        frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
        self.network = copy.deepcopy(network, memo=frozen).requires_grad_(False)
        own = dict(self.network.named_parameters())
        self._student = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.parameters: dict[str, Tensor] = {name: own[name] for name in self._student}

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


class TeacherStudent(Method[Settings]):
    """A student that learns from its moving average, whose logits are the scored ones.

    Attributes:
        teacher: the moving average of the student.
    """

    def begin(self) -> None:
        """Makes the teacher, equal to the student."""
        self.teacher = MeanTeacher(self.network)

    def networks(self) -> dict[str, nn.Module]:
        """Student and teacher."""
        return super().networks() | {"teacher": self.teacher.network}

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits, which are the scored ones."""
        return self.teacher(images)

    def update(self, loss: Tensor | None, ema: float, restore_probability: float = 0.0) -> Tensor:
        """Steps the student, then moves the teacher, then returns single numbers of the student to the source.

        Args:
            loss: what the student descends; None for the gradients that are there.
            ema: share of itself that the teacher keeps.
            restore_probability: with which each trained number returns.

        Returns:
            How many numbers returned, no dimensions.
        """
        self.descend(loss)
        self.move_teacher(ema)
        return restore(self.trainable_parameters(), self.source_parameters, self.draw_restored(restore_probability))

    def move_teacher(self, ema: float) -> None:
        """Moves the teacher towards the student; it keeps the share `ema` of itself."""
        self.teacher.update(ema)

    def draw_restored(self, probability: float) -> Tensor:
        """Positions in the trained parameters laid end to end that return to the source, as `restore` takes them."""
        count = sum(parameter.numel() for parameter in self.trainable_parameters().values())
        return random_positions(count, probability, self.generator)


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
def restore(parameters: Mapping[str, Tensor], source: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Sets single elements of parameters back to their source values, in place.

    Args:
        parameters: tensors that are changed, contiguous.
        source: what they were, tensors of the same shapes under the same names.
        positions: ascending positions in all parameters laid end to end, int64 `(restored,)`, on the CPU.

    Returns:
        How many elements that were, no dimensions.
    """
    device = next(iter(parameters.values())).device
    restored = scalar(len(positions), device)
    if not len(positions):  # Known on the host.
        return restored
    if not works_in_pieces(device):
        _restore_together(list(parameters.values()), [source[name] for name in parameters], upload(positions, device))
        return restored
    sizes = torch.tensor([parameter.numel() for parameter in parameters.values()])
    ends = sizes.cumsum(0)
    borders = [0, *torch.searchsorted(positions, ends).tolist()]
    starts = (ends - sizes).tolist()
    for number, (name, parameter) in enumerate(parameters.items()):
        if borders[number] == borders[number + 1]:  # Most biases are too short to be met.
            continue
        inside = positions[borders[number] : borders[number + 1]] - starts[number]
        parameter.view(-1).index_copy_(0, inside, source[name].view(-1)[inside])
    return restored


def _restore_together(parameters: list[Tensor], source: list[Tensor], positions: Tensor) -> None:
    """The same with few operations, which read all numbers of all parameters."""
    sizes = [parameter.numel() for parameter in parameters]
    restored = torch.zeros(sum(sizes), device=positions.device, dtype=parameters[0].dtype).index_fill_(0, positions, 1)
    parts = [part.view_as(parameter) for part, parameter in zip(restored.split(sizes), parameters, strict=True)]
    # With weight 0 or 1 either value is taken bit for bit.
    torch._foreach_lerp_(parameters, source, parts)
