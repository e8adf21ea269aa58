"""The instruments of the benchmark: a clock, a gauge of tensor memory, a counter of predicted images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.profiler import ProfilerActivity, profile, record_function

from tta_core.device import allocated, counts_memory, is_accelerator, peak_allocated, restart_peak, wait_for

_MIB = 2**20
_MARK = "tta_grid_counts_images"
_STEP = "tta_grid_measured_step"


class Timing(NamedTuple):
    """How long a piece of work took: `seconds` by the benchmark's clock, `wall` by the one on the wall, both in s."""

    seconds: float
    wall: float


class Clock:
    """Times one piece of work on one device.

    On an accelerator it waits for the device before and after. On one CPU thread it counts the CPU time of this
    process, which other jobs on a shared machine lengthen far less than wall time; on several threads, wall time.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        self.counts_cpu_time = not is_accelerator(device) and threads == 1
        self.name = "CPU time of the process" if self.counts_cpu_time else "wall time"

    def time(self, work: Callable[[], object]) -> Timing:
        """Runs `work` and returns how long it took."""
        wait_for(self.device)
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        wait_for(self.device)
        wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        return Timing(cpu if self.counts_cpu_time else wall, wall)


class TensorMemory:
    """Watches the tensors that are made on one device while it is entered, and the most that one step inside holds.

    Exact on all devices: an accelerator's allocator counts itself, and on the CPU PyTorch's profiler reports each
    allocation. Memory that libraries take outside of tensors is not in it.

    Attributes:
        held_mib: what was made inside and held when the step began, in MiB.
        peak_mib: the most of what was made inside that was held at once during the step, in MiB.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.held_mib = 0.0
        self.peak_mib = 0.0

    def __enter__(self) -> TensorMemory:
        if counts_memory(self.device):
            wait_for(self.device)
            self._before = allocated(self.device)
        else:
            # Else the profiler's library tells the terminal that it starts and stops.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not counts_memory(self.device):
            self._profile.__exit__(kind, error, traceback)
            if error is None:
                self._read_profile()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Marks the step."""
        if not counts_memory(self.device):
            with record_function(_STEP):
                yield
            return
        wait_for(self.device)
        restart_peak(self.device)
        self.held_mib = (allocated(self.device) - self._before) / _MIB
        yield
        wait_for(self.device)
        self.peak_mib = (peak_allocated(self.device) - self._before) / _MIB

    def _read_profile(self) -> None:
        profiler = self._profile.profiler
        assert profiler is not None, "the profile has ended, so there is one"
        results = profiler.kineto_results
        assert results is not None, "the profile has ended, so there are results"
        events: list[Any] = sorted(results.events(), key=lambda event: event.start_ns())
        start, end = next((e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name() == _STEP)
        total = held = peak = 0
        for event in events:
            if event.start_ns() > end:
                break
            if event.name() == "[memory]":
                total += event.nbytes()
                if event.start_ns() < start:
                    held = peak = total
                peak = max(peak, total)
        self.held_mib, self.peak_mib = held / _MIB, peak / _MIB


@dataclass
class ImageCount:
    """How many images were predicted."""

    images: int = 0


def mark_for_counting(classifier: nn.Module) -> None:
    """Marks the module whose calls `counted_images` counts. The mark goes along into copies of the module."""
    setattr(classifier, _MARK, True)


@contextmanager
def counted_images() -> Iterator[ImageCount]:
    """Counts the images that reach a marked classifier: through a method's network, its teacher, any copy."""
    count = ImageCount()

    def see(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if getattr(module, _MARK, False) and isinstance(output, Tensor):
            count.images += len(output)

    handle = register_module_forward_hook(see)
    try:
        yield count
    finally:
        handle.remove()
