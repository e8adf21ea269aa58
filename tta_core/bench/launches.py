"""How many operations a step gives to the device: on a GPU each is a launch, for which it pays whatever its size."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from tta_core.backbones.precision import autocast
from tta_core.bench.candidate import reason
from tta_core.bench.request import BenchRequest, MethodChoice
from tta_core.bench.subject import Subject, make_subject
from tta_core.device import code_of_accelerators
from tta_core.run.cell import choose_device
from tta_core.text_table import text_table

PHASES = ("forward", "backward", "optimizer")
"""Where an operation comes from; forward is all that is neither of the others."""

NOTHING_LAUNCHED = ("aten::empty", "aten::new_empty", "aten::detach", "aten::lift_fresh", "aten::_unsafe_view")
"""Beginnings of the names of operations that only take memory or look at it anew."""

UNCOUNTED_STEPS = 2
"""Before the one that is counted: the first makes what is kept."""


@dataclass(frozen=True)
class LaunchRow:
    """The operations of one step that are no views.

    Attributes:
        method, preset, settings: the choice.
        forward, backward, optimizer: by where they come from; None after a failure.
        most: the operations that were called most often, with how often.
        error: why they could not be counted.
    """

    method: str
    preset: str
    settings: dict[str, Any] = field(default_factory=dict)
    forward: int | None = None
    backward: int | None = None
    optimizer: int | None = None
    most: dict[str, int] = field(default_factory=dict)
    error: str | None = None

    @property
    def step(self) -> int | None:
        """Those of forward and backward together."""
        return None if self.forward is None or self.backward is None else self.forward + self.backward


class LaunchCounter(TorchDispatchMode):
    """Counts the operations that are called while it is entered.

    Attributes:
        counts: by phase and name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = {phase: Counter() for phase in PHASES}
        self._optimizing = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith("aten::") and not func.is_view and not name.startswith(NOTHING_LAUNCHED):
            backward = torch._C._current_graph_task_id() != -1
            phase = "optimizer" if self._optimizing else "backward" if backward else "forward"
            self.counts[phase][name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def watching_optimizers(self) -> Iterator[None]:
        """Knows inside whether an optimizer is at work."""

        def begin(*_: Any) -> None:
            self._optimizing = True

        def end(*_: Any) -> None:
            self._optimizing = False

        hooks = register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def count_launches(request: BenchRequest, tell: Callable[[str], object] = lambda line: None) -> list[LaunchRow]:
    """Counts one step of each method of a request, after the first ones. Methods that take other networks are left out.

    Raises:
        InputError: for a device or backbone that cannot be used. A method that fails is a row with its reason.
    """
    subject = make_subject(request, choose_device(request.device))
    rows = []
    for choice in subject.taken_by(request.methods):
        tell(f"counting {choice.name}:{choice.preset}")
        # Whatever is wrong with one method must not cost the numbers of the others.
        try:
            with code_of_accelerators():
                rows.append(_counted(choice, subject, request))
        except Exception as error:
            rows.append(LaunchRow(choice.name, choice.preset, choice.settings, error=reason(error)))
        gc.collect()
    return rows


def _counted(choice: MethodChoice, subject: Subject, request: BenchRequest) -> LaunchRow:
    method = subject.build(choice, request.seed)
    batches = subject.batches
    for number in range(UNCOUNTED_STEPS):
        with autocast(batches[0].device, request.precision):
            method(batches[number % len(batches)])
    counter = LaunchCounter()
    with autocast(batches[0].device, request.precision), counter.watching_optimizers(), counter:
        method(batches[UNCOUNTED_STEPS % len(batches)])
    forward, backward, optimizer = (sum(counter.counts[phase].values()) for phase in PHASES)
    most = sum(counter.counts.values(), Counter[str]()).most_common(5)
    return LaunchRow(choice.name, choice.preset, choice.settings, forward, backward, optimizer, dict(most))


def as_json(rows: list[LaunchRow]) -> list[dict[str, Any]]:
    """Plain values, ready for JSON."""
    return [asdict(row) | {"step": row.step} for row in rows]


def as_text(rows: list[LaunchRow], request: BenchRequest) -> str:
    """An aligned table, what it means, and the reasons of methods that failed."""
    names = ["method", "preset", "forward", "backward", "step", "optimizer", "most often"]
    cells = [
        [
            *(row.method, row.preset + ("*" if row.settings else "")),
            *(f"{count:,}" for count in (row.forward, row.backward, row.step, row.optimizer) if count is not None),
            ", ".join(f"{name} {count}" for name, count in row.most.items()),
        ]
        for row in rows
        if row.error is None
    ]
    parts = [
        f"operations of one step that are no views: {request.backbone}, batches of {request.batch_size}, "
        f"{request.precision}",
        text_table(names, cells, [name not in ("method", "preset", "most often") for name in names]),
        "step: forward and backward; the optimizer's own are beside it",
    ]
    failures = [f"failed: {row.method}:{row.preset}: {row.error}" for row in rows if row.error]
    return "\n\n".join([*parts, "\n".join(failures)] if failures else parts)
