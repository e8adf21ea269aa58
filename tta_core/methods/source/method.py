"""Source: changes nothing in the network, learns nothing. The reference of every table; no deviations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.base import Method
from tta_core.methods.source.spec import SourceSettings


class Source(Method[SourceSettings]):
    """Predicts with the pre-trained network."""

    def prepare(self) -> None:
        """Leaves the network as it is."""

    def make_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """There is nothing to train."""
        return

    def step(self, images: Tensor) -> Tensor:
        """Returns the source logits `(batch, classes)`."""
        with torch.no_grad():
            logits: Tensor = self.network(images)
        self.record = {"selected": scalar(0, images.device)}
        return logits
