"""Whether reading ahead from the decode-once cache keeps the accelerator busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from tta_core.backbones.precision import autocast
from tta_core.bench.gpu.section import Asked, Section, Unit
from tta_core.bench.request import read_choices
from tta_core.bench.subject import Subject, make_subject
from tta_core.data.files.decoded import DecodedDomain, DecodedImages
from tta_core.data.opened import DomainImages
from tta_core.device import wait_for
from tta_core.machine import usable_cores
from tta_core.methods.base import Method
from tta_core.run.loop import run_stream
from tta_core.streams.batches import Normalise
from tta_core.streams.order import StreamOrder

METHODS = ("source", "tent", "moetta")
"""The first has the shortest steps, and is the hardest to feed."""

PRECISION = "bf16"
SECONDS = 2.0
"""How long the steps of a loop take at least, so that its start and end do not show."""


def units(asked: Asked) -> list[Unit]:
    """One for each method."""
    subject = cache(lambda: make_subject(asked.request, asked.device))
    cached = cache(lambda: _decoded(asked))

    def measured(name: str) -> dict[str, Any]:
        (choice,) = read_choices([name])
        return _fed(subject().build(choice, asked.request.seed), subject(), cached(), asked)

    return [Unit({"method": name}, partial(measured, name)) for name in METHODS]


def _decoded(asked: Asked) -> DecodedImages:
    domain = DecodedDomain("photographs", asked.photographs, asked.folder / "decoded.npy")
    return domain.build(workers=usable_cores())


def _fed(method: Method[Any], subject: Subject, images: DecodedImages, asked: Asked) -> dict[str, Any]:
    size, device = asked.request.batch_size, asked.device
    normalise = Normalise(subject.mean, subject.std, device)
    resident = [torch.from_numpy(images[i * size % len(images) :][:size]).to(device) for i in range(2)]
    domain = DomainImages(images, np.zeros(len(images), dtype=np.int64))

    def alone(steps: int) -> None:
        for number in range(steps):
            with autocast(device, PRECISION):
                method(normalise(resident[number % len(resident)]))

    def loop(steps: int) -> None:
        order = _order(len(images), steps * size, asked.request.seed)
        run_stream(method, [domain], order, batch_size=size, normalise=normalise, precision=PRECISION)

    alone(2)
    steps = max(4, round(SECONDS / (_seconds(lambda: alone(4), device) / 4)))
    loop(2)
    by_itself, with_reading = _seconds(lambda: alone(steps), device), _seconds(lambda: loop(steps), device)
    return {
        "steps": steps,
        "alone_ms": 1000 * by_itself / steps,
        "loop_ms": 1000 * with_reading / steps,
        "images_per_second": steps * size / with_reading,
        "busy": min(1.0, by_itself / with_reading),
    }


def _order(images: int, samples: int, seed: int) -> StreamOrder:
    """The images in random order, again and again."""
    generator = np.random.default_rng(seed)
    rounds = -(-samples // images)
    index = np.concatenate([generator.permutation(images) for _ in range(rounds)])[:samples].astype(np.int32)
    return StreamOrder(("photographs",), np.zeros(samples, dtype=np.int16), index, (0,), reset_at_segments=False)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


SECTION = Section(
    name="feeding",
    title="reading ahead from the decode-once cache",
    meaning=(
        f"alone_ms: a step in {PRECISION} on images that lie on the device; loop_ms: the same in the loop, with images "
        "that are read, copied and scored; busy: the first over the second"
    ),
    units=units,
    shown=("method", "steps", "alone_ms", "loop_ms", "images_per_second", "busy"),
    share=5,
)
