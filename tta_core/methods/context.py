"""What a method may know beyond its network, its settings and the images of the stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES, HELD_OUT_LABELS, LABELLED_SOURCE_IMAGES, NEEDS, SOURCE_IMAGES

Artefact = Mapping[str, Tensor]
"""What a method made before the stream, by name (see `Method.make_artefact`)."""

LabelledBatch = tuple[Tensor, Tensor]
"""Normalised images `(batch, channels, height, width)` and their labels, int64 `(batch,)`; or maps of classes, uint8
`(batch, height, width)`, 255 where there is none."""

PREPARATION_SEED = 0
"""Seed of what is made before the stream: all seeds of a cell share it."""


@dataclass(frozen=True)
class Context:
    """What a method may know beyond its network, its settings and the images of the stream.

    Attributes:
        num_classes: number of logits; margins are multiples of ln(num_classes).
        seed: seed of the method's own random numbers.
        batch_size: images in a full batch of the stream; None if that is not known.
        mean, std: per-channel normalisation that the images went through, for methods that work on pixels in [0, 1].
        source_images: batches of clean, unlabelled source images `(batch, channels, height, width)`, normalised and on
            the network's device, always in the same order; None unless the method's spec asks for them.
        labelled_source: likewise, batches of training images of the source with their labels.
        held_out: likewise, batches under the held-out corruptions, all corruptions in each, with their labels.
        artefact: what the method would make of these before the stream, if it is there already.
        output_size: height and width of the maps of classes that are scored, of segmentation; None for the images'.
        base_scale: side of the images that the network gets at ratio 1, as a part of that of the given ones.
    """

    num_classes: int
    seed: int = 0
    batch_size: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    source_images: Iterable[Tensor] | None = None
    labelled_source: Iterable[LabelledBatch] | None = None
    held_out: Iterable[LabelledBatch] | None = None
    artefact: Artefact | None = None
    output_size: tuple[int, int] | None = None
    base_scale: float = 1.0

    def require(self, name: str, needs: Iterable[str]) -> None:
        """Raises `InputError` if something that a method needs was not handed over."""
        argument = {
            SOURCE_IMAGES: "source_images",
            LABELLED_SOURCE_IMAGES: "labelled_source",
            HELD_OUT_IMAGES: "held_out",
            HELD_OUT_LABELS: "held_out",
        }
        for need in needs:
            if getattr(self, argument[need]) is None:
                raise InputError(
                    f"{name} with these settings needs {need} ({NEEDS[need]}): give {argument[need]}, or the artefact "
                    "that is made of them"
                )
