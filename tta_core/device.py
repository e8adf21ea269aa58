"""What the program asks of a device, by the device's own module: `torch.cuda`, `torch.xpu`, `torch.cpu`, ...

All other code says what it wants and names no type of device, so that every accelerator takes the same lines.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def is_accelerator(device: torch.device) -> bool:
    """Whether the device works beside the host, which then can wait for it."""
    return device.type != "cpu"


_accelerator_code = False


def works_in_pieces(device: torch.device) -> bool:
    """Whether many small operations are as good as few large ones, or better: on a CPU, for what lies in its cache.

    What is compiled is one graph, which takes no look at numbers on its way.
    """
    return device.type == "cpu" and not _accelerator_code and not torch.compiler.is_compiling()


@contextmanager
def code_of_accelerators() -> Iterator[None]:
    """Lets the CPU run inside what an accelerator would be given, so that it can be counted."""
    global _accelerator_code
    _accelerator_code = True
    try:
        yield
    finally:
        _accelerator_code = False


def wait_for(device: torch.device) -> None:
    """Waits until the device has done all that it was given; the CPU always has."""
    synchronize = torch.get_device_module(device).synchronize
    # Some devices are the only one of their kind, and their modules take no number.
    synchronize(device) if device.index is not None else synchronize()


@contextmanager
def counted_waits(device: torch.device) -> Iterator[list[str]]:
    """Notes each time that the host waits inside for an accelerator whose module warns of it, as `torch.cuda` does.

    Yields:
        What was waited for; filled once the block is left.
    """
    module = torch.get_device_module(device)
    found: list[str] = []
    before = module.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            module.set_sync_debug_mode(before)
    found += [str(one.message) for one in caught if "called a synchronizing" in str(one.message)]


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the host to a device without waiting for it, which takes memory that is pinned.

    Returns:
        The tensor on the device; on the CPU the tensor itself.
    """
    if not is_accelerator(device):
        return values
    return pinned(values).to(device, non_blocking=True)


def pinned(values: Tensor) -> Tensor:
    """The tensor in pinned memory; where there is none, as under a small limit, itself, whose copy is waited for."""
    try:
        return values.pin_memory()
    except RuntimeError:
        return values


def scalar(value: float, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A number as a tensor without dimensions. The device fills it in: `torch.tensor` would wait for a copy."""
    return torch.full((), value, device=device, dtype=dtype)


def counts_memory(device: torch.device) -> bool:
    """Whether the device counts the memory of its tensors."""
    return hasattr(torch.get_device_module(device), "max_memory_allocated")


def restart_peak(device: torch.device) -> None:
    """Begins a new peak of the memory that the device counts."""
    torch.get_device_module(device).reset_peak_memory_stats(device)


def allocated(device: torch.device) -> int:
    """Bytes of the tensors on a device that counts its memory."""
    held: int = torch.get_device_module(device).memory_allocated(device)
    return held


def peak_allocated(device: torch.device) -> int:
    """The most bytes that the tensors on such a device had at once, since the peak was restarted."""
    peak: int = torch.get_device_module(device).max_memory_allocated(device)
    return peak


def free_unused(device: torch.device) -> None:
    """Gives memory back that the device keeps for tensors to come."""
    module = torch.get_device_module(device)
    if hasattr(module, "empty_cache"):
        module.empty_cache()


def stream_of_its_own(device: torch.device) -> Any | None:
    """A queue of work on the device beside the one that computes; None where there are none."""
    module = torch.get_device_module(device)
    return module.Stream(device) if is_accelerator(device) and hasattr(module, "Stream") else None


def device_name(device: torch.device) -> str:
    """What the device calls itself, else its type and number."""
    module = torch.get_device_module(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else str(device)


def processor_name() -> str:
    """What the CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
