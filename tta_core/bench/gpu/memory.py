"""How much of the accelerator's memory each method takes, in the form that `resources: auto` reads."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from tta_core.bench.gpu.section import Asked, Section, Unit
from tta_core.bench.memory import measured_memory
from tta_core.bench.request import MethodChoice
from tta_core.bench.subject import make_subject
from tta_core.methods.common.surgery import network_kinds


def _section(precision: str) -> Section:
    def units(asked: Asked) -> list[Unit]:
        request = asked.request.model_copy(update={"precision": precision})
        subject = cache(lambda: make_subject(request, asked.device))

        def measured(choice: MethodChoice) -> dict[str, Any]:
            if not choice.spec.takes(network_kinds(subject().network)):
                return {"left_out": f"{request.backbone} is no network that it takes"}
            row = measured_memory(choice, subject(), request)
            assert row.memory is not None
            return {
                "held_mib": row.memory.held,
                "peak_mib": row.memory.peak,
                "precision": precision,
                "plain": row.plain,
            }

        return [
            Unit({"method": choice.name, "preset": choice.preset}, partial(measured, choice))
            for choice in request.methods
        ]

    return Section(
        name=f"memory_{precision}",
        title=f"memory in {precision}",
        meaning=(
            "tensors in MiB, with all images in the loss; held_mib: between steps, the network with it; peak_mib: the "
            "most at once"
        ),
        units=units,
        shown=("method", "preset", "held_mib", "peak_mib"),
        share=4,
    )


FP32, BF16 = map(_section, ("fp32", "bf16"))
