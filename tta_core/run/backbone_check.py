"""Measures the clean accuracy of a backbone as a cell would, and says whether it is the one that the table states.

A wrong normalisation, weights of another tag or labels in another order cost accuracy without any error. They show on
clean images, before a sweep spends time on corrupted ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from tta_core.backbones.spec import BackboneSpec
from tta_core.backbones.table import backbone_spec
from tta_core.backbones.weights import weights_origin
from tta_core.backbones.zero_shot import text_head_state
from tta_core.data.benchmarks import BENCHMARKS, CLEAN
from tta_core.data.crops import crop_text
from tta_core.data.opened import ImageRequest
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import InputError
from tta_core.run.cell import CollapseError, run
from tta_core.run.config import RunConfig

SAME_TRANSFORM = 0.003
"""Tolerance, in accuracy, where the number was stated under the transform of the check: decoders differ."""

OTHER_TRANSFORM = 0.01
"""Tolerance where it was stated under another crop or interpolation."""

IMAGES_PER_CLASS = 5
"""So many images of each class let the order of the labels be looked at."""


@dataclass(frozen=True)
class Expected:
    """What a source states.

    Attributes:
        accuracy: top-1 on clean images, in [0, 1].
        source: who states it, and under which transform.
        tolerance: how far the transform of the check may move it.
    """

    accuracy: float
    source: str
    tolerance: float


@dataclass(frozen=True)
class BackboneCheck:
    """What was measured of one backbone.

    Attributes:
        config: the cell that measured it.
        expected: what it is held against; None if nothing is stated.
        correct, images: how many of how many images were predicted right.
        classes: how many classes these images are of.
        reordered: share that would be right if the classes were numbered as fits the predictions best; None with too
            few images to tell.
        weights: where the weights came from.
        device: what ran it.
        seconds: wall time of the forwards and of reading images, in s.
    """

    config: RunConfig
    expected: Expected | None
    correct: int
    images: int
    classes: int
    reordered: float | None
    weights: tuple[str, ...]
    device: str
    seconds: float

    @property
    def measured(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        found = binomtest(self.correct, self.images).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    @property
    def transform(self) -> str:
        """How images were brought to the network, in words."""
        return crop_text(_clean_crop(self.config), backbone_spec(self.config.backbone).image_size)

    @property
    def agrees(self) -> bool:
        """Whether the stated number lies in the interval, widened by the tolerance; True if none is stated."""
        if self.expected is None:
            return True
        low, high = self.interval
        return low - self.expected.tolerance <= self.expected.accuracy <= high + self.expected.tolerance

    def causes(self) -> list[str]:
        """What may be the reason where the numbers disagree, the likeliest first."""
        if self.agrees or self.expected is None:
            return []
        spec, expected = backbone_spec(self.config.backbone), self.expected.accuracy
        if self.measured > expected:
            return [
                "the weights are those of another, better tag: see the weights above",
                "the images are easier ones, or some that the network was trained on: "
                f"tta-grid data verify {self.config.benchmark}",
            ]
        order = "labels in another order than the network's: names of class folders, labels.npy, or the head's rows"
        others = [
            f"another normalisation than that of these weights: mean {_listed(spec.mean)}, std {_listed(spec.std)} "
            "was used",
            "the weights are those of another tag, or of a network that was fine-tuned on: see the weights above",
            f"other images than those of {self.config.benchmark}, such as corrupted or enlarged ones: "
            f"tta-grid data verify {self.config.benchmark}",
        ]
        if spec.options or spec.text:
            others.insert(1, f"another architecture than that of these weights: it was built with {_built(spec)}")
        if self.reordered is None:
            # Labels in another order leave a network about the accuracy of guessing.
            guesses = self.interval[0] < 3 / self.config.num_classes
            return [order, *others] if guesses else others
        if self.reordered > 0.9 * expected and self.measured < 0.5 * expected:
            return [f"with the classes numbered otherwise, {100 * self.reordered:.1f} % would be right: {order}"]
        return others

    def values(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "backbone": self.config.backbone,
            "benchmark": self.config.benchmark,
            "images": self.images,
            "classes": self.classes,
            "expected": None if self.expected is None else self.expected.accuracy,
            "expected_source": None if self.expected is None else self.expected.source,
            "tolerance": None if self.expected is None else self.expected.tolerance,
            "measured": self.measured,
            "interval": list(self.interval),
            "agrees": self.agrees if self.expected else None,
            "causes": self.causes(),
            "transform": self.transform,
            "mean": list(backbone_spec(self.config.backbone).mean),
            "std": list(backbone_spec(self.config.backbone).std),
            "precision": self.config.precision,
            "weights": list(self.weights),
            "device": self.device,
            "seconds": round(self.seconds, 3),
        }

    def text(self) -> str:
        """All of it, for people."""
        spec = backbone_spec(self.config.backbone)
        low, high = (f"{100 * bound:.1f}" for bound in self.interval)
        known = self.expected
        rows = {
            "weights": "\n".join(self.weights),
            "images": f"{self.images} of {self.config.benchmark}, clean{self._part()}",
            "transform": f"{self.transform}; mean {_listed(spec.mean)}, std {_listed(spec.std)}",
            "expected": "not stated" if known is None else f"{100 * known.accuracy:.2f} % ({known.source})",
            "measured": f"{100 * self.measured:.2f} % (95 % interval {low} to {high})",
            "took": f"{self.seconds:.1f} s on {self.device}, {self.config.precision}",
            "verdict": self._verdict(),
        }
        lines = [self.config.backbone]
        for name, value in rows.items():
            first, *more = value.split("\n")
            lines += [f"  {name:<10} {first}", *(f"  {'':<10} {line}" for line in more)]
        causes = self.causes()
        return "\n".join([*lines, *(["  likely causes:"] if causes else []), *(f"  - {cause}" for cause in causes)])

    def _part(self) -> str:
        all_classes = self.config.num_classes
        return "" if self.classes == all_classes else f", of {self.classes} of {all_classes} classes"

    def _verdict(self) -> str:
        if self.expected is None:
            return "nothing to compare with: no source that we trust states this number"
        within = f"the interval, widened by {100 * self.expected.tolerance:g} points"
        if self.agrees:
            return f"agrees: the expected number lies in {within}"
        side = "below" if self.measured < self.expected.accuracy else "above"
        return f"DISAGREES: measured {side} what is expected, which lies outside {within}"


def check_config(backbone: str, values: Mapping[str, Any] | None = None) -> RunConfig:
    """The cell that measures a backbone on clean images.

    Args:
        backbone: its name.
        values: other fields of the cell; the benchmark is the one of uncorrupted images unless they name another.

    Raises:
        InputError: for names and values that are not allowed.
    """
    spec = backbone_spec(backbone)
    given = {"benchmark": clean_benchmark(spec).name} | {k: v for k, v in (values or {}).items() if v is not None}
    # A mixed stream of one domain is that domain in a seeded random order: its first images are of all classes.
    own = {"method": "source", "backbone": backbone, "domains": [CLEAN], "stream": "mixed", "diagnostics": "none"}
    return RunConfig.from_values({**given, **own})


def clean_benchmark(spec: BackboneSpec) -> BenchmarkSpec:
    """The benchmark whose clean images a backbone is measured on: one of uncorrupted images, if there is one."""
    own = [
        row
        for row in BENCHMARKS.values()
        if row.classes == spec.classes and not row.class_numbers and CLEAN not in row.parts
    ]
    if not own:
        raise InputError(f"no benchmark has the classes {spec.classes!r} of {spec.name}: name one with --benchmark")
    return min(own, key=lambda row: bool(row.severities))


def list_clean_images(spec: BenchmarkSpec, folder: Path) -> str | None:
    """Writes the names of a benchmark's clean images that are here, for `subset_file` of a cell that takes only those.

    Args:
        spec: the benchmark.
        folder: where the list is written.

    Returns:
        The list; None if the images are no files in class folders: those are all here, or none is.

    Raises:
        InputError: if there are none.
    """
    request = ImageRequest(spec)
    if not request.named(CLEAN):
        return None
    file = folder / f"{spec.name}.txt"
    file.write_text("".join(f"{name}\n" for name in request.names(CLEAN)))
    return str(file)


def expected_accuracy(config: RunConfig, tolerance: float | None = None) -> Expected | None:
    """What sources state for a backbone, as near to the transform of a cell as there is.

    Args:
        config: the cell.
        tolerance: in accuracy; None for the one that goes with the transforms.
    """
    spec, crop = backbone_spec(config.backbone), _clean_crop(config)
    if crop == "resize-center" and spec.protocol_accuracy is not None:
        found = spec.protocol_accuracy, "under this transform", SAME_TRANSFORM
    elif spec.clean_accuracy is None:
        return None
    elif crop == "resize-center":
        found = spec.clean_accuracy, f"{spec.accuracy_source}; under another transform", OTHER_TRANSFORM
    else:
        found = spec.clean_accuracy, spec.accuracy_source, SAME_TRANSFORM
    accuracy, source, own = found
    return Expected(accuracy, source, own if tolerance is None else tolerance)


def check_backbone(config: RunConfig, *, device: str = "auto", tolerance: float | None = None) -> BackboneCheck:
    """Measures a backbone.

    Args:
        config: the cell that does it, see `check_config`.
        device: see `tta_core.run`.
        tolerance: see `expected_accuracy`.

    Raises:
        InputError: if images or weights are missing, or are not what they should be, or the network segments.
    """
    spec = backbone_spec(config.backbone)
    if spec.task != "classification":
        raise InputError(
            f"check-backbone counts images that are right, and {spec.name} segments: run a sweep of `source` on its "
            "benchmark, and compare the mIoU"
        )
    try:
        result = run(config, device=device)
    except CollapseError as error:
        raise InputError(str(error)) from None
    label, prediction = result.samples["label"], result.samples["prediction"]
    return BackboneCheck(
        config=config,
        expected=expected_accuracy(config, tolerance),
        correct=int((label == prediction).sum()),
        images=len(label),
        classes=len(np.unique(label)),
        reordered=_reordered(label, prediction),
        weights=tuple(line for line in (weights_origin(spec, config.own_weights), text_head_state(spec)) if line),
        device=result.device,
        seconds=result.seconds,
    )


def _clean_crop(config: RunConfig) -> Crop:
    return config.images.domain(CLEAN).crop


def _reordered(label: NDArray[np.int64], prediction: NDArray[np.int64]) -> float | None:
    classes, rows = np.unique(label, return_inverse=True)
    if len(label) < IMAGES_PER_CLASS * len(classes):
        return None
    counts = np.zeros((len(classes), int(prediction.max()) + 1), dtype=np.int64)
    np.add.at(counts, (rows, prediction), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(label))


def _built(spec: BackboneSpec) -> str:
    options = ", ".join(f"{name}={value}" for name, value in spec.options.items())
    return " and ".join(filter(None, [options, f"the text head {spec.text.tag()}" if spec.text else ""]))


def _listed(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
