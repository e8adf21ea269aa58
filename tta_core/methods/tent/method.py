"""Tent: trains weight and bias of every normalisation layer by minimising the entropy of the predictions.

Paper: Wang et al., ICLR 2021 (mixed §2.2). Deviation: the network stays in eval mode, which avoids stochastic depth;
BatchNorm layers use batch statistics all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.base import Method
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.tent.spec import TentSettings


class Tent(Method[TentSettings]):
    """One step per batch on the mean entropy of the whole batch; scores the logits before the update."""

    def prepare(self) -> None:
        """Thaws the affine pair of every normalisation layer."""
        thaw_norms(self.network, "tent")

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD or Adam, no weight decay."""
        return make_optimizer(self.settings, parameters)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update."""
        logits: Tensor = self.network(images)
        loss = softmax_entropy(logits).mean()
        self.descend(loss)
        self.record = {"loss": loss.detach(), "selected": scalar(len(images), images.device)}
        return logits
