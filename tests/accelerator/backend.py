"""The device `accel`, and what torch asks of one beside tensors: streams, events, generators, memory.

Importing this module registers the device, once for the process and before the first backward, which starts a thread
for each device that there is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "accel"

WAITS: list[str] = []
"""The operations for which the host has waited, in order."""


class Stream:
    """A queue that is always empty: everything is done at once."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.device = device

    def wait_stream(self, stream: Stream) -> None:
        """Nothing is left to wait for."""

    def wait_event(self, event: Event) -> None:
        """Likewise."""

    def record_event(self, event: Event | None = None) -> Event:
        """An event that has happened."""
        return event or Event()

    def query(self) -> bool:
        """Whether all is done."""
        return True


class Event:
    """An event that has happened when it is recorded."""

    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        """Nothing is left to record."""

    def wait(self, stream: Stream | None = None) -> None:
        """Nothing is left to wait for."""

    def query(self) -> bool:
        """Whether it has happened."""
        return True


class Module:
    """`torch.accel`: what `torch.cuda` is for GPUs."""

    Stream, Event = Stream, Event

    def __init__(self) -> None:
        self._stream = Stream()
        self.sync_debug_mode = 0

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_device_name(self, device: Any = None) -> str:
        return "stand-in accelerator"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def synchronize(self, device: Any = None) -> None:
        note_wait("synchronize")

    def get_sync_debug_mode(self) -> int:
        return self.sync_debug_mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.sync_debug_mode = ("default", "warn").index(mode) if isinstance(mode, str) else mode

    def current_stream(self, device: Any = None) -> Stream:
        return self._stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._stream = self._stream, stream
        try:
            yield
        finally:
            self._stream = before

    def empty_cache(self) -> None:
        pass

    def memory_allocated(self, device: Any = None) -> int:
        return 2**20

    def max_memory_allocated(self, device: Any = None) -> int:
        return 2**21

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        pass


def note_wait(name: str) -> None:
    """Takes note that the host waits, and warns of it where that was asked for, as CUDA does."""
    WAITS.append(name)
    if MODULE.sync_debug_mode:
        warnings.warn(f"called a synchronizing operation: {name}", stacklevel=2)


def _pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """A copy with a mark: torch would ask the device's allocator, which there is none of."""
    pinned = self.clone()
    pinned._pinned = True  # type: ignore[attr-defined]
    return pinned


def _is_pinned(self: Tensor, device: Any = None) -> bool:
    return any(getattr(tensor, "_pinned", False) for tensor in (self, self._base))


class _Generator(torch.Generator):
    """Draws on the CPU for the stand-in too. With a seed of its own it has numbers of its own, as a GPU's has."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu" if torch.device(device).type == NAME else device)


MODULE = Module()
_setup_privateuseone_for_python_backend(NAME, backend_module=MODULE)
Tensor.pin_memory, Tensor.is_pinned = _pin_memory, _is_pinned  # type: ignore[method-assign]
torch.Generator = _Generator  # type: ignore[misc]

DEVICE = torch.device(NAME, 0)
