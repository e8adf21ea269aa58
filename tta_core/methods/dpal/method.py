"""DPAL: a domain token in every block, from which a predictor reads the noise that is taken out of the class token.

Paper: Tang et al., ECCV 2024 (continual §4.5). Deviations from the release are settings, see the preset `official`;
without one: eval mode, and no NaN where nothing is reliable.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tta_core.methods.base import Method
from tta_core.methods.common.layer_choice import LEGACY_PARTS_OF_24, trained_norms
from tta_core.methods.common.losses import entropy_margin, masked_mean, softmax_entropy
from tta_core.methods.common.optim import ascend, put_back
from tta_core.methods.common.recovery import Recovery, step_where
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.common.transformer import as_transformer
from tta_core.methods.dpal.layers import lift, noise_similarity
from tta_core.methods.dpal.spec import DPALSettings
from tta_core.methods.stateful import Stateful


class DPAL(Method[DPALSettings]):
    """Per batch one step of the predictors, then one SAM step of the rest; scores the logits of the second pass.

    Attributes:
        blocks: the blocks with their domain tokens and predictors.
        predictors: parameters of the prediction path.
        update_path: those of domain tokens and normalisation layers.
        recovery: the moving average of the loss of the second pass.
    """

    optimizer: torch.optim.SGD

    def prepare(self) -> None:
        """Adds domain tokens and predictors, and thaws them and the affine pairs of the chosen norms."""
        transformer = as_transformer(self.network, "dpal")
        # Chosen before there is anything new in the network.
        keep = trained_norms(self.settings.norms, self.network, LEGACY_PARTS_OF_24)
        self.blocks = lift(transformer, self.settings.predictor_init, self.generator)
        thaw_norms(self.network, "dpal", keep)
        norms = [p for p in self.network.parameters() if p.requires_grad]
        self.tokens, self.norms = self.blocks.domain_tokens(), norms
        self.update_path: list[nn.Parameter] = [*self.tokens, *norms]
        self.predictors = [p for predictor in self.blocks.predictors() for p in predictor.parameters()]
        for parameter in (*self.update_path, *self.predictors):
            parameter.requires_grad_(True)
        self.margin = entropy_margin(self.settings.entropy_margin, self.num_classes)

    def begin(self) -> None:
        """Makes the recovery."""
        settings = self.settings
        self.recovery = Recovery(
            settings.reset_threshold,
            settings.reset_ema,
            clears_memory=settings.reset_clears == "everything",
            device=self.update_path[0].device,
        )

    def parts(self) -> dict[str, Stateful]:
        """The recovery."""
        return {"recovery": self.recovery}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        """SGD without weight decay, with a learning rate for predictors, domain tokens and norms each."""
        settings = self.settings
        paths: list[dict[str, Any]] = [
            {"params": self.tokens, "lr": settings.lr if settings.token_lr is None else settings.token_lr},
            {"params": self.norms},
            {"params": self.predictors, "lr": settings.predictor_lr},
        ]
        return torch.optim.SGD(paths, lr=settings.lr, momentum=settings.momentum)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` of the second pass: new predictors, perturbed update path."""
        settings = self.settings
        entropy = softmax_entropy(self.network(images))
        reliable = entropy.detach() < self.margin
        similarity = noise_similarity(self.blocks.take_noises())
        # The weight is the share of reliable samples in a full batch, in a short one too.
        share = reliable.sum().to(entropy.dtype) / (self.context.batch_size or len(images))
        first_loss = masked_mean(entropy, reliable) - settings.lambda_similarity * share * similarity
        self.backward(first_loss)
        before = ascend(self.update_path, settings.rho)
        for parameter in self.update_path:
            parameter.grad = None
        self._update(reliable)
        logits: Tensor = self.network(images)
        self.blocks.take_noises()
        entropy = softmax_entropy(logits)
        selected = entropy.detach() < self.margin
        if settings.second_filter == "within_first":
            selected = selected & reliable
        loss = masked_mean(entropy, selected)
        self.backward(loss, self.update_path)
        put_back(self.update_path, before)
        self._update(selected)
        self.recovery.follow(loss, selected.any())
        self.record = {
            "loss": loss.detach(),
            "selected": selected.sum(),
            "first_loss": first_loss.detach(),
            "reliable": reliable.sum(),
            "similarity": similarity.detach(),
            "updated": reliable.any() | selected.any() | (settings.on_empty == "momentum_step"),
            # The predictors forget their momentum in any case: the release makes their optimizer anew.
            **self.recovery.recover(
                self.optimizer, self.trainable_parameters(), self.source_parameters, self.predictors
            ),
        }
        return logits

    def _update(self, chosen: Tensor) -> None:
        """Steps what has a gradient; with `skip_step` not where no sample was `chosen` `(batch,)`."""
        if self.settings.on_empty == "skip_step":
            step_where(self.optimizer, chosen.any())
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
