"""Follows a published run with our own method; `tests/golden/methods` has one subclass for each method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tests.golden.case import Case
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.registry import build_method


class Comparison(NamedTuple):
    """One quantity of one step beside its published value; a tolerance of 0 asks for equality."""

    quantity: str
    ours: ArrayLike
    published: ArrayLike
    tolerance: float

    @property
    def difference(self) -> float:
        """Largest absolute difference; infinite if a value is not a number."""
        ours, published = np.asarray(self.ours, np.float64), np.asarray(self.published, np.float64)
        difference = float(np.abs(ours - published).max(initial=0))
        return difference if np.isfinite(difference) else float("inf")

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


def ruled_view(pixels: Tensor, number: int) -> Tensor:
    """The published rule that stands in for a random view: view `number` of images in [0, 1]."""
    turned = pixels.flip(-1) if number % 2 else pixels
    return (turned.roll(number % 5 - 2, dims=-1) * (0.8 + 0.0125 * number)).clamp(0, 1)


class Follower:
    """Builds the method of a case and takes its steps. Subclasses translate options and compare internals.

    Attributes:
        name: the method's name in our registry.
        scored: the recorded quantity that `step` returns.
        exact_inputs: whether the published run normalised its images in its own precision; otherwise in float32.
        translated: options in the manifest's `hyper` that `settings` takes into account; any other is refused.
        case: the case.
        dtype: precision of network and inputs.
        method: our method.
    """

    name: str
    scored = "logits"
    exact_inputs = False
    translated: frozenset[str] = frozenset()

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case = case
        self.dtype = dtype
        unknown = set(case.hyper) - self.translated
        if unknown:
            raise InputError(f"option {min(unknown)!r} in the manifest has no translation in tests/golden/methods")
        self.method: Method[Any] = self.build()

    @property
    def tolerance(self) -> float:
        """Largest difference that is allowed for what is scored."""
        return self.case.tolerance("logits", self.dtype)

    def settings(self) -> dict[str, Any]:
        """Our settings, and the preset if it is not `official`, for the case's options."""
        raise NotImplementedError

    def build(self) -> Method[Any]:
        """Builds our method with the case's network, options and initial values."""
        pixels = {"mean": (0.5,) * 3, "std": (0.5,) * 3} if self.case.normalises_inside else {}
        return build_method(
            self.name,
            self.case.network(self.dtype),
            num_classes=self.case.num_classes,
            batch_size=self.case.hyper.get("nominal_batch_size", self.case.batches.shape[1]),
            initial=self.initial(),
            **{"preset": "official", **pixels, **self.settings()},
        )

    def initial(self) -> dict[str, Tensor]:
        """Initial values of what the method adds to the network, by our parameter names."""
        return self.case.tensors("extra/", self.dtype)

    def inputs(self, step: int) -> Tensor:
        """The batch of a step, as our method takes it."""
        if not self.case.normalises_inside and not (self.exact_inputs and self.case.normalised):
            return self.case.batches[step].to(self.dtype)
        return (self.case.pixels(self.case.trace["u8"][step], normalised=False).to(self.dtype) - 0.5) / 0.5

    def step(self, step: int) -> Tensor:
        """Takes one step and returns the logits `(batch, classes)`."""
        return self.method(self.inputs(step))

    def compare(
        self, quantity: str, step: int, ours: ArrayLike, tolerance: float | None = None
    ) -> Iterator[Comparison]:
        """Compares with the run in this precision, or in float32 if only that is stored; with nothing if neither is."""
        for dtype in (self.dtype, torch.float32):
            published = self.case.expected(quantity, dtype)
            if published is not None:
                # A tolerance of our own is for what single precision does; equality is asked for in both.
                own = tolerance is not None and (tolerance == 0 or dtype == torch.float32)
                allowed = tolerance if own and tolerance is not None else self.case.tolerance("loss", dtype)
                yield Comparison(quantity, ours, published[step], allowed)
                return

    def compare_adapted_names(self, step: int) -> Iterator[Comparison]:
        """Compares, at the first step, the names of what is trained."""
        if step == 0:
            theirs = {str(name) for name in self.case.trace["extra/__adapted_names__"]}
            yield Comparison("adapted names", len(theirs ^ set(self.method.trainable_parameters())), 0, 0)

    def compare_final(self, step: int, prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[Comparison]:
        """Compares, after the last step, tensors by name with what was stored in float32 under `prefix`."""
        if step == len(self.case.batches) - 1 and self.dtype == torch.float32:
            for name, ours in tensors.items():
                final = self.case.trace.get(f"{prefix}{name}")
                if final is not None:
                    yield Comparison(f"{prefix}{name}", ours.detach(), final, self.case.tolerance("loss", self.dtype))

    def compare_where_given(self, name: str, step: int, ours: Tensor, tolerance: float) -> Iterator[Comparison]:
        """Compares where the release has a number, not NaN: for a sample that it did not look at, a loss of none.

        A loss of ours where the release has none fails.
        """
        expected = self.case.expected(name, self.dtype)
        if expected is None:
            return
        found, values = np.asarray(ours, np.float64), np.asarray(expected[step], np.float64)
        if name == "loss" and np.isnan(values):
            yield Comparison("updated", np.isfinite(found), False, 0)
            return
        given = np.isfinite(values)
        yield Comparison(name, found[given], values[given], tolerance)

    def internals(self, step: int) -> Iterator[Comparison]:
        """Compares what else the published run recorded of the step just taken."""
        yield from ()
