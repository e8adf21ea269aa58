"""What a benchmark times: the source network, and methods around copies of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tta_core.backbones.classifier import find_classifier
from tta_core.backbones.precision import autocast
from tta_core.bench.agreement import differences_to_cpu
from tta_core.bench.compilation import CompiledTrunk, compile_method
from tta_core.bench.instruments import Clock, TensorMemory, Timing, counted_images, mark_for_counting
from tta_core.bench.request import BenchRequest, MethodChoice
from tta_core.bench.result import Row, Setting, Spread
from tta_core.bench.subject import make_subject
from tta_core.device import device_name, is_accelerator, processor_name
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.common.surgery import count_parameters
from tta_core.methods.layer_counts import layers_values


class Source:
    """The unit of all times: the plain network, which adapts nothing and keeps no graph."""

    def __init__(self, request: BenchRequest, device: torch.device) -> None:
        self.request = request
        self.device = device
        self.clock = Clock(device, torch.get_num_threads())
        self.subject = make_subject(request, device)
        head = find_classifier(self.subject.network)
        if head is not None:
            mark_for_counting(head)
        self.timings: list[Timing] = []
        self.turn = 0
        try:
            with TensorMemory(device) as memory:
                self.network = copy.deepcopy(self.subject.network).requires_grad_(False)
                if request.compiled:
                    CompiledTrunk(self.network)
                self.step()
                with memory.step():
                    self.step()
            for _ in range(request.warmup):
                self.step()
        except Exception as error:
            raise InputError(f"the source forward of {request.backbone} failed: {reason(error)}") from error
        self.peak_mib = memory.peak_mib

    def step(self) -> None:
        """One forward of the next batch."""
        with torch.no_grad(), autocast(self.device, self.request.precision):
            self.network(self.next_images())

    def next_images(self) -> Tensor:
        """The batches of the subject, in turn."""
        batches = self.subject.batches
        self.turn += 1
        return batches[self.turn % len(batches)]

    def time(self) -> Timing:
        """Times one forward."""
        timing = self.clock.time(self.step)
        self.timings.append(timing)
        return timing

    def setting(self) -> Setting:
        """What was measured, and how long the forwards took."""
        request, subject = self.request, self.subject
        spread = Spread.of([1000 * timing.seconds for timing in self.timings]) if self.timings else None
        return Setting(
            device=device_name(self.device) if is_accelerator(self.device) else processor_name(),
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            clock=self.clock.name,
            backbone=request.backbone,
            weights=subject.weights,
            head_scale=subject.head_scale,
            parameters=count_parameters(list(subject.network.parameters())),
            num_classes=subject.num_classes,
            batch_size=request.batch_size,
            image_size=subject.image_size,
            precision=request.precision,
            float32_matmul_precision=torch.get_float32_matmul_precision(),
            compiled=request.compiled,
            repeats=request.repeats,
            warmup=request.warmup,
            seed=request.seed,
            source_ms=spread.median if spread else None,
            source_ms_low=spread.low if spread else None,
            source_ms_high=spread.high if spread else None,
            source_peak_memory_mib=self.peak_mib,
        )


class Candidate:
    """One method, ready to be timed, with what is known of its step."""

    def __init__(self, choice: MethodChoice, source: Source) -> None:
        self.choice = choice
        self.source = source
        self.timings: list[Timing] = []
        self.units: list[float] = []
        self.selected: list[Tensor] = []
        request = source.request
        with TensorMemory(source.device) as memory:
            self.method: Method[Any] = source.subject.build(choice, request.seed)
            self.step()
            with counted_images() as count:
                self.step()
            trunks = compile_method(self.method) if request.compiled else []
            if trunks:
                self.step()
            with memory.step():
                self.step()
        for _ in range(request.warmup):
            self.step()
        self.compiled = any(trunk.calls for trunk in trunks) if request.compiled else None
        self.images_per_step = count.images
        self.held_mib, self.peak_mib = memory.held_mib, memory.peak_mib
        self.cpu_difference = (
            max(differences_to_cpu(source.subject, choice, request.seed)) if request.check_cpu else None
        )

    def step(self) -> None:
        """One online step on the next batch."""
        images = self.source.next_images()
        with autocast(self.source.device, self.source.request.precision):
            self.method(images)

    def restart(self) -> None:
        """Goes back to the start, and does the one step that makes the optimizer's state."""
        self.method.reset()
        self.step()

    def time(self, before: Timing) -> Timing:
        """Times a step and the source forward that follows it; returns the latter.

        Args:
            before: the source forward before the step.
        """
        self._put_parameters_back()
        timing = self.source.clock.time(self.step)
        after = self.source.time()
        self.timings.append(timing)
        self.units.append((before.seconds + after.seconds) / 2)
        self.selected.append(self.method.record["selected"])
        return after

    def _put_parameters_back(self) -> None:
        """Undoes what steps did to the parameters, and leaves the rest of the state as it is in mid-stream.

        One step can already move a random network so far that every sample is selected, or none: a step would then
        cost other work than the one that is to be measured.
        """
        with torch.no_grad():
            for name, parameter in self.method.trainable_parameters().items():
                parameter.copy_(self.method.source_parameters[name])

    def ratios(self) -> list[float]:
        """Time of each step over the mean of the source forwards on both sides of it."""
        return [timing.seconds / unit for timing, unit in zip(self.timings, self.units, strict=True)]

    def row(self, tent: Candidate | None) -> Row:
        """What was found. `tent` was timed in the same rounds."""
        ratio = Spread.of(self.ratios())
        selected = sum(float(count) for count in self.selected) / len(self.selected)
        return Row(
            method=self.choice.name,
            preset=self.choice.preset,
            settings=self.choice.settings,
            ratio=ratio.median,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            ratio_to_tent=_paired(self.ratios(), tent.ratios()) if tent else None,
            ms=1000 * Spread.of([timing.seconds for timing in self.timings]).median,
            wall_ms=1000 * Spread.of([timing.wall for timing in self.timings]).median,
            source_ms=1000 * Spread.of(self.units).median,
            trainable_parameters=count_parameters(list(self.method.trainable_parameters().values())),
            activated_parameters=self.method.activated_parameters(),
            layers=layers_values(self.method.layer_counts),
            forward_share=self.images_per_step / self.source.request.batch_size,
            compiled=self.compiled,
            backpropagated_share=selected / self.source.request.batch_size,
            held_memory_mib=self.held_mib,
            peak_memory_mib=self.peak_mib,
            published_ratio=self.choice.spec.published_cost,
            cpu_difference=self.cpu_difference,
        )


def reason(error: Exception) -> str:
    """One line that says what went wrong."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else "no message"
    if isinstance(error, torch.OutOfMemoryError):
        return f"{first} Give --one-at-a-time or a smaller --batch-size."
    return first if isinstance(error, InputError) else f"{type(error).__name__}: {first}"


def _paired(ratios: Sequence[float], others: Sequence[float]) -> float:
    return Spread.of([one / other for one, other in zip(ratios, others, strict=True)]).median
