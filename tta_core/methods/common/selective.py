"""Back-propagates only through the samples that enter the loss, where that is exact and cheaper.

Methods that filter their batch know which samples enter the loss only after a forward. One way is to keep the graph of
that forward and to back-propagate through the whole batch. The other is a forward that keeps nothing, and a second one,
with a graph, of the selected samples alone: in an eval-mode network without batch statistics a sample's logits do not
depend on its neighbours, so both ways give the same gradients up to rounding. With a forward of cost 1 and a backward
of about 1.2, the second way is cheaper while fewer than about 0.55 of the samples are selected.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.methods.stateful import Remembering

BREAK_EVEN = 0.55
"""Share of selected samples from which on the graph of the whole batch is cheaper."""

REMEMBERED = 5
"""Batches that the running share looks back on. The share of one small batch says little about that of the next."""


class SelectiveForward(Remembering):
    """Predicts a batch, then gives the logits of the selected samples with a graph.

    Which way is taken follows the share that was selected in the last batches; the first batch keeps its graph. The
    share is part of a method's state: both ways round differently.

    Attributes:
        share: running mean of the share of samples that were selected, in [0, 1].
        batches: batches that it was made of.
    """

    remembers = ("share", "batches")

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.independent = not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        self.share = 1.0
        self.batches = 0

    @property
    def keeps_graph(self) -> bool:
        """Whether the next batch is predicted with a graph."""
        return not self.independent or self.share >= BREAK_EVEN

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(batch, classes)` of the whole batch, with a graph or without."""
        with torch.set_grad_enabled(self.keeps_graph):
            logits: Tensor = self.network(images)
        return logits

    def selected(self, images: Tensor, logits: Tensor, index: Tensor) -> Tensor:
        """Logits `(selected, classes)` with a graph of those samples of the batch that `index` names.

        Args:
            images: the batch.
            logits: what a call returned for it.
            index: int64 `(selected,)`. Its length is known on the host: whoever made it has waited for the device once.
                If it is empty, so is what is returned, and nothing is computed.
        """
        self.batches += 1
        self.share += (len(index) / len(images) - self.share) / min(self.batches, REMEMBERED)
        if logits.requires_grad or len(index) == 0:
            return logits[index]
        again: Tensor = self.network(images[index])
        return again
