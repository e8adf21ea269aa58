"""Wall time and peak memory of a stretch of work on one device."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from tta_core.device import counts_memory, peak_allocated, restart_peak, wait_for

_MIB = 2**20


class CostMeter:
    """Measures from `start` to `stop`, waiting for the device at both ends.

    Attributes:
        seconds: wall time in s, without pauses.
        peak_memory_mib: the peak of the memory that the device counts, on the CPU of resident memory, both
            in MiB and since `start`; where the system cannot restart the latter it is the peak since process start.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.peak_memory_mib = 0.0
        self._began = 0.0
        self._paused = False
        self._earlier_peak_mib = 0.0

    def start(self) -> None:
        """Starts the clock and a new peak."""
        wait_for(self.device)
        if counts_memory(self.device):
            restart_peak(self.device)
        else:
            _restart_resident_peak()
        self._began = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock, not the watch on memory, for what runs inside. Waits for the device at both ends.

        Without waiting, work that the method has queued would run while the clock stands.
        """
        if self._paused:  # Already inside another pause.
            yield
            return
        wait_for(self.device)
        began, self._paused = time.perf_counter(), True
        try:
            yield
        finally:
            wait_for(self.device)
            self._began += time.perf_counter() - began
            self._paused = False

    def stop(self) -> None:
        """Stops the clock and reads the peak."""
        measured = self.state_dict()
        self.seconds, self.peak_memory_mib = measured["seconds"], measured["peak_memory_mib"]

    def state_dict(self) -> dict[str, float]:
        """What was measured so far; waits for the device, not to be called in a pause."""
        wait_for(self.device)
        peak = peak_allocated(self.device) / _MIB if counts_memory(self.device) else _resident_peak_mib()
        return {
            "seconds": time.perf_counter() - self._began,
            "peak_memory_mib": max(peak, self._earlier_peak_mib),
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Goes on from what an earlier process measured."""
        self._began -= state["seconds"]
        self._earlier_peak_mib = state["peak_memory_mib"]


def _restart_resident_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # Not Linux, or not permitted: the peak is then since process start.


def _resident_peak_mib() -> float:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024
