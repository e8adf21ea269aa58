"""What a task is: what is computed from logits for each sample, and from samples for a cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Columns = Mapping[str, NDArray[Any]]
"""Values by name, the first axis of each over samples."""

Metric = Literal["accuracy", "miou"]
"""What the score of a cell is: the share of samples that are right, or the mean intersection over union."""


@dataclass(frozen=True)
class Scores:
    """What samples are worth together, each in [0, 1].

    Attributes:
        score: the task's own metric.
        accuracy: share of samples that are right, or of pixels.
        accuracy5: share of samples whose class is among the five most probable; None of pixels.
        class_accuracy: mean over classes of the share of its pixels that are right; None of samples.
    """

    score: float
    accuracy: float
    accuracy5: float | None = None
    class_accuracy: float | None = None


class Task(ABC):
    """One task.

    Attributes:
        metric: what its score is.
    """

    metric: Metric

    @abstractmethod
    def outcomes(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Each sample's outcome from its scored logits, on the device of the logits: columns `(batch, ...)`.

        All tasks have `confidence` and `entropy`.
        """

    @abstractmethod
    def scores(self, samples: Columns) -> Scores:
        """What samples are worth together, from columns that `outcomes` gave."""

    def scores_by_domain(self, samples: Columns) -> dict[str, Scores]:
        """The same by the column `domain`."""
        return {
            str(name): self.scores({key: values[samples["domain"] == name] for key, values in samples.items()})
            for name in np.unique(samples["domain"])
        }


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no value is infinite or not a number. Waits for the device."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
