"""Measures the steps of several methods in source forwards of the same network."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

import torch

from tta_core.backbones.precision import autocast
from tta_core.bench.candidate import Candidate, Source, reason
from tta_core.bench.compilation import graph_breaks, many_compilations
from tta_core.bench.instruments import Timing
from tta_core.bench.request import BenchRequest, MethodChoice
from tta_core.bench.result import BenchResult, Row
from tta_core.bench.subject import make_subject
from tta_core.device import free_unused, is_accelerator
from tta_core.errors import InputError
from tta_core.run.cell import choose_device

ROUNDS_BETWEEN_RESETS = 4
"""Before each timed step the trained parameters are put back; teachers, banks and running means need a reset. One
every few rounds, outside of the timing and followed by an untimed step, keeps the work near that of the start."""

Tell = Callable[[str], object]


def run_bench(request: BenchRequest, tell: Tell = lambda line: None) -> BenchResult:
    """Measures the methods of a request, interleaved: source, first method, source, second method, ...

    Args:
        request: what to measure.
        tell: takes each line of progress.

    Raises:
        InputError: for a device or backbone that cannot be used. A method that fails is a row with its reason.
    """
    device = choose_device(request.device)
    if request.check_cpu and not is_accelerator(device):
        raise InputError("--check-cpu compares a GPU with the CPU, and the device is the CPU: give --device cuda")
    with _threads(request.threads, device), many_compilations() if request.compiled else nullcontext():
        breaks = _graph_breaks(request, device, tell) if request.compiled else {}
        source = Source(request, device)
        choices = source.subject.taken_by(request.methods)
        left_out = [choice.name for choice in request.methods if choice not in choices]
        groups = [(choice,) for choice in choices] if request.one_at_a_time else [choices]
        rows = [row for group in groups for row in measure_together(group, source, tell)]
        rows = [replace(row, graph_breaks=breaks.get((row.method, row.preset))) for row in rows]
        return BenchResult(source.setting(), rows, left_out)


def _graph_breaks(request: BenchRequest, device: torch.device, tell: Tell) -> dict[tuple[str, str], dict[str, int]]:
    """Method and preset -> the breaks of its graph, before anything is compiled that is to be timed."""
    subject, found = make_subject(request, device), {}
    for choice in subject.taken_by(request.methods):
        tell(f"compiling the forward of {choice.name}:{choice.preset}")
        # What is wrong with it is said by its row.
        with suppress(Exception), autocast(device, request.precision):
            method = subject.build(choice, request.seed)
            found[choice.name, choice.preset] = graph_breaks(method, subject.batches[0])
    return found


def measure_together(choices: Sequence[MethodChoice], source: Source, tell: Tell) -> list[Row]:
    """Builds the methods, times them in interleaved rounds, and lets them go."""
    candidates: dict[int, Candidate] = {}
    failures: dict[int, str] = {}
    for place, choice in enumerate(choices):
        tell(f"preparing {choice.name}:{choice.preset}")
        # Whatever is wrong with one method must not cost the numbers of the others.
        try:
            candidates[place] = Candidate(choice, source)
        except Exception as error:
            failures[place] = reason(error)
    free_memory(source.device)
    with quick_collections():
        for number in range(source.request.repeats if candidates else 0):
            tell(f"round {number + 1} of {source.request.repeats}")
            _time_round(candidates, failures, source, restart=number % ROUNDS_BETWEEN_RESETS == 0)
    tent = next((c for place, c in candidates.items() if c.choice.name == "tent" and place not in failures), None)
    rows = [
        candidates[place].row(tent)
        if place not in failures
        else Row(choice.name, choice.preset, choice.settings, error=failures[place])
        for place, choice in enumerate(choices)
    ]
    candidates.clear()
    free_memory(source.device)
    return rows


def _time_round(candidates: dict[int, Candidate], failures: dict[int, str], source: Source, *, restart: bool) -> None:
    """One timed step of each method that has not failed, a source forward on both sides of each."""
    gc.collect()
    before: Timing | None = None
    for place, candidate in candidates.items():
        if place in failures:
            continue
        try:
            if restart:
                candidate.restart()
                before = None
            before = candidate.time(before or source.time())
        except Exception as error:
            failures[place], before = reason(error), None


def free_memory(device: torch.device) -> None:
    """Lets go of what nobody holds any more."""
    gc.collect()
    free_unused(device)


@contextmanager
def quick_collections() -> Iterator[None]:
    """Takes what exists so far out of Python's garbage collection, which would else take as long as a forward."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _threads(wanted: int | None, device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or (before if is_accelerator(device) else 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
