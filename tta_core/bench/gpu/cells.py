"""Cells of the embedded benchmark, with trained weights: on the CPU, on the accelerator, and there in bf16."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tta_core.bench.gpu.section import Asked, Section, Unit
from tta_core.run.cell import run

METHODS = ("source", "tent", "eata", "moetta", "imse")
CELL = {
    "preset": "digits-c",
    "backbone": "digits-vit-supervised",
    "benchmark": "digits-c",
    "stream": "continual",
    "domains": ["gaussian_noise", "fog", "contrast", "pixelate"],
}


def units(asked: Asked) -> list[Unit]:
    """One for each method."""
    return [Unit({"method": name}, partial(_measured, name, asked)) for name in METHODS]


def _measured(name: str, asked: Asked) -> dict[str, Any]:
    device = str(asked.device)
    here, there = (run(CELL | {"method": name}, device=where) for where in ("cpu", device))
    bf16 = run(CELL | {"method": name, "precision": "bf16"}, device=device)
    equal = np.mean(here.samples["prediction"] == there.samples["prediction"])
    return {
        "cpu_accuracy": here.accuracy,
        "accuracy": there.accuracy,
        "equal_predictions": float(equal),
        "bf16_accuracy": bf16.accuracy,
        "bf16_loss_points": 100 * (there.accuracy - bf16.accuracy),
        "images_per_second": there.images_per_second,
    }


SECTION = Section(
    name="cells",
    title="cells of the embedded benchmark",
    meaning=(
        "accuracy: on the device; equal_predictions: share of the samples that get the prediction of the CPU; "
        "bf16_loss_points: by how many points the accuracy is lower in bf16"
    ),
    units=units,
    shown=("method", "cpu_accuracy", "accuracy", "equal_predictions", "bf16_accuracy", "bf16_loss_points"),
    share=5,
)
