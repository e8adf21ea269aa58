"""What describes a backbone: a network, its weights, what they want of images. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from tta_core.data.spec import Interpolation, OwnCrop, Task
from tta_core.frozen import Frozen

NetworkKind = Literal["any", "transformer", "batch-norm", "segformer"]

NETWORK_KINDS: Mapping[NetworkKind, str] = MappingProxyType(
    {
        "any": "any network with the layers that it adapts",
        "transformer": "vision transformers (timm's VisionTransformer)",
        "batch-norm": "networks with BatchNorm",
        "segformer": "SegFormer",
    }
)
"""Which networks a method can take -> in words."""

Pretraining = Literal["supervised", "mae", "clip", "text-prototype"]


class TextHeadSpec(Frozen):
    """The text side of a zero-shot classifier: one vector for each class, made once by open_clip's text tower.

    Attributes:
        model: open_clip's name of the model.
        weights: open_clip's tag of its weights.
        hub: the repository on the Hugging Face hub that has them.
        texts: SHA-256 of class names and templates, see `tta_core.backbones.zero_shot_head.texts_digest`.
        version: raised whenever other vectors are made from the same.
    """

    model: str
    weights: str
    hub: str
    texts: str
    version: int = 1

    def tag(self) -> str:
        """Names the vectors: equal tags, equal vectors."""
        return f"{self.model}.{self.weights}.texts-{self.texts[:12]}.v{self.version}"


class BackboneSpec(Frozen):
    """A network, its weights and the normalisation that they want.

    Attributes:
        name: full name; for timm models `architecture.tag`, never a bare architecture.
        task: what it predicts.
        pretraining: how the weights were made.
        source: where the network comes from. `embedded:<network>`: shipped with this package.
            `timm:<architecture.tag>`: weights from a file of the user, else from the hub. `file:<architecture>`: a timm
            architecture, or a size of SegFormer, with weights from a file of the user only.
        weights: name of the weights file; of a file of the user without its suffix, see `tta_core.backbones.weights`.
        sha256: checksum of the weights file; None where the tag is all that pins the weights.
        options: keyword arguments of `timm.create_model` that the weights need.
        text: what makes the logits of a zero-shot classifier; None of a network that has a classifier.
        num_classes: number of logits.
        image_size: height and width of the input in pixels; of a network that takes any, those it was trained on.
        mean, std: per-channel normalisation of inputs in [0, 1].
        crop_pct, interpolation: how the authors of the weights bring a photograph to `image_size`: its short side is
            resized to image_size / crop_pct, and the middle cut out. None where images are not cut.
        clean_accuracy: top-1 on clean test images, or mean IoU of segmentation, in [0, 1], at `image_size` and under
            that very transform (`crop: backbone`); None where no source that we trust states it.
        accuracy_source: who states it.
        protocol_accuracy: the same under the transform of the papers' protocols (`crop: resize-center`: to 256 pixels
            bilinearly, 224 cut out), where a source states it.
        classes: the classes that the head predicts; a benchmark must have the same.
        kinds: what kind of network it is, for methods that take only some.
        forward_ms: milliseconds of a source forward for one image on one CPU core; only used to estimate time.
    """

    name: str
    title: str
    task: Task = "classification"
    pretraining: Pretraining
    source: str
    weights: str
    sha256: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    text: TextHeadSpec | None = None
    num_classes: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float | None = None
    interpolation: Interpolation = "bicubic"
    clean_accuracy: float | None = None
    accuracy_source: str = ""
    protocol_accuracy: float | None = None
    classes: str
    kinds: tuple[NetworkKind, ...] = ()
    forward_ms: float

    def own_crop(self) -> OwnCrop | None:
        """The transform of the weights' authors, as timm makes it of a tag's data config; None if there is none."""
        if self.crop_pct is None:
            return None
        return OwnCrop(short=math.floor(self.image_size / self.crop_pct), interpolation=self.interpolation)

    def weights_tag(self, content: str = "") -> str:
        """Short text that names these very weights, or those of the user with this content."""
        content = content or (self.sha256 or "")[:12]
        tag = f"{self.name}@{content}" if content else self.weights
        return f"{tag} + {self.text.tag()}" if self.text else tag
