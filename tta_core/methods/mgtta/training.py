"""Trains the learned optimizer of MGTTA on held-out corruptions, before the stream (mixed §2.8)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tta_core.errors import InputError
from tta_core.methods.common.feature_statistics import FeatureStatistics, class_token_features, discrepancy
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.context import PREPARATION_SEED, LabelledBatch
from tta_core.methods.mgtta.learned_optimizer import LearnedOptimizer, MetaParameters, initial_meta
from tta_core.methods.mgtta.spec import MGTTASettings


class Objective(NamedTuple):
    """A forward: `logits` `(batch, classes)`, and the `loss` `()` in nat with its terms."""

    logits: Tensor
    loss: Tensor
    entropy: Tensor
    discrepancy: Tensor


def objective(
    network: VisionTransformer, images: Tensor, source: FeatureStatistics, settings: MGTTASettings
) -> Objective:
    """Mean entropy plus the weighted distance of the batch's feature statistics from the source's."""
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    features, logits = class_token_features(network, tokens)
    entropy, distance = softmax_entropy(logits).mean(), discrepancy(features, source)
    return Objective(logits, entropy + settings.lambda_discrepancy / settings.divisor * distance, entropy, distance)


class NormOptimizer:
    """The learned optimizer around the normalisation layers of a network.

    Attributes:
        parameters: what is optimized.
        learned: what turns their gradients into updates.
        used: numbers of the parameters that the last loss depended on.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], meta: MetaParameters, settings: MGTTASettings) -> None:
        self.parameters = list(parameters)
        self.used = list(range(len(self.parameters)))
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.learned = LearnedOptimizer(meta, sum(self.sizes), settings.betas, 1 if settings.correction == "t+1" else 0)

    def gradient(self, loss: Tensor) -> Tensor:
        """Gradient of a loss with respect to the parameters laid end to end, `(scalars,)`; 0 where it has none."""
        parts = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self.used = [number for number, part in enumerate(parts) if part is not None]
        flat = [
            p.new_zeros(p.numel()) if part is None else part.flatten()
            for p, part in zip(self.parameters, parts, strict=True)
        ]
        return torch.cat(flat)

    def move(self, gradient: Tensor, lr: float) -> Tensor:
        """Moves the parameters by what the learned optimizer makes of a gradient, and returns that, `(scalars,)`.

        A parameter that the loss did not depend on stays where it is.
        """
        update = self.learned.update(gradient)
        moves = update.detach().split(self.sizes)
        with torch.no_grad():
            torch._foreach_add_(
                [self.parameters[number] for number in self.used],
                [moves[number].view_as(self.parameters[number]) for number in self.used],
                alpha=-lr,
            )
        return update


class Rehearsal:
    """A copy of the source network that is adapted again and again from the start.

    Attributes:
        network: the copy.
        parameters: its normalisation layers' parameters.
    """

    def __init__(self, network: VisionTransformer, source: FeatureStatistics, settings: MGTTASettings) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        thaw_norms(self.network, "mgtta")
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.before = [parameter.detach().clone() for parameter in self.parameters]
        self.source, self.settings = source, settings

    def start(self, meta: MetaParameters) -> NormOptimizer:
        """Goes back to the source, and puts an optimizer around the network."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.before)
        return NormOptimizer(self.parameters, meta, self.settings)

    def objective(self, images: Tensor) -> Objective:
        """One forward."""
        return objective(self.network, images, self.source, self.settings)


def train(
    network: VisionTransformer, source: FeatureStatistics, held_out: Iterable[LabelledBatch], settings: MGTTASettings
) -> MetaParameters:
    """Trains a learned optimizer and returns it as it was after its best epoch.

    Each epoch adapts the source network to the training images. The gradient of the next batch's loss with respect to
    the updated layers goes back into the optimizer that updated them, through this one update.

    Args:
        network: the source network; it is left as it is.
        source: statistics of its features.
        held_out: images of the held-out corruptions and their labels; the labels only serve to choose the epoch.
        settings: the method's settings.

    Raises:
        InputError: if there are not images enough for two steps.
    """
    selecting = settings.epoch_choice == "accuracy"
    wanted = settings.training_images + (settings.selection_images if selecting else 0)
    images, labels = _first(held_out, wanted)
    training = images[: settings.training_images]
    if len(training) <= settings.training_batch:
        raise InputError(
            f"mgtta trains its optimizer in batches of training_batch = {settings.training_batch}, of which it needs "
            f"two, and was given {len(training)} held-out images: give more, or set training_batch lower"
        )
    judged = slice(len(training), None) if len(images) > len(training) else slice(None)
    rehearsal = Rehearsal(network, source, settings)
    generator = torch.Generator().manual_seed(PREPARATION_SEED)
    meta = MetaParameters(*(parameter.requires_grad_() for parameter in initial_meta(generator, rehearsal.before[0])))
    adam = torch.optim.Adam(list(meta), lr=settings.meta_lr, fused=True)
    kept, correct = [], []
    with torch.enable_grad():
        for _ in range(settings.training_epochs):
            order = torch.randperm(len(training), generator=generator).to(training.device)
            _train_epoch(rehearsal, meta, adam, training[order].split(settings.training_batch))
            kept.append(meta.copied())
            if selecting:
                correct.append(_adapted_correctly(rehearsal, kept[-1], images[judged], labels[judged]))
    return kept[int(torch.stack(correct).argmax())] if selecting else kept[-1]


def _train_epoch(rehearsal: Rehearsal, meta: MetaParameters, adam: torch.optim.Adam, batches: Sequence[Tensor]) -> None:
    """Adapts to the batches one after the other; from the second on, each teaches the update before it."""
    optimizer, lr = rehearsal.start(meta), rehearsal.settings.inner_lr
    update: Tensor | None = None
    for images in batches:
        gradient = optimizer.gradient(rehearsal.objective(images).loss)
        if update is not None:
            update.backward(-lr * gradient)
            adam.step()
            adam.zero_grad()
        update = optimizer.move(gradient, lr)


def _adapted_correctly(rehearsal: Rehearsal, meta: MetaParameters, images: Tensor, labels: Tensor) -> Tensor:
    """How many images are predicted correctly while the source network adapts to them, `()`."""
    optimizer, settings = rehearsal.start(meta), rehearsal.settings
    correct = torch.zeros((), device=images.device, dtype=torch.int64)
    size = settings.selection_batch
    for batch, truth in zip(images.split(size), labels.split(size), strict=True):
        found = rehearsal.objective(batch)
        optimizer.move(optimizer.gradient(found.loss), settings.selection_lr)
        correct += (found.logits.argmax(dim=-1) == truth).sum()
    return correct


def _first(batches: Iterable[LabelledBatch], wanted: int) -> LabelledBatch:
    """The first images, at most so many, and their labels."""
    images, labels, count = [], [], 0
    for part, truth in batches:
        images.append(part[: wanted - count])
        labels.append(truth[: wanted - count])
        count += len(images[-1])
        if count == wanted:
            break
    if not images:
        raise InputError("mgtta was given held-out corruptions without a single batch: give at least one")
    return torch.cat(images), torch.cat(labels)
