"""How MoETTA's entropy threshold follows the stream, in O(1) memory and without host synchronisation (moetta §1.8)."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_core.methods.stateful import Remembering


class PaperThreshold(Remembering):
    """The mean of all batch entropies so far, each batch counting once: the paper's recursion telescopes to it.

    Attributes:
        state: `sum` of the batch entropies (nat) and `batches`, their number; empty before the first batch.
    """

    remembers = ("state",)

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def update(self, batch_entropy: Tensor) -> Tensor:
        """Takes in the mean entropy of a batch (nat, no dimensions) and returns the threshold for that very batch."""
        total = self.state.get("sum", torch.zeros_like(batch_entropy)) + batch_entropy
        batches = self.state.get("batches", torch.zeros_like(batch_entropy)) + 1
        self.state = {"sum": total, "batches": batches}
        return total / batches


class OfficialThreshold(Remembering):
    """The recursion of the release, whose first history entry is overwritten by the threshold at every step.

    With theta_1 = h_1 and S_t = h_2 + ... + h_t::

        theta_t = theta_{t-1} * ((theta_{t-1} + S_t) / t) / ((theta_{t-1} + S_{t-1}) / (t - 1))

    Attributes:
        state: `threshold` (nat), `sum` S_t (nat) and `batches` t; empty before the first batch.
    """

    remembers = ("state",)

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def update(self, batch_entropy: Tensor) -> Tensor:
        """Takes in the mean entropy of a batch (nat, no dimensions) and returns the threshold for that very batch."""
        if not self.state:
            one = torch.ones_like(batch_entropy)
            self.state = {"threshold": batch_entropy, "sum": torch.zeros_like(batch_entropy), "batches": one}
            return batch_entropy
        threshold, earlier, batches = self.state["threshold"], self.state["sum"], self.state["batches"]
        total = earlier + batch_entropy
        mean_before = (threshold + earlier) / batches
        mean_now = (threshold + total) / (batches + 1)
        threshold = threshold * mean_now / mean_before
        self.state = {"threshold": threshold, "sum": total, "batches": batches + 1}
        return threshold
