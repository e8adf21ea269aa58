"""How much memory the tensors of each method take at most, with all images in the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tta_core.backbones.precision import autocast
from tta_core.bench.candidate import reason
from tta_core.bench.instruments import TensorMemory
from tta_core.bench.measure import free_memory
from tta_core.bench.memory_table import Memory
from tta_core.bench.request import BenchRequest, MethodChoice
from tta_core.bench.subject import Subject, make_subject
from tta_core.run.cell import choose_device
from tta_core.text_table import text_table

SELECTS_ALL = {"entropy_margin": 9.0, "redundancy_margin": 9.0, "plpd_margin": -1.0}
"""Settings with which filters of samples let all of them into the loss, as they may at any time of a stream."""

IMAGES, MOST_STEPS = 64, 4
"""So many images pass, for some methods learn once in so many; but no more than so many steps are made."""


@dataclass(frozen=True)
class MemoryRow:
    """The memory of one method.

    Attributes:
        method, preset: the choice.
        plain: whether it is the preset `recommended` as it is: only that is kept in a table.
        memory: held are its networks, its state and that of its optimizer; None after a failure.
        error: why it could not be measured.
    """

    method: str
    preset: str
    plain: bool
    memory: Memory | None = None
    error: str | None = None


def measure_memory(request: BenchRequest, tell: Callable[[str], object] = lambda line: None) -> list[MemoryRow]:
    """Measures one method after another; those that take other networks are left out.

    An accelerator counts its own tensors; on the CPU PyTorch reports each of them. What libraries take beside tensors
    is not in it.

    Raises:
        InputError: for a device or backbone that cannot be used. A method that fails is a row with its reason.
    """
    device = choose_device(request.device)
    subject = make_subject(request, device)
    rows = []
    for choice in subject.taken_by(request.methods):
        tell(f"measuring {choice.name}:{choice.preset}")
        # Whatever is wrong with one method must not cost the numbers of the others.
        try:
            rows.append(measured_memory(choice, subject, request))
        except Exception as error:
            rows.append(MemoryRow(choice.name, choice.preset, choice.plain, error=reason(error)))
        free_memory(device)
    return rows


def measured_memory(choice: MethodChoice, subject: Subject, request: BenchRequest) -> MemoryRow:
    """Measures one method, around a copy of the subject's network."""
    known = choice.spec.settings.model_fields
    settings = {name: value for name, value in SELECTS_ALL.items() if name in known} | choice.settings
    device = subject.batches[0].device
    with TensorMemory(device) as memory:
        method = subject.build(choice.model_copy(update={"settings": settings}), request.seed)

        def step(number: int) -> None:
            with autocast(device, request.precision):
                method(subject.batches[number % len(subject.batches)])

        step(0)  # Makes the state of the optimizer.
        with memory.step():
            for number in range(1, max(2, min(MOST_STEPS, math.ceil(IMAGES / request.batch_size)))):
                step(number)
    return MemoryRow(choice.name, choice.preset, choice.plain, Memory(memory.held_mib, memory.peak_mib))


def as_json(rows: list[MemoryRow]) -> list[dict[str, Any]]:
    """Plain values, ready for JSON."""
    return [asdict(row) for row in rows]


def as_text(rows: list[MemoryRow], request: BenchRequest) -> str:
    """An aligned table, what it means, and the reasons of methods that failed."""
    names = ["method", "preset", "held MiB", "peak MiB"]
    cells = [[row.method, row.preset, f"{row.memory.held:.0f}", f"{row.memory.peak:.0f}"] for row in rows if row.memory]
    parts = [
        f"memory of tensors: {request.backbone}, batches of {request.batch_size}, {request.precision}, all images in "
        "the loss",
        text_table(names, cells, [name.endswith("MiB") for name in names]),
        "held: between steps, the network with it; peak: the most at once",
    ]
    failures = [f"failed: {row.method}:{row.preset}: {row.error}" for row in rows if row.error]
    return "\n\n".join([*parts, "\n".join(failures)] if failures else parts)
