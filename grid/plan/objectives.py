"""What a study can look for, and what each measure reads. Imports no torch, optuna or numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tta_core.errors import InputError, unknown_name

Reads = Literal["outputs", "source", "clean"]
"""What a measure needs beside a cell: that it ran the observer `outputs`, or a source cell on its stream, or on clean
images.
"""


@dataclass(frozen=True)
class ObjectiveSpec:
    """A measure of a cell.

    Attributes:
        maximise: whether larger is better.
        by_domain: whether a race compares accuracies in each domain; otherwise the values of whole cells.
        reads: what it needs beside the cell.
        raced: whether it is steady enough to be raced.
        has_chance: whether a network that guesses has a value: what a cell counts that diverged.
        of_pixels: whether segmentation has it, of which no class of a sample and no probabilities are kept.
    """

    maximise: bool = True
    by_domain: bool = False
    reads: Reads | None = None
    raced: bool = True
    has_chance: bool = True
    of_pixels: bool = True


OBJECTIVES: Mapping[str, ObjectiveSpec] = {
    "accuracy": ObjectiveSpec(by_domain=True),
    "mean_domain_accuracy": ObjectiveSpec(by_domain=True),
    "worst_domain_accuracy": ObjectiveSpec(by_domain=True),
    "late_accuracy": ObjectiveSpec(),
    "accuracy_gain": ObjectiveSpec(reads="source"),
    "calibration_error": ObjectiveSpec(maximise=False, of_pixels=False),
    "seconds_per_source": ObjectiveSpec(maximise=False, reads="source", raced=False, has_chance=False),
    "peak_memory_mib": ObjectiveSpec(maximise=False, raced=False, has_chance=False),
    "entropy": ObjectiveSpec(),
    "confidence": ObjectiveSpec(),
    "infomax_hard": ObjectiveSpec(of_pixels=False),
    "infomax_hard_worst": ObjectiveSpec(of_pixels=False),
    "infomax": ObjectiveSpec(reads="outputs", of_pixels=False),
    "corr_c": ObjectiveSpec(reads="outputs", of_pixels=False),
    "nuclear": ObjectiveSpec(reads="outputs", of_pixels=False),
    "snd": ObjectiveSpec(reads="outputs", of_pixels=False),
    "agreement_source": ObjectiveSpec(reads="source", of_pixels=False),
    "atc": ObjectiveSpec(reads="clean", of_pixels=False),
}
"""Name -> measure. Those from `entropy` on read no label of the stream; `entropy` is the negative one."""

NO_OBJECTIVES: Mapping[str, str] = {
    "vote": "it compares all settings of a method, so a setting alone has no value; the report shows it",
    "ensv": "it compares all settings of a method, so a setting alone has no value; the report shows it",
    "held_out": "that is accuracy, on held-out domains as ever",
}


def check_pixels(names: Sequence[str], *, where: str) -> None:
    """Raises `InputError` for a measure that segmentation does not have."""
    for name in names:
        if not OBJECTIVES[name].of_pixels:
            fitting = ", ".join(other for other, spec in OBJECTIVES.items() if spec.of_pixels)
            raise InputError(
                f"{where}: {name} is of samples with one class each, and this sweep segments: give one of {fitting}"
            )


def check_measures(names: Sequence[str], *, key: str) -> None:
    """Looks at names of measures.

    Raises:
        InputError: for one that is none, or is there twice.
    """
    for name in names:
        if name in NO_OBJECTIVES:
            raise InputError(f"{key} = {name!r} is no objective: {NO_OBJECTIVES[name]}; give another")
        if name not in OBJECTIVES:
            raise unknown_name(key, name, OBJECTIVES)
    if len(set(names)) < len(names):
        raise InputError(f"{key} = {list(names)}: a measure is there twice; give each once")
