"""SAR: trains normalisation layers by the entropy of reliable samples, at weights that a SAM step has moved uphill.

Paper: Niu et al., ICLR 2023 (mixed §2.4). Deviations from the releases are settings, see the presets `official`, `foa`,
`moetta`; without one: eval mode, no NaN where nothing is reliable, and `reset_threshold` is heeded, not always 0.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tta_core.methods.base import Method
from tta_core.methods.common.layer_choice import trained_norms
from tta_core.methods.common.losses import entropy_margin, masked_mean, softmax_entropy
from tta_core.methods.common.optim import ascend, put_back
from tta_core.methods.common.recovery import Recovery, step_where
from tta_core.methods.common.selective import SelectiveForward
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.sar.spec import SARSettings
from tta_core.methods.stateful import Stateful


class Pass(NamedTuple):
    """The pass that the update follows: `logits` `(batch, classes)` if scored, `selected` `(batch,)`, `loss` `()`."""

    logits: Tensor | None
    selected: Tensor
    loss: Tensor


class SAR(Method[SARSettings]):
    """One SAM step of SGD per batch on the entropy of reliable samples.

    Attributes:
        reliable: which samples the first pass of the last step selected, bool `(batch,)`; None before the first step.
        selected: likewise, which entered the loss that the update follows.
        recovery: the moving average of that loss.
    """

    optimizer: torch.optim.SGD
    reliable: Tensor | None = None
    selected: Tensor | None = None

    def prepare(self) -> None:
        """Thaws the affine pairs of the chosen normalisation layers."""
        thaw_norms(self.network, "sar", trained_norms(self.settings.norms, self.network))
        self.forward = SelectiveForward(self.network)
        self.margin = entropy_margin(self.settings.entropy_margin, self.num_classes)

    def begin(self) -> None:
        """Makes the recovery, and takes hold of what is trained."""
        settings = self.settings
        self.trained = list(self.trainable_parameters().values())
        self.recovery = Recovery(
            settings.reset_threshold,
            settings.reset_ema,
            clears_memory=settings.reset_clears == "everything",
            device=self.trained[0].device,
        )

    def parts(self) -> dict[str, Stateful]:
        """The recovery, and what decides how the next batch is computed."""
        return {"recovery": self.recovery, "forward": self.forward}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        """SGD without weight decay; `rho` makes it sharpness-aware."""
        return torch.optim.SGD(parameters, lr=self.settings.lr, momentum=self.settings.momentum)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` of the first pass, or those of the second under the variant `foa`.

        Waits for the device once: for the number of reliable samples, which decides how many are computed further.
        """
        logits = self.forward(images)
        reliable = self.reliable = softmax_entropy(logits.detach()) < self.margin
        index = reliable.nonzero().flatten()
        chosen = self.forward.selected(images, logits, index)
        if len(index) == 0:
            self._without_reliable(reliable)
            return logits
        first_loss = softmax_entropy(chosen).mean()
        self.backward(first_loss)
        second = Pass(None, reliable, first_loss)
        if self.settings.rho > 0:
            before = ascend(self.trained, self.settings.rho)
            self.optimizer.zero_grad()
            second = self._second_pass(images, reliable, index)
            self.backward(second.loss)
            put_back(self.trained, before)
        self.selected = second.selected
        some = second.selected.any()
        if self.settings.on_empty == "skip_step":
            step_where(self.optimizer, some)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.recovery.follow(second.loss, some)
        self._record(first_loss, second.loss)
        return logits if second.logits is None else second.logits

    def _second_pass(self, images: Tensor, reliable: Tensor, index: Tensor) -> Pass:
        """The loss at perturbed weights (mixed §2.4).

        Args:
            images: the batch.
            reliable: what the first pass selected, bool `(batch,)`.
            index: likewise, as positions `(reliable,)`.
        """
        if self.settings.variant == "foa":
            logits: Tensor = self.network(images)
            entropy = softmax_entropy(logits)
            selected = entropy.detach() < self.margin
            return Pass(logits, selected, masked_mean(entropy, selected))
        # Without batch statistics nothing but the reliable samples needs to be looked at.
        alone = self.forward.independent
        entropy = softmax_entropy(self.network(images[index]) if alone else self.network(images)[index])
        within = entropy.detach() < self.margin
        return Pass(None, reliable.index_copy(0, index, within), masked_mean(entropy, within))

    def _without_reliable(self, none: Tensor) -> None:
        """What a step does where the first pass selected `none` `(batch,)` (mixed §4.1)."""
        self.selected = none
        released = self.settings.on_empty == "momentum_step" and self.settings.variant == "original"
        if released:
            for parameter in self.trained:
                parameter.grad = torch.zeros_like(parameter)
            self.descend()
        nothing = torch.zeros((), device=none.device)
        self._record(nothing, nothing if released else None)

    def _record(self, first_loss: Tensor, loss: Tensor | None) -> None:
        """Ends a step: recovers if the moving average asks for it, and fills the record; no `loss`, no update."""
        assert self.reliable is not None
        assert self.selected is not None
        selected = self.selected.sum()
        moved = selected > 0 if self.settings.on_empty == "skip_step" else torch.ones_like(selected, dtype=torch.bool)
        self.record = {
            "selected": selected,
            "first_loss": first_loss.detach(),
            "reliable": self.reliable.sum(),
            "updated": moved if loss is not None else torch.zeros_like(moved),
            **self.recovery.recover(self.optimizer, self.trainable_parameters(), self.source_parameters),
        }
        if loss is not None:
            self.record["loss"] = loss.detach()
