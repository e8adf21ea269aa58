"""Follows a published run with our own method; `tests/golden/methods` has one subclass for each method."""

from __future__ import annotations

from collections.abc import Iterator
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


class Follower:
    """Builds the method of a case and takes its steps. Subclasses translate options and compare internals.

    Attributes:
        name: the method's name in our registry.
        translated: options in the manifest's `hyper` that `settings` takes into account; any other is refused.
        case: the case.
        dtype: precision of network and inputs.
        method: our method.
    """

    name: str
    translated: frozenset[str] = frozenset()

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case = case
        self.dtype = dtype
        unknown = set(case.hyper) - self.translated
        if unknown:
            raise InputError(f"option {min(unknown)!r} in the manifest has no translation in tests/golden/methods")
        self.method: Method[Any] = self.build()

    def settings(self) -> dict[str, Any]:
        """Our settings, and the preset if it is not `official`, for the case's options."""
        raise NotImplementedError

    def build(self) -> Method[Any]:
        """Builds our method with the case's network, options and initial values."""
        return build_method(
            self.name,
            self.case.network(self.dtype),
            num_classes=self.case.num_classes,
            batch_size=self.case.batches.shape[1],
            initial=self.initial(),
            **{"preset": "official", **self.settings()},
        )

    def initial(self) -> dict[str, Tensor]:
        """Initial values of what the method adds to the network, by our parameter names."""
        return self.case.tensors("extra/", self.dtype)

    def inputs(self, step: int) -> Tensor:
        """The batch of a step, as our method takes it."""
        return self.case.batches[step].to(self.dtype)

    def step(self, step: int) -> Tensor:
        """Takes one step and returns the logits `(batch, classes)`."""
        return self.method(self.inputs(step))

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
