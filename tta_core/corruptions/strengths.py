"""The strengths of the corruptions at severities 1 to 5, as published for ImageNet-C and for CIFAR-C. No torch.

Lengths are pixels and are not scaled: the same strength does less to a larger image, as with the published scripts.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, get_args

from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.data.spec import Ladder

LADDERS: tuple[Ladder, ...] = get_args(Ladder)
SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 64
"""Images with a shorter side than this have the strengths of CIFAR-C unless others are asked for."""

Strengths = dict[str, tuple[tuple[Any, ...], ...]]
"""Name of a corruption -> its arguments at severities 1 to 5."""


def _scaled(size: float, *rows: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Rows that are published as shares of a size, in pixels."""
    return tuple(tuple(size * share for share in row) for row in rows)


_IMAGENET: Strengths = {
    # standard deviation
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    # photons at full brightness
    "shot_noise": ((60.0,), (25.0,), (12.0,), (5.0,), (3.0,)),
    # share of the values that become 0 or 1
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    # radius of the disc, sigma that smooths its rim
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    # sigma, farthest step, rounds
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    # radius, sigma
    "motion_blur": ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
    # the factors are `arange(1, first, second)`
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    # mean and deviation of the flakes, their zoom, threshold, radius and sigma of their motion, share of the image
    "snow": (
        (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
    ),
    # weight of the image, of the frost, and the scale of the frost's photograph
    "frost": ((1.0, 0.4, 1.0), (0.8, 0.6, 1.0), (0.7, 0.7, 1.0), (0.65, 0.7, 1.0), (0.6, 0.75, 1.0)),
    # amount, decay of the roughness
    "fog": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    # added to V of HSV
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    # factor
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    # amplitude and sigma of the bends, shift of the corners. The 244 of the published script is kept.
    "elastic_transform": _scaled(
        244.0, (2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
    ),
    # share of the pixels that are left along each side
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    # quality
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
    # standard deviation
    "speckle_noise": ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
    # mean and deviation of the liquid, its sigma, threshold, weight of water or sigma of mud, whether it is mud
    "spatter": (
        (0.65, 0.3, 4.0, 0.69, 0.6, False),
        (0.65, 0.3, 3.0, 0.68, 0.6, False),
        (0.65, 0.3, 2.0, 0.68, 0.5, False),
        (0.65, 0.3, 1.0, 0.65, 1.5, True),
        (0.67, 0.4, 1.0, 0.65, 1.5, True),
    ),
    # sigma
    "gaussian_blur": ((1.0,), (2.0,), (3.0,), (4.0,), (6.0,)),
    # factor and offset of S of HSV
    "saturate": ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
}

_CIFAR: Strengths = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.1,)),
    "shot_noise": ((500.0,), (250.0,), (100.0,), (75.0,), (50.0,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    ),
    "frost": ((1.0, 0.2, 0.2), (1.0, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    "fog": ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": _scaled(
        32.0, (0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
    ),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
    "speckle_noise": ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1.0, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    "gaussian_blur": ((0.4,), (0.6,), (0.7,), (0.8,), (1.0,)),
    "saturate": ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
}

STRENGTHS: MappingProxyType[Ladder, Strengths] = MappingProxyType({"imagenet": _IMAGENET, "cifar": _CIFAR})
"""By ladder; names in the order that seeds their random choices, which must never change."""

NAMES = (*CORRUPTIONS, *HELD_OUT_CORRUPTIONS)

assert all(tuple(strengths) == NAMES for strengths in STRENGTHS.values())


def ladder_for(height: int, width: int) -> Ladder:
    """The strengths that images of a size have unless others are asked for."""
    return "cifar" if min(height, width) < SMALL else "imagenet"
