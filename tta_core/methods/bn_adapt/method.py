"""BN-Adapt: normalises with statistics of the test batch in BatchNorm layers; trains nothing.

Papers: Nado et al. 2020 (the batch alone) and Schneider et al., NeurIPS 2020 (blended with the source's; equation 1).
`ema` is BN-EMA of mariodoebler/test-time-adaptation. Deviations: a channel with a single value in the batch keeps the
source's statistics; `running` has no published counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_core.device import scalar
from tta_core.methods.base import Method
from tta_core.methods.bn_adapt.spec import BNAdaptSettings
from tta_core.methods.common.batch_norm import (
    BlendedBatchNorm,
    RunningBatchNorm,
    StreamBatchNorm,
    TwoPassBatchNorm,
    replace_batch_norms,
)


class BNAdapt(Method[BNAdaptSettings]):
    """Predicts with adapted statistics; what is scored has the batch's own say in it.

    Attributes:
        layers: the layers that replaced BatchNorm, by qualified name.
    """

    def prepare(self) -> None:
        """Replaces every BatchNorm layer."""
        self.layers: Mapping[str, StreamBatchNorm] = replace_batch_norms(self.network, "bn-adapt", self._layer)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """There is nothing to train."""
        return

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` under the adapted statistics."""
        with torch.no_grad():
            logits = self.frozen_logits(images)
        self.record = {"selected": scalar(0, images.device)}
        return logits

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The same: a batch has its say in its own statistics. With `ema` the network is run twice."""
        two_pass = [layer for layer in self.layers.values() if isinstance(layer, TwoPassBatchNorm)]
        if two_pass:
            for layer in two_pass:
                layer.updating = True
            self.network(images)
            for layer in two_pass:
                layer.updating = False
        logits: Tensor = self.network(images)
        return logits

    def _layer(self, norm: _BatchNorm) -> StreamBatchNorm:
        if self.settings.statistics == "blend":
            return BlendedBatchNorm(norm, self.settings.source_weight)
        if self.settings.statistics == "ema":
            return TwoPassBatchNorm(norm, self.settings.momentum, updating=False)
        return RunningBatchNorm(norm, self.settings.momentum)
