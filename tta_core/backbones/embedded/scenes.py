"""The network of `digit-scenes`: a small SegFormer."""

from __future__ import annotations

from tta_core.backbones.segformer import SegFormer, SegFormerShape
from tta_core.data.sources.scenes import GROUND

SCENES = "segformer-scenes"
"""Its name in the backbone table, after `embedded:`."""

SHAPE = SegFormerShape(
    widths=(16, 32, 64, 96),
    depths=(1, 1, 1, 1),
    head_width=48,
    heads=(1, 2, 4, 6),
    # With the usual stride of 4 the strokes of a digit are one token wide.
    strides=(2, 2, 2, 2),
    ratio=2,
)


def build_scenes_network() -> SegFormer:
    """Builds it with fresh weights from torch's global generator (274 k parameters)."""
    return SegFormer(SHAPE, num_classes=GROUND + 1)
