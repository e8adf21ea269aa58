"""How methods of segmentation predict: views of several sizes, windows, and maps that are added up, not kept.

All follow the released step of CoTTA for Cityscapes to ACDC: windows are put together, enlarged to the size of the
label maps, and only then does each pixel get its probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.methods.base import Method
from tta_core.methods.common.losses import widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.pixel_settings import RATIOS, PixelOptimizerSettings, ViewSettings
from tta_core.methods.common.surgery import norm_layers, use_batch_statistics

PIXELS_AT_ONCE = 2**17
"""Pixels of windows in one forward where the images have fewer: small ones are faster together."""

Viewing = TypeVar("Viewing", bound=ViewSettings)
Adapting = TypeVar("Adapting", bound=PixelOptimizerSettings)

Network = Callable[[Tensor], Tensor]
"""Images `(batch, 3, height, width)` -> logits `(batch, classes, height / n, width / n)`."""


class View(NamedTuple):
    """What a network says to one view.

    Attributes:
        ratio: its size, as a part of the size at ratio 1.
        flipped: whether left and right were exchanged; they are in their places again.
        logits: `(batch, classes, height, width)` at the size of the label maps.
    """

    ratio: float
    flipped: bool
    logits: Tensor


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `(batch, channels, ...)` at a size, bilinearly, corners not aligned; the same tensor if they have it."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def log(probabilities: Tensor) -> Tensor:
    """Logarithms, finite also where all views agree that a class is impossible; in place."""
    return probabilities.clamp_(min=torch.finfo(probabilities.dtype).tiny).log_()


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis: the last is moved inside, so that it overlaps more."""
    if length <= window:
        return [0]
    return [min(number * stride, length - window) for number in range(-(-(length - window) // stride) + 1)]


def windowed(network: Network, views: Tensor, settings: ViewSettings, at_once: int) -> Tensor:
    """Logits of views `(batch, 3, height, width)` at their size, averaged where windows overlap.

    Args:
        network: the network.
        views: normalised images.
        settings: has window and stride.
        at_once: pixels in one forward, but at least one window.
    """
    size = (views.shape[-2], views.shape[-1])
    window = tuple(min(own, most) for own, most in zip(size, settings.window, strict=True))
    rows, columns = (window_starts(*given) for given in zip(size, window, settings.stride, strict=True))
    together = max(1, at_once // (window[0] * window[1]))
    places = [(image, row, column) for row in rows for column in columns for image in range(len(views))]
    single = len(rows) == len(columns) == 1
    total: Tensor | None = None
    for start in range(0, len(places), together):
        part = places[start : start + together]
        cut = torch.stack([views[i, :, row : row + window[0], column : column + window[1]] for i, row, column in part])
        found = resized(widened(network(cut)), (window[0], window[1]))
        if single and len(part) == len(places):
            return found
        if total is None:
            total = found.new_zeros(len(views), found.shape[1], *size)
        for (image, row, column), logits in zip(part, found, strict=True):
            total[image, :, row : row + window[0], column : column + window[1]] += logits
    assert total is not None
    if not single:
        count = total.new_zeros(size)
        for row in rows:
            for column in columns:
                count[row : row + window[0], column : column + window[1]] += 1
        total /= count
    return total


class PixelMethod(Method[Viewing]):
    """What methods of segmentation share.

    Images come at their own size. At ratio 1 the network gets them at `Context.base_scale` of that, and maps of classes
    have `Context.output_size`.
    """

    def sized(self, images: Tensor, ratio: float = 1.0) -> Tensor:
        """The images at a ratio."""
        height, width = (int(side * self.context.base_scale) for side in images.shape[-2:])
        return resized(images, (int(height * ratio), int(width * ratio)))

    def output_size(self, images: Tensor) -> tuple[int, int]:
        """Height and width of the maps of classes."""
        return self.context.output_size or (images.shape[-2], images.shape[-1])

    def views_of(self, network: Network, images: Tensor, views: int) -> Iterator[View]:
        """What a network says to views of images, one after the other: the caller adds them up.

        Args:
            network: the network.
            images: normalised images at their own size.
            views: how many, a key of `RATIOS`.
        """
        size, count = self.output_size(images), len(images)
        base = self.sized(images)
        at_once = max(PIXELS_AT_ONCE, base.shape[-2] * base.shape[-1])
        for ratio in RATIOS[views]:
            view = self.sized(images, ratio)
            both = torch.cat([view, view.flip(-1)]) if views > 1 else view
            if both.shape[-2] * both.shape[-1] * len(both) <= at_once:
                logits = resized(windowed(network, both, self.settings, at_once), size)
                yield View(ratio, False, logits[:count])
                if views > 1:
                    yield View(ratio, True, logits[count:].flip(-1))
                continue
            # Maps of both sides of large images would be in memory at once.
            yield View(ratio, False, resized(windowed(network, view, self.settings, at_once), size))
            if views > 1:
                turned = windowed(network, view.flip(-1), self.settings, at_once)
                yield View(ratio, True, resized(turned, size).flip(-1))

    @torch.no_grad()
    def summed(
        self, network: Network, images: Tensor, views: int, look: Callable[[View], None] = lambda view: None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of the view as it is, and their mean over all views: `(batch, classes, height, width)` each.

        Args:
            network: the network.
            images: normalised images at their own size.
            views: how many, a key of `RATIOS`.
            look: called with each view.
        """
        total: Tensor | None = None
        single: Tensor | None = None
        for view in self.views_of(network, images, views):
            look(view)
            probabilities = view.logits.softmax(dim=1)
            if (view.ratio, view.flipped) == (1.0, False):
                single = probabilities.clone()
            total = probabilities if total is None else total.add_(probabilities)
            del view
        assert total is not None
        assert single is not None, "every set of views has the one"
        return single, total.div_(views)

    @torch.no_grad()
    def source_confidence(self, network: nn.Module, images: Tensor) -> Tensor:
        """Largest probability of the source at each pixel of one view, `(batch, height, width)`.

        The source is no network of its own: the given one runs with the source's values of the trained parameters.
        """

        def source(views: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(network, dict(self.source_parameters), (views,))
            return found

        return next(self.views_of(source, images, 1)).logits.softmax(dim=1).amax(dim=1)

    @torch.no_grad()
    def view_mean(self, network: Network, images: Tensor, views: int) -> Tensor:
        """Logarithms of the mean probabilities of views `(batch, classes, height, width)`; logits of a single one."""
        if views == 1:
            return next(self.views_of(network, images, 1)).logits
        return log(self.summed(network, images, views)[1])

    def whole(self, network: Network, images: Tensor) -> Tensor:
        """What a network that learns says to whole images, without windows, at its own resolution."""
        return widened(network(self.sized(images)))

    def enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits of `whole` at the size of the label maps, in one step: what losses are of."""
        return resized(logits, self.output_size(images))

    def as_predicted(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits of `whole` enlarged as a prediction is, in two steps; computed anew where that takes windows."""
        base = self.sized(images)
        if all(own <= most for own, most in zip(base.shape[-2:], self.settings.window, strict=True)):
            return resized(resized(logits.detach(), (base.shape[-2], base.shape[-1])), self.output_size(images))
        with torch.no_grad():
            return next(self.views_of(self.network, images, 1)).logits

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The mean over the views of the network."""
        return self.view_mean(self.network, images, self.settings.views)


class AdaptingPixels(PixelMethod[Adapting]):
    """A method of segmentation that trains."""

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """SGD or Adam, no weight decay."""
        return make_optimizer(self.settings, parameters)

    def at_border(self) -> None:
        """Forgets the moments of the optimizer, if the settings let the stream tell its borders."""
        if self.settings.optimizer_at_border == "new" and self.optimizer is not None:
            self.optimizer.state.clear()


def thaw_pixel_norms(network: nn.Module, *, batch_statistics: bool) -> None:
    """Thaws the affine pairs of all norms; BatchNorm keeps its running statistics unless told otherwise."""
    if batch_statistics:
        use_batch_statistics(network)
    for _, norm in norm_layers(network):
        norm.requires_grad_(True)


def pixel_entropy(logits: Tensor) -> Tensor:
    """Entropy in nat of each pixel: `(batch, classes, height, width)` -> `(batch, height, width)`."""
    log_probabilities = logits.log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def chosen_pixels(entropy: Tensor, margin: float, select: str) -> Tensor:
    """Which pixels are learned from, bool `(batch, height, width)`: single ones, or all of the images that are sure."""
    if select == "pixel":
        return entropy < margin
    return (entropy.mean(dim=(1, 2), keepdim=True) < margin).expand_as(entropy)


def pixel_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of values `(batch, height, width)` over the chosen pixels; 0 with zero gradient if there are none."""
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)
