"""Brings values in [0, 1] to the 256 levels of eight bits."""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1 / 1024
"""Of a level. The published scripts cut fractions off, where rounding errors of any device and library would make a
level of an exact one; a thousandth of a level more keeps it.
"""


def truncated(values: Tensor) -> Tensor:
    """Cuts off what is beyond the levels, as `numpy.uint8` does."""
    return torch.floor(values.clamp(0, 1) * 255 + SLACK) / 255


def rounded(values: Tensor) -> Tensor:
    """Takes the nearest level, of two the upper one, as Pillow and ImageMagick do."""
    return torch.floor(values.clamp(0, 1) * 255 + 0.5 + SLACK) / 255


def to_bytes(values: Tensor) -> Tensor:
    """The levels `(n, channels, height, width)` in [0, 1] as uint8 `(n, height, width, channels)`, cut off."""
    return torch.floor(values.clamp(0, 1) * 255 + SLACK).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_bytes(images: Tensor) -> Tensor:
    """The reverse of `to_bytes`."""
    return images.permute(0, 3, 1, 2).float().contiguous() / 255
