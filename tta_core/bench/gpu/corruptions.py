"""How fast images are corrupted on the accelerator, and how far they are from those of the CPU."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from tta_core.bench.gpu.section import Asked, Section, Unit
from tta_core.corruptions.corrupt import corrupt
from tta_core.corruptions.strengths import NAMES

IMAGES = 64
COMPARED = 8
SEVERITY = 3


def units(asked: Asked) -> list[Unit]:
    """One for each corruption."""
    return [Unit({"corruption": name}, partial(_measured, name, asked)) for name in NAMES]


def _measured(name: str, asked: Asked) -> dict[str, Any]:
    images = asked.photographs[np.arange(IMAGES)]
    few, keys = images[:COMPARED], list(range(IMAGES))

    def rate(count: int, device: str) -> float:
        began = time.perf_counter()
        corrupt(images[:count], name, SEVERITY, keys=keys[:count], device=device)
        return count / (time.perf_counter() - began)

    here = corrupt(few, name, SEVERITY, keys=keys[:COMPARED]).astype(np.int16)
    there = corrupt(few, name, SEVERITY, keys=keys[:COMPARED], device=str(asked.device)).astype(np.int16)
    apart = np.abs(here - there)
    return {
        "images_per_second": rate(IMAGES, str(asked.device)),
        "cpu_images_per_second": rate(COMPARED, "cpu"),
        "largest_difference": int(apart.max()),
        "mean_difference": float(apart.mean()),
    }


SECTION = Section(
    name="corruptions",
    title="corruptions",
    meaning=(
        f"of photographs at severity {SEVERITY}; cpu_images_per_second: on this machine's CPU; differences of bytes to "
        "the CPU, where other rounding can move a random choice"
    ),
    units=units,
    shown=("corruption", "images_per_second", "cpu_images_per_second", "largest_difference", "mean_difference"),
    share=5,
)
