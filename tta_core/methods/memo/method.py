"""MEMO (Zhang, Levine and Finn, NeurIPS 2022): trains all parameters, or the affine pairs of the norms, on one image.

For each image: views of it, a step down the entropy of their mean prediction, the prediction of the image itself with
the weights after the step, then back to the source.
Deviates (further §6): with `train_scope: norms` many images are adapted to in one forward, each with weights of its
own; views are cut from what the network would see, not from the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tta_core.device import scalar
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.common.losses import softmax_entropy, widened
from tta_core.methods.common.optim import put_back
from tta_core.methods.common.surgery import norm_layers
from tta_core.methods.common.views import scale_channels
from tta_core.methods.memo.augmix import Draws, draw_views, make_views
from tta_core.methods.memo.layers import PerImageBatchNorm, PerImageNorm, replace_norms
from tta_core.methods.memo.spec import MEMOSettings

VIEWS_AT_ONCE = {"cpu": 64, "cuda": 256}
"""Views in one forward, where several images are adapted to at once."""


class MEMO(Method[MEMOSettings]):
    """Adapts to each image on its own and keeps nothing: the network is always that of the source."""

    def prepare(self) -> None:
        """Replaces the normalisation layers; marks what is trained."""
        norms_only = self.settings.train_scope == "norms"
        every = replace_norms(self.network, "memo", self.settings.prior_strength)
        modules = list(self.network.modules())
        self._batch_norms = [module for module in modules if isinstance(module, PerImageBatchNorm)]
        norms = [module for module in modules if isinstance(module, PerImageNorm)]
        for module in [*norms, *(norm for _, norm in norm_layers(self.network))] if norms_only else [self.network]:
            module.requires_grad_(True)
        if not self.trainable_parameters():
            raise InputError(
                f"memo trains {self.settings.train_scope} of the parameters, and {type(self.network).__name__} has "
                "none: choose a backbone with LayerNorm, GroupNorm or BatchNorm, or train_scope: all"
            )
        # An optimizer that remembers goes from image to image.
        self._at_once = norms_only and every and self.settings.optimizer_state == "fresh"

    @property
    def watched(self) -> None:
        """None: the first forward is of views, and each image is predicted with weights of its own."""
        return

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """That of all images, of copies that go back to the source; None if each image has one of its own."""
        if self.settings.optimizer_state == "fresh":
            return None
        names = self.trainable_parameters()
        self._kept = {name: parameter.detach().clone().requires_grad_(True) for name, parameter in names.items()}
        return self._fresh_optimizer(list(self._kept.values()))

    def step(self, images: Tensor) -> Tensor:
        """Adapts to each image and predicts it; the weights are those of the source again afterwards."""
        settings = self.settings
        size = (images.shape[-2], images.shape[-1])
        # For all images before any work, image by image: how they are divided into batches and chunks does not matter.
        draws = draw_views(
            len(images),
            settings.steps * settings.views,
            size,
            self.generator,
            severity=settings.severity,
            crop=settings.crop,
            flip=settings.flip,
        )
        largest = VIEWS_AT_ONCE.get(images.device.type, VIEWS_AT_ONCE["cpu"])
        chunk = max(1, largest // settings.views) if self._at_once else 1
        logits, losses, entropies, agreements = [], [], [], []
        # A cached copy of a weight in low precision would outlive the step that changes the weight.
        kind = images.device.type
        with torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False):
            for start in range(0, len(images), chunk):
                part = slice(start, start + chunk)
                predicted, before = self._adapted(images[part], draws[part])
                logits.append(predicted)
                losses.append(marginal_entropy(before))
                entropies.append(softmax_entropy(before).mean(dim=1))
                agreements.append(_agreement(before))
        self.record = {
            "selected": scalar(len(images), images.device),
            "loss": torch.cat(losses).mean(),
            "view_entropy": torch.cat(entropies).mean(),
            "agreement": torch.cat(agreements).mean(),
        }
        return torch.cat(logits)

    def _adapted(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Logits `(images, classes)` after adapting to each, and those `(images, views, classes)` of views before."""
        views = self.settings.views
        source = self.trainable_parameters()
        if self.optimizer is None:
            copies = {
                name: (parameter.expand(len(images), *parameter.shape) if self._at_once else parameter)
                .detach()
                .clone()
                .requires_grad_(True)
                for name, parameter in source.items()
            }
            optimizer = self._fresh_optimizer(list(copies.values()))
        else:
            copies, optimizer = self._kept, self.optimizer
            put_back(list(copies.values()), list(source.values()))
        first: Tensor | None = None
        for number in range(self.settings.steps):
            made = self._views(images, draws, number)
            with self._copies(views):
                logits = functional_call(self.network, copies, (made.flatten(0, 1),)).unflatten(0, (-1, views))
            # No image has a part in the gradient of another's weights, so their losses are summed.
            optimizer.zero_grad()
            self.backward(marginal_entropy(logits).sum())
            optimizer.step()
            first = logits.detach() if first is None else first
        assert first is not None
        with torch.no_grad():
            return functional_call(self.network, copies, (images,)), first

    def _views(self, images: Tensor, draws: Draws, number: int) -> Tensor:
        """Normalised views `(images, views, channels, height, width)` for one step."""
        mean, std = self.context.mean, self.context.std
        own = slice(number * self.settings.views, (number + 1) * self.settings.views)
        with torch.no_grad():
            pixels = scale_channels(images, std, mean)
            made = make_views(pixels, draws.of_views(own), self.settings.fill).to(images.dtype)
            back = [-centre / width for centre, width in zip(mean, std, strict=True)]
            return scale_channels(made.flatten(0, 1), [1 / width for width in std], back).view_as(made)

    def _fresh_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=settings.lr)
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)

    @contextmanager
    def _copies(self, number: int) -> Iterator[None]:
        """Tells the BatchNorm layers that so many samples in a row are views of one image."""
        for norm in self._batch_norms:
            norm.copies = number
        try:
            yield
        finally:
            for norm in self._batch_norms:
                norm.copies = 1


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy in nat of the mean prediction over views: `(images, views, classes)` -> `(images,)` (equation 3)."""
    together = widened(logits).log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])
    return -(together.exp() * together).sum(dim=-1)


def _agreement(logits: Tensor) -> Tensor:
    """Share of views `(images, views, classes)` with the class of their mean prediction, `(images,)`."""
    probabilities = widened(logits).softmax(dim=-1)
    marginal = probabilities.mean(dim=1, keepdim=True).argmax(dim=-1)
    return (probabilities.argmax(dim=-1) == marginal).to(probabilities.dtype).mean(dim=1)
