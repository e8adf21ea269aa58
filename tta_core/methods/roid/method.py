"""ROID: trains normalisation layers on weighted likelihood ratios and pulls them back to the source after each step.

Paper: Marsden, Doebler and Yang, WACV 2024 (further §3). Deviations: a batch whose samples are all alike has equal
weights where the release divides by zero; the prior corrects probabilities, unless the settings say logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.base import Method
from tta_core.methods.common.losses import widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.selective import SelectiveForward
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.common.views import normalised_view, reflected_view
from tta_core.methods.roid.spec import ROIDSettings
from tta_core.methods.roid.terms import correct_prior, sample_weights, soft_likelihood_ratio, symmetric_cross_entropy
from tta_core.methods.stateful import Stateful


class ROID(Method[ROIDSettings]):
    """One step per batch; scores the logits before the update, corrected by the prior of their batch.

    Waits for the device once: for which samples have a weight, if any are left out.

    Attributes:
        trend: running mean of the predictions, `(classes,)`.
    """

    remembers = ("trend",)

    def prepare(self) -> None:
        """Thaws the affine pair of every normalisation layer."""
        thaw_norms(self.network, "roid")
        self.forward = SelectiveForward(self.network)

    def begin(self) -> None:
        """Starts the trend at equal probabilities."""
        like = widened(next(self.network.parameters()))
        self.trend = like.new_full((self.num_classes,), 1 / self.num_classes)

    def parts(self) -> dict[str, Stateful]:
        """What decides how the next batch is computed."""
        return {"forward": self.forward}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD or Adam, no weight decay."""
        return make_optimizer(self.settings, parameters)

    def frozen_logits(self, images: Tensor) -> Tensor:
        """Logits of the network, corrected by the prior of these very images."""
        return correct_prior(self.network(images), self.settings.prior_correction)

    def step(self, images: Tensor) -> Tensor:
        """Returns the corrected logits `(batch, classes)` before the update."""
        settings = self.settings
        logits = self.forward(images)
        scored = logits.detach()
        weights = self._weights(scored)
        index = weights.nonzero().flatten() if settings.weighting else torch.arange(len(images), device=images.device)
        kept, own = weights[index], self.forward.selected(images, logits, index)
        ratio = soft_likelihood_ratio(own, settings.largest_probability, settings.likelihood_epsilon)
        # As released: a short batch takes a smaller step.
        full = self.context.batch_size or len(images)
        likelihood_loss = (ratio * kept).sum() / full
        loss, consistency_loss = likelihood_loss, torch.zeros_like(likelihood_loss)
        if settings.consistency:
            view = normalised_view(images[index], self.context, self.generator, self.augment)
            consistency_loss = (symmetric_cross_entropy(self.network(view), own) * kept).sum() / full
            loss = likelihood_loss + consistency_loss
        self.descend(loss)
        if settings.weight_ensembling:
            self._towards_source()
        prior = widened(scored).softmax(dim=-1).mean(dim=0)
        self.trend = torch.lerp(prior.to(self.trend.dtype), self.trend, settings.prediction_momentum)
        self.record = {
            "loss": loss.detach(),
            "selected": scalar(len(index), images.device),
            "likelihood_loss": likelihood_loss.detach(),
            "consistency_loss": consistency_loss.detach(),
            "mean_weight": weights.mean(),
            "largest_prior": prior.max(),
        }
        return correct_prior(scored, settings.prior_correction)

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The view of images in [0, 1] that consistency is asked with."""
        return reflected_view(pixels, generator)

    def _weights(self, logits: Tensor) -> Tensor:
        """Weight of each sample, `(batch,)`."""
        if not self.settings.weighting:
            return widened(logits).new_ones(len(logits))
        return sample_weights(logits, self.trend, self.settings.temperature)

    @torch.no_grad()
    def _towards_source(self) -> None:
        """Averages the trained parameters with the source's."""
        parameters, source = self.trainable_parameters(), self.source_parameters
        values = [source[name] for name in parameters]
        torch._foreach_lerp_(list(parameters.values()), values, 1 - self.settings.source_momentum)
