"""LAME: changes nothing in the network; makes the predicted probabilities of a batch agree among neighbours.

Paper: Boudiaf et al., CVPR 2022 (further §4). Deviations: the scored logits are the logarithms of the assignments, and
convergence is judged on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.device import scalar, works_in_pieces
from tta_core.methods.base import Method
from tta_core.methods.common.losses import widened
from tta_core.methods.common.penultimate import PenultimateForward
from tta_core.methods.lame.laplacian import Assignments, affinity, assign
from tta_core.methods.lame.spec import LAMESettings


class LAME(Method[LAMESettings]):
    """Scores the logarithms of a batch's assignments. It trains nothing and remembers nothing."""

    def prepare(self) -> None:
        """Finds the classifier, whose input the affinities are made of."""
        self.forward = PenultimateForward(self.network, "lame")

    def make_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """There is nothing to train."""
        return

    def step(self, images: Tensor) -> Tensor:
        """Returns log-probabilities `(batch, classes)`."""
        with torch.no_grad():
            logits, found = self._assign(images)
            self.record = {
                "selected": scalar(0, images.device),
                "iterations": found.iterations,
                "changed": (logits.argmax(dim=-1) != found.log_probabilities.argmax(dim=-1)).sum(),
            }
        return found.log_probabilities

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The same: what is returned for a batch depends on that batch alone."""
        return self._assign(images)[1].log_probabilities

    def _assign(self, images: Tensor) -> tuple[Tensor, Assignments]:
        """The network's logits `(batch, classes)` and what becomes of them."""
        settings = self.settings
        features, logits = self.forward(images)
        with torch.autocast(images.device.type, enabled=False):
            found = affinity(widened(features), settings.affinity, settings.neighbours, settings.symmetric)
            assignments = assign(
                widened(logits).softmax(dim=-1),
                (settings.lambda_laplacian * found).to(widened(logits).dtype),
                max_steps=settings.max_steps,
                tolerance=settings.tolerance,
                stop_early=works_in_pieces(images.device),
            )
        return logits, assignments
