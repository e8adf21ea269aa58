"""How methods of segmentation predict: views of several sizes, windows, and maps that are added up, not kept.

All follow the released step of CoTTA for Cityscapes to ACDC: windows are put together, enlarged to the size of the
label maps, and only then does each pixel get its probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
NUMBERS_AT_ONCE = 2**22
"""Numbers of maps that are enlarged at once: those of all classes would be the most that is in memory."""

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


def at_ratio(images: Tensor, base_scale: float, ratio: float = 1.0) -> Tensor:
    """Images `(batch, 3, height, width)` as networks get them: at a part of their size, and at a ratio to that."""
    height, width = (int(side * base_scale) for side in images.shape[-2:])
    return resized(images, (int(height * ratio), int(width * ratio)))


def log(probabilities: Tensor) -> Tensor:
    """Logarithms, finite also where all views agree that a class is impossible; in place."""
    return probabilities.clamp_(min=torch.finfo(probabilities.dtype).tiny).log_()


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis: the last is moved inside, so that it overlaps more."""
    if length <= window:
        return [0]
    return [min(number * stride, length - window) for number in range(-(-(length - window) // stride) + 1)]


def softmax_(logits: Tensor) -> Tensor:
    """Probabilities of logits `(batch, classes, ...)`, in place: at full size a map is large."""
    logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    return logits.div_(logits.sum(dim=1, keepdim=True))


def windowed(
    network: Network,
    views: Tensor,
    settings: ViewSettings,
    at_once: int,
    turns: Sequence[bool] = (False,),
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Logits of views, averaged at the size of the views where windows overlap, and then enlarged.

    Args:
        network: the network.
        views: normalised images `(batch, 3, height, width)`.
        settings: has window and stride.
        at_once: pixels in one forward, but at least one window.
        turns: whether left and right are exchanged for the network, once or for each way; they are in their places
            again in what is returned.
        size: of what is returned; that of the views unless given.

    Returns:
        `(turns x batch, classes, *size)`.
    """
    batch, (height, width) = len(views), views.shape[-2:]
    window = min(height, settings.window[0]), min(width, settings.window[1])
    rows, columns = (window_starts(*given) for given in zip((height, width), window, settings.stride, strict=True))
    # A window of the turned view is that from the other side of the view as it is.
    places = [
        (turn * batch + image, row, width - window[1] - column if turned else column)
        for row in rows
        for column in columns
        for turn, turned in enumerate(turns)
        for image in range(batch)
    ]
    together = max(1, at_once // (window[0] * window[1]))
    found: list[Tensor] = []
    for start in range(0, len(places), together):
        part = places[start : start + together]
        cuts = [
            turned_if(turns[n // batch], views[n % batch, :, row : row + window[0], column : column + window[1]])
            for n, row, column in part
        ]
        seen = widened(network(torch.stack(cuts)))
        # They are turned back and kept while they are small.
        found += [turned_if(turns[n // batch], logits) for (n, *_), logits in zip(part, seen, strict=True)]
    whole = found[0].new_empty(len(turns) * batch, len(found[0]), *(size or (height, width)))
    count = found[0].new_zeros(len(whole), 1, height, width)
    for n, row, column in places:
        count[n, :, row : row + window[0], column : column + window[1]] += 1
    some = max(1, NUMBERS_AT_ONCE // max(count.numel(), whole[:, 0].numel()))
    for first in range(0, whole.shape[1], some):
        last = min(first + some, whole.shape[1])
        total = found[0].new_zeros(len(whole), last - first, height, width)
        for (n, row, column), logits in zip(places, found, strict=True):
            enlarged = resized(logits[None, first:last], window)[0]
            total[n, :, row : row + window[0], column : column + window[1]] += enlarged
        whole[:, first:last] = resized(total.div_(count), (whole.shape[-2], whole.shape[-1]))
    return whole


def turned_if(turned: bool, maps: Tensor) -> Tensor:
    """Maps `(..., width)`, with left and right exchanged if they are to be."""
    return maps.flip(-1) if turned else maps


class PixelMethod(Method[Viewing]):
    """What methods of segmentation share.

    Images come at their own size. At ratio 1 the network gets them at `Context.base_scale` of that, and maps of classes
    have `Context.output_size`.
    """

    def sized(self, images: Tensor, ratio: float = 1.0) -> Tensor:
        """The images at a ratio."""
        return at_ratio(images, self.context.base_scale, ratio)

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
        at_once = min(PIXELS_AT_ONCE, 2 * count * base.shape[-2] * base.shape[-1])
        both = (False, True) if views > 1 else (False,)
        for ratio in RATIOS[views]:
            view = self.sized(images, ratio)
            fits = len(both) * count * view.shape[-2] * view.shape[-1] <= at_once
            for turns in [both] if fits else [(turn,) for turn in both]:
                logits = windowed(network, view, self.settings, at_once, turns, size)
                for number, turned in enumerate(turns):
                    yield View(ratio, turned, logits[number * count : (number + 1) * count])
                del logits  # Else these maps were in memory beside the next ones.

    @torch.no_grad()
    def mean_over_views(
        self, network: Network, images: Tensor, views: int, look: Callable[[View], None] = lambda view: None
    ) -> Tensor:
        """Mean probabilities of views `(batch, classes, height, width)`, added up: no two views are in memory.

        Args:
            network: the network.
            images: normalised images at their own size.
            views: how many, a key of `RATIOS`.
            look: called with each view; its logits are gone afterwards.
        """
        total: Tensor | None = None
        for view in self.views_of(network, images, views):
            look(view)
            probabilities = softmax_(view.logits)
            total = (torch.zeros_like(probabilities) if total is None else total).add_(probabilities)
            del view, probabilities
        assert total is not None
        return total.div_(views)

    def single_and_mean(
        self, network: Network, images: Tensor, views: int, look: Callable[[View], None] = lambda view: None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of the view as it is, and `mean_over_views`: `(batch, classes, height, width)` each."""
        single: list[Tensor] = []

        def kept(view: View) -> None:
            look(view)
            if (view.ratio, view.flipped) == (1.0, False):
                single.append(view.logits.softmax(dim=1))

        mean = self.mean_over_views(network, images, views, kept)
        return single[0], mean

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
        return log(self.mean_over_views(network, images, views))

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
