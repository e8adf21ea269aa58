"""Pictures of segmentation: of a few images of each domain what is there, what was predicted, and what changed."""

from __future__ import annotations

import colorsys
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tta_core.data.files.label_maps import IGNORED
from tta_core.data.opened import DomainImages
from tta_core.diagnostics.observer import Moment, Observer, Picture, Scene
from tta_core.methods.base import Method
from tta_core.methods.common.pixels import PixelMethod, resized
from tta_core.methods.registry import build_method

EACH = 3
"""Images of each domain: evenly spaced over its last visit, so that all cells of an order show the same ones."""
WIDEST = 256
"""Pixels of a tile across; larger images are shown smaller."""
GAP = 2
"""Pixels between two tiles."""
BETTER, WORSE, WRONG, RIGHT, HIDDEN = (0, 128, 96), (213, 94, 0), (150, 150, 150), (236, 236, 236), (255, 255, 255)
"""Of the last tile, told apart without red and green: only adapted right, only the source right, neither, both."""


class Pictures(Observer):
    """Keeps the predicted classes of a few samples; the images and the source's predictions are made at the end."""

    remembers = ("_places", "_maps")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._wanted = _wanted(scene)
        self._places: list[int] = []
        self._maps: list[Tensor] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Methods that segment."""
        return isinstance(method, PixelMethod)

    @torch.no_grad()
    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Keeps the classes of the samples that are shown."""
        places = moment.positions
        positions = np.arange(places.start, places.stop) if isinstance(places, slice) else places.numpy()
        for row in np.flatnonzero(np.isin(positions, self._wanted)).tolist():
            self._places.append(int(positions[row]))
            self._maps.append(self._classes(logits[row : row + 1]))

    def measurements(self) -> list[Any]:
        """Nothing that is a number."""
        return []

    def pictures(self) -> list[Picture]:
        """One for each sample that was kept, in stream order."""
        scene, found = self.scene, []
        context = scene.method.context
        source = build_method(
            "source",
            scene.open_source(),
            num_classes=scene.method.num_classes,
            task="segmentation",
            output_size=context.output_size,
            base_scale=context.base_scale,
        )
        opened: dict[str, DomainImages] = {}
        for position, adapted in zip(self._places, self._maps, strict=True):
            domain, index = scene.order.domains[scene.order.domain[position]], int(scene.order.index[position])
            if domain not in opened:
                opened = {domain: scene.open_domain(domain)}
            images, here = opened[domain], np.array([index])
            image, label = np.asarray(images.images[here]), np.asarray(images.labels[here])[0]
            own = self._classes(source.predict(scene.normalise(image)))
            tiles = _tiles(image[0], label, own.cpu().numpy(), adapted.cpu().numpy(), scene.method.num_classes)
            found.append(Picture(domain, index, _png(tiles)))
        return found

    def _classes(self, logits: Tensor) -> Tensor:
        """The classes of one image `(height, width)`, uint8, at the size of its labels."""
        size = self.scene.method.context.output_size
        maps = logits if size is None else resized(logits, size)
        return maps.argmax(dim=1)[0].to(torch.uint8)


def _wanted(scene: Scene) -> NDArray[np.int64]:
    """The positions that are shown."""
    order, found = scene.order, []
    for number in range(len(order.domains)):
        here = np.flatnonzero(order.domain == number)
        # The last visit: what comes after the last border before the last sample of the domain.
        last = max((segment.start for segment in scene.segments if len(here) and segment.start <= here[-1]), default=0)
        visit = here[here >= last]
        found.append(visit[np.unique(np.linspace(0, max(len(visit) - 1, 0), EACH).round().astype(int))[: len(visit)]])
    return np.concatenate(found).astype(np.int64)


def colours(classes: int) -> NDArray[np.uint8]:
    """A colour for each number in a map `(256, 3)`: hues far apart for neighbours, white where there is no label."""
    table = np.full((256, 3), 255, np.uint8)
    for number in range(classes):
        hue, light = (0.618 * number) % 1, (0.42, 0.6)[number % 2]
        table[number] = [round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.6)]
    return table


def _tiles(
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    source: NDArray[np.uint8],
    adapted: NDArray[np.uint8],
    classes: int,
) -> list[NDArray[np.uint8]]:
    """Input, label, source, adapted and difference, `(height, width, 3)` each."""
    every = -(-label.shape[1] // WIDEST)
    small = [each[::every, ::every] for each in (label, source, adapted)]
    height, width = small[0].shape
    photograph = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    table = colours(classes)
    was, now = small[1] == small[0], small[2] == small[0]
    difference = np.full((height, width, 3), RIGHT, np.uint8)
    for where, colour in ((now & ~was, BETTER), (was & ~now, WORSE), (~was & ~now, WRONG)):
        difference[where] = colour
    difference[small[0] == IGNORED] = HIDDEN
    return [photograph, *(table[each] for each in small), difference]


def _png(tiles: list[NDArray[np.uint8]]) -> bytes:
    """Tiles beside each other."""
    gap = np.full((tiles[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)][:-1]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(parts, axis=1)).save(file, "PNG", optimize=True)
    return file.getvalue()
