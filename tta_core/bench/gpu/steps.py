"""What steps cost on the accelerator."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache, partial
from typing import Any

from tta_core.bench.candidate import Source
from tta_core.bench.compilation import many_compilations
from tta_core.bench.gpu.section import Asked, Section, Unit
from tta_core.bench.measure import measure_together
from tta_core.bench.request import MethodChoice
from tta_core.methods.common.surgery import network_kinds

COMPILED_FIRST = ("source", "tent", "moetta", "imse", "moase")
"""Compiling takes long: these have the most to win."""


def _section(name: str, title: str, share: float, most: float, **changes: Any) -> Section:
    def units(asked: Asked) -> list[Unit]:
        request = asked.request.model_copy(update=changes)
        source = cache(lambda: Source(request, asked.device))
        choices = list(request.methods)
        if request.compiled:
            choices.sort(key=lambda choice: choice.name not in COMPILED_FIRST)

        def measured(choice: MethodChoice) -> dict[str, Any]:
            with many_compilations():
                if not choice.spec.takes(network_kinds(source().network)):
                    return {"left_out": f"{request.backbone} is no network that it takes"}
                (row,) = measure_together([choice], source(), lambda line: None)
            values = asdict(row)
            error = values.pop("error")
            if error is not None or row.wall_ms is None:
                return {"error": error}
            rate = 1000 * request.batch_size / row.wall_ms
            return values | {"images_per_second": rate}

        return [Unit({"method": choice.name, "preset": choice.preset}, partial(measured, choice)) for choice in choices]

    return Section(
        name=name,
        title=title,
        meaning=(
            "ratio: time of a step over that of the source forwards around it, median, and quartiles; ms: of a step; "
            "published_ratio: of the released code on other hardware"
        ),
        units=units,
        shown=(
            *("method", "preset", "ratio", "ratio_low", "ratio_high", "ms", "images_per_second", "published_ratio"),
            *("forward_share", "backpropagated_share"),
            *(("compiled",) if "compiled" in changes else ()),
        ),
        share=share,
        most=most,
    )


FP32 = _section("fp32", "steps in fp32", 20, 0.25, precision="fp32")
BF16 = _section("bf16", "steps in bf16", 15, 0.25, precision="bf16")
COMPILED = _section("compiled", "steps in bf16, compiled", 25, 0.5, precision="bf16", compiled=True)
