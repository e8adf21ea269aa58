"""Tent: trains weight and bias of every normalisation layer by minimising the entropy of the predictions.

Paper: Wang et al., ICLR 2021 (spec 2.2). Deviation: the network stays in eval mode, which avoids stochastic depth;
BatchNorm layers use batch statistics all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.errors import InputError
from tta_core.losses import softmax_entropy
from tta_core.method import Method
from tta_core.methods.tent.spec import TentSettings
from tta_core.surgery import norm_layers, use_batch_statistics


class Tent(Method[TentSettings]):
    """One SGD step per batch on the mean entropy of the whole batch; scores the logits before the update."""

    optimizer: torch.optim.SGD

    def prepare(self) -> None:
        """Thaws the affine pair of every normalisation layer."""
        norms = norm_layers(self.network)
        if not norms:
            raise InputError(f"tent adapts normalisation layers, and {type(self.network).__name__} has none")
        use_batch_statistics(self.network)
        for _, norm in norms:
            norm.requires_grad_(True)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        """SGD with momentum, no weight decay."""
        return torch.optim.SGD(parameters, lr=self.settings.lr, momentum=self.settings.momentum)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update."""
        logits: Tensor = self.network(images)
        loss = softmax_entropy(logits).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.record = {"loss": loss.detach(), "selected": torch.tensor(len(images))}
        return logits
