"""The benchmark table: one row is one benchmark. Imports no torch."""

from __future__ import annotations

from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.spec import BenchmarkSpec

CLEAN = "clean"
"""The domain of uncorrupted test images; every benchmark has it, no table reports it."""

BENCHMARKS: dict[str, BenchmarkSpec] = {
    row.name: row
    for row in (
        BenchmarkSpec(
            name="digits-c",
            title="real handwritten digits, enlarged to 32x32 and corrupted as ImageNet-C corrupts photographs",
            version=1,
            domains=CORRUPTIONS,
            held_out_domains=HELD_OUT_CORRUPTIONS,
            images_per_domain=899,
            num_classes=10,
            class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            severities=(1, 2, 3, 4, 5),
            source="scikit-learn load_digits (UCI optical recognition of handwritten digits), made here",
            licence="CC BY 4.0 (UCI); scikit-learn BSD-3-Clause",
        ),
    )
}
