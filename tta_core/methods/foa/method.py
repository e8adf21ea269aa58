"""FOA: looks for prompt tokens with CMA-ES, forwards only, and shifts the features that the classifier reads.

Paper: Niu et al., ICML 2024 (mixed §2.9). Deviations: batched forwards that share the patch embedding; a seed that
follows the cell's; of a single image, which has no standard deviation, only the mean is compared with the source.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tta_core.device import scalar, upload
from tta_core.methods.base import Method
from tta_core.methods.common.feature_statistics import (
    FeatureStatistics,
    class_token_features,
    discrepancy,
    source_statistics,
    with_class_token,
)
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.common.transformer import embed
from tta_core.methods.context import Artefact, Context
from tta_core.methods.foa.evolution import Array, EvolutionStrategy
from tta_core.methods.foa.spec import FOASettings, needs_source
from tta_core.methods.given import check_trained
from tta_core.methods.stateful import Stateful

REFERENCE_BATCH = 64
"""The batch size for which the release weighs discrepancy against entropy."""

TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 65536}
"""Tokens in a forward with several candidates. More are not faster and take memory; a CPU caches no more."""


class Evaluation(NamedTuple):
    """What forwards with several candidates gave, all by candidate.

    Attributes:
        entropy: sum of the samples' entropies in nat, `(candidates,)`.
        distance: discrepancy from the source, `(candidates,)`.
        features: what the classifier reads, `(candidates, batch, dim)`.
    """

    entropy: Tensor
    distance: Tensor
    features: Tensor


class FOA(Method[FOASettings]):
    """One generation of CMA-ES per batch; scores the best candidate of the batch, with shifted features.

    Attributes:
        prompts: the best of the last batch `(num_prompts, dim)`, on the CPU, in the network's precision.
        history: running mean of the features that the classifier reads `(dim,)`; means nothing before the first step.
        fitness: fitness of all candidates of the last step `(population_size + 1,)`, the last batch's best behind the
            others; None before the first step and in the variants without CMA-ES.
    """

    remembers = ("history", "has_history", "prompts")
    evolution: EvolutionStrategy | None = None
    fitness: Tensor | None = None

    @classmethod
    def make_artefact(cls, network: nn.Module, settings: FOASettings, context: Context) -> Artefact:
        """Measures the source: `std` and `mean` `(depth * dim,)` of its features; nothing if nothing is compared."""
        if not needs_source(settings):
            return {}
        assert context.source_images is not None, "asked for by the spec"
        return source_statistics(
            with_class_token(network, "foa"), context.source_images, samples=settings.source_samples
        )._asdict()

    def prepare(self) -> None:
        """Checks the network; for the variant `bp` thaws its normalisation layers."""
        self.transformer = with_class_token(self.network, "foa")
        check_trained({"cls_token": self.transformer.cls_token}, self.network)  # Prompts are of its type.
        self.source = FeatureStatistics(self.artefact["std"], self.artefact["mean"]) if self.artefact else None
        if self.settings.variant == "bp":
            # What lies before the blocks is computed without a graph.
            thaw_norms(self.network, "foa", keep=lambda name: not name.startswith(("patch_embed", "norm_pre")))

    def begin(self) -> None:
        """Draws the first prompts and starts CMA-ES."""
        settings, dim = self.settings, self.transformer.embed_dim
        self.history = self.source.mean[-dim:].clone() if self.source is not None else torch.zeros(dim)
        self.has_history = False
        if settings.variant != "foa":
            return
        # As visual prompt tuning initialises its prompts; the first factor is 3 * 16 * 16 for patches of 16 pixels.
        bound = math.sqrt(6 / (self.transformer.patch_embed.proj.weight[0].numel() + dim))
        drawn = torch.rand(settings.num_prompts, dim, generator=self.generator)
        self.prompts = ((2 * drawn - 1) * bound).to(self.transformer.cls_token.dtype)
        seed = settings.cmaes_seed
        if seed is None:
            seed = int(torch.randint(2**32, (), generator=self.generator))
        self.evolution = EvolutionStrategy(self.prompts.numel(), settings.population_size, settings.sigma, seed)

    def parts(self) -> dict[str, Stateful]:
        """CMA-ES, in the variant with prompts."""
        return {} if self.evolution is None else {"evolution": self.evolution}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """The optimizer of the variant `bp`; the others train no parameter."""
        return make_optimizer(self.settings, parameters) if parameters else None

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` of the best candidate, or of the network as it was before the update.

        Waits for the device once in the variant `foa`: CMA-ES lives on the host and has to know the fitness.
        """
        if self.evolution is None:
            return self._step_without_prompts(images)
        with torch.no_grad():
            return self._step_with_prompts(images, self.evolution)

    def frozen_logits(self, images: Tensor) -> Tensor:
        """Logits with the best prompts of the last batch and the present shift."""
        tokens = embed(self.transformer, images)
        if self.evolution is None:
            features, logits = class_token_features(self.transformer, tokens)
            return self._read_out(features, logits)
        best = self._evaluate_together(tokens, self.prompts.to(tokens.device)[None])
        return self._read_out(best.features[0])

    def _step_with_prompts(self, images: Tensor, evolution: EvolutionStrategy) -> Tensor:
        settings = self.settings
        tokens = embed(self.transformer, images)
        vectors = [*evolution.ask(), self.prompts.flatten().numpy().astype(np.float64)]
        found = self._evaluate(tokens, self._on_device(vectors, tokens.device))
        weight = settings.fitness_lambda * len(images) / REFERENCE_BATCH
        self.fitness = found.entropy + weight * found.distance
        values = self.fitness.double().cpu().numpy()
        best = int(np.where(np.isfinite(values), values, np.inf).argmin())
        evolution.tell(vectors, values)
        self.prompts = self._prompts_of(vectors[best : best + 1])[0]
        logits = self._read_out(found.features[best])
        self._remember(found.features.mean(dim=(0, 1)))
        self.record = {
            "loss": self.fitness[best],
            "selected": scalar(len(images), tokens.device),
            "entropy": found.entropy[best] / len(images),
            "discrepancy": found.distance[best],
            "candidate": scalar(best, tokens.device),
            "step_size": scalar(evolution.sigma, tokens.device, torch.float64),
        }
        return logits

    def _step_without_prompts(self, images: Tensor) -> Tensor:
        trains = self.optimizer is not None
        with torch.set_grad_enabled(trains):
            features, logits = class_token_features(self.transformer, embed(self.transformer, images))
            entropy, distance = softmax_entropy(logits).mean(), self._distance(features)
        self.record = {
            "selected": scalar(len(images) if trains else 0, images.device),
            "entropy": entropy.detach(),
            "discrepancy": distance.detach(),
            "candidate": scalar(-1, images.device),
            "step_size": scalar(0.0, images.device, torch.float64),
        }
        # The classifier's own normalisation layers are read before they are trained.
        with torch.no_grad():
            scored = self._read_out(features.detach(), logits.detach())
            self._remember(features.detach()[:, -len(self.history) :].mean(dim=0))
        if self.optimizer is not None:
            loss = entropy + self.settings.fitness_lambda * distance / features.shape[-1]
            self.descend(loss)
            self.record["loss"] = loss.detach()
        return scored

    def _evaluate(self, tokens: Tensor, prompts: Tensor) -> Evaluation:
        """Tries candidates `(candidates, num_prompts, dim)` on a batch `(batch, tokens, dim)`.

        The last one, which predicted the batch before, comes first and alone: whoever watches the network sees a step
        open with a forward of the batch as it came.
        """
        size = tokens.shape[0] * (tokens.shape[1] + prompts.shape[1])
        together = max(1, TOKENS_AT_ONCE.get(tokens.device.type, TOKENS_AT_ONCE["cuda"]) // size)
        parts = [self._evaluate_together(tokens, prompts[-1:])]
        parts += [self._evaluate_together(tokens, part) for part in prompts[:-1].split(together)]
        return Evaluation(*(torch.cat([*given[1:], given[0]]) for given in zip(*parts, strict=True)))

    def _evaluate_together(self, tokens: Tensor, prompts: Tensor) -> Evaluation:
        """Likewise, all in one forward."""
        count, number, dim = prompts.shape
        batch = len(tokens)
        prompted = torch.cat(
            [
                tokens[:, :1].expand(count, batch, 1, dim),
                prompts[:, None].expand(count, batch, number, dim),
                tokens[:, 1:].expand(count, batch, -1, dim),
            ],
            dim=2,
        )
        features, logits = class_token_features(self.transformer, prompted.flatten(0, 1), prompts=number)
        features = features.unflatten(0, (count, batch))
        entropy = softmax_entropy(logits).unflatten(0, (count, batch)).sum(dim=-1)
        return Evaluation(entropy, self._distance(features), features[..., -dim:])

    def _distance(self, features: Tensor) -> Tensor:
        """Discrepancy of features `(..., batch, depth * dim)` from the source's; 0 where nothing is known of it."""
        return features.new_zeros(features.shape[:-2]) if self.source is None else discrepancy(features, self.source)

    def _read_out(self, features: Tensor, logits: Tensor | None = None) -> Tensor:
        """Logits of features `(batch, ..., dim)`, moved towards the source if a batch has been seen before.

        Args:
            features: their last `dim` are what the classifier reads.
            logits: what it makes of them unmoved, if that is known.
        """
        features = features[:, -len(self.history) :]
        if self.source is not None and self.has_history and self.settings.activation_shift > 0:
            shift = self.source.mean[-len(self.history) :] - self.history
            features = features + self.settings.activation_shift * shift
        elif logits is not None:
            return logits
        moved: Tensor = self.transformer.head(features)
        return moved

    def _remember(self, mean: Tensor) -> None:
        """Takes a batch's mean feature `(dim,)` into the history, which the first batch starts."""
        momentum = self.settings.history_momentum
        self.history = (1 - momentum) * self.history + momentum * mean if self.has_history else mean
        self.has_history = True

    def _prompts_of(self, vectors: list[Array]) -> Tensor:
        """Candidates as prompts `(candidates, num_prompts, dim)` on the CPU, in the network's precision."""
        return torch.from_numpy(np.stack(vectors)).to(self.prompts.dtype).view(len(vectors), *self.prompts.shape)

    def _on_device(self, vectors: list[Array], device: torch.device) -> Tensor:
        """Likewise, on the device."""
        return upload(self._prompts_of(vectors), device)
