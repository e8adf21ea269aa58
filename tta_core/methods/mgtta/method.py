"""MGTTA: trains weight and bias of every normalisation layer with an optimizer that was learned before the stream.

Paper: MGTTA, AAAI 2025 (mixed §2.8). Deviations, none in the preset `official`: the bias correction is Adam's; and
in all presets a single image, which has no standard deviation, is compared with the source by its mean alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.base import Method
from tta_core.methods.common.feature_statistics import FeatureStatistics, source_statistics, with_class_token
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.context import Artefact, Context
from tta_core.methods.mgtta.checkpoint import PREFIX, meta_from, read_meta
from tta_core.methods.mgtta.spec import MGTTASettings
from tta_core.methods.mgtta.training import NormOptimizer, objective, train
from tta_core.methods.stateful import Stateful


class MGTTA(Method[MGTTASettings]):
    """One step per batch on entropy plus distance to the source statistics; scores the logits before the update.

    Attributes:
        source: statistics of the source's features.
        norms: the learned optimizer around the normalisation layers.
        last_update: what the last step subtracted, in units of the learning rate, `(scalars,)`; None before it.
    """

    last_update: Tensor | None = None

    @classmethod
    def make_artefact(cls, network: nn.Module, settings: MGTTASettings, context: Context) -> Artefact:
        """Makes the source statistics, `source_std` and `source_mean`, and trains `mgg.*`, unless a file has them."""
        transformer = with_class_token(network, "mgtta")
        assert context.source_images is not None, "asked for by the spec"
        source = source_statistics(transformer, context.source_images, samples=settings.source_samples)
        artefact = {"source_std": source.std, "source_mean": source.mean}
        if settings.mgg_file is not None:
            return artefact
        assert context.held_out is not None, "asked for by the spec"
        meta = train(transformer, source, context.held_out, settings)
        return artefact | {PREFIX + name: value for name, value in meta._asdict().items()}

    def prepare(self) -> None:
        """Thaws the affine pair of every normalisation layer and puts the learned optimizer around them."""
        settings = self.settings
        self.transformer = with_class_token(self.network, "mgtta")
        thaw_norms(self.network, "mgtta")
        parameters = list(self.trainable_parameters().values())
        self.source = FeatureStatistics(
            *(self.artefact[f"source_{part}"].to(parameters[0]) for part in ("std", "mean"))
        )
        if settings.mgg_file is not None:
            meta = read_meta(settings.mgg_file, settings.mgg_sha256)
        else:
            meta = meta_from(self.artefact, "the artefact")
        self.norms = NormOptimizer(parameters, meta.to(parameters[0]), settings)

    def parts(self) -> dict[str, Stateful]:
        """The learned optimizer: moments, step number and memories."""
        return {"learned": self.norms.learned}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """None: the learned optimizer is part of the method."""

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update."""
        found = objective(self.transformer, images, self.source, self.settings)
        self.last_update = self.norms.move(self.norms.gradient(found.loss), self.settings.lr)
        self.record = {
            "loss": found.loss.detach(),
            "selected": scalar(len(images), images.device),
            "entropy": found.entropy.detach(),
            "discrepancy": found.discrepancy.detach(),
        }
        return found.logits
