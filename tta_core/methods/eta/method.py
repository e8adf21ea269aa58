"""ETA: trains weight and bias of every normalisation layer on the entropy of reliable, non-redundant samples.

Paper: Niu et al., ICML 2022: EATA without the Fisher penalty (mixed §2.3). Deviations: the network stays in eval
mode, and a reset forgets the running class probabilities, which the EATA repository keeps.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.device import scalar
from tta_core.methods.base import Method
from tta_core.methods.common.losses import entropy_margin, masked_mean, softmax_entropy, widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.selective import SelectiveForward
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.eta.spec import ETASettings
from tta_core.methods.stateful import Stateful

REFERENCE_CLASSES = 1000
"""The number of classes that the published redundancy margin is made for."""

Settings = TypeVar("Settings", bound=ETASettings)


class Selection(NamedTuple):
    """How a batch was judged; all `(batch,)`.

    Attributes:
        entropy: of the predictions, in nat.
        similarity: cosine of the probabilities and their running mean, 0 as long as there is none.
        reliable: whether the entropy is below its margin.
        selected: whether the sample enters the loss.
    """

    entropy: Tensor
    similarity: Tensor
    reliable: Tensor
    selected: Tensor


class ETA(Method[Settings]):
    """One step per batch on the weighted entropy of the selected samples; scores the logits before the update.

    Attributes:
        average: running mean of the selected samples' probabilities `(classes,)`; zeros as long as there is none.
        last_selection: how the last batch was judged; None before the first.
    """

    remembers = ("average",)

    last_selection: Selection | None = None

    def prepare(self) -> None:
        """Thaws the affine pair of every normalisation layer."""
        thaw_norms(self.network, type(self).__name__.lower())

    def begin(self) -> None:
        """Nothing was seen yet."""
        settings, like = self.settings, next(self.network.parameters())
        self.forward = SelectiveForward(self.network)
        self.margin = entropy_margin(settings.entropy_margin, self.num_classes)
        scale = math.log(self.num_classes) / math.log(REFERENCE_CLASSES) if settings.scale_redundancy else 1.0
        self.redundancy_margin = settings.redundancy_margin * scale
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.average = torch.zeros(self.num_classes, device=like.device, dtype=dtype)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD or Adam, no weight decay."""
        return make_optimizer(self.settings, parameters)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update; none is made if no sample is selected.

        Waits for the device once: for the selected samples.
        """
        logits = self.forward(images)
        probabilities = widened(logits.detach()).softmax(dim=-1)
        judged = self._judge(logits.detach(), probabilities)
        index = judged.selected.nonzero().squeeze(1)
        self.last_selection = judged
        self.record = {
            "selected": scalar(len(index), images.device),
            "reliable": judged.reliable.sum(),
            "similarity": masked_mean(judged.similarity, judged.reliable),
        }
        self.record |= self._learn(self.forward.selected(images, logits, index))
        if len(index) > 0:
            self._remember(probabilities[index].mean(dim=0))
        return logits

    def parts(self) -> dict[str, Stateful]:
        """What decides how the next batch is computed."""
        return {"forward": self.forward}

    def penalty(self) -> Tensor | None:
        """What is added to the loss, in nat; None for nothing."""
        return None

    def _judge(self, logits: Tensor, probabilities: Tensor) -> Selection:
        """The two filters. With an average of zeros all cosines are 0: before it exists nothing is redundant."""
        entropy = softmax_entropy(logits)
        similarity = functional.cosine_similarity(self.average.unsqueeze(0), probabilities, dim=1)
        reliable = selected = entropy < self.margin
        if not self.settings.filter_entropy:
            selected = torch.ones_like(reliable)
        if self.settings.filter_redundancy:
            selected = selected & (similarity.abs() < self.redundancy_margin)
        return Selection(entropy, similarity, reliable, selected)

    def _learn(self, logits: Tensor) -> dict[str, Tensor]:
        """Steps on the logits `(selected, classes)` of the selected samples; what was lost, nothing if there are none.

        Without samples momentum does not move the weights either, and the penalty does not pull (mixed §4.1).
        """
        if len(logits) == 0:
            return {}
        entropy = softmax_entropy(logits)
        weight = (self.margin - entropy.detach()).exp() if self.settings.weight_by_entropy else 1.0
        loss = (weight * entropy).mean()
        penalty = self.penalty()
        if penalty is not None:
            loss = loss + penalty
        self.descend(loss)
        return {"loss": loss.detach()}

    def _remember(self, mean: Tensor) -> None:
        """Takes the mean probabilities of a batch `(classes,)` into the running ones; the first are taken as is."""
        blended = torch.lerp(mean, self.average, self.settings.average_momentum)
        self.average = torch.where(self.average.any(), blended, mean)
