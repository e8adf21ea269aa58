"""Corrupts a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.corruptions import blur, colour, digital, noise, spatter, weather
from tta_core.corruptions.draws import Draws
from tta_core.corruptions.frost import Textures, made_textures, scaled_textures
from tta_core.corruptions.levels import from_bytes, to_bytes
from tta_core.corruptions.strengths import LADDERS, NAMES, SEVERITIES, STRENGTHS, ladder_for
from tta_core.data.spec import Ladder
from tta_core.errors import InputError, unknown_name

SMALLEST = 16
"""Pixels of the shorter side: kernels must fit into the image."""

_APPLY: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": colour.brightness,
    "contrast": colour.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "spatter": spatter.spatter,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": colour.saturate,
}

assert tuple(_APPLY) == NAMES


@torch.no_grad()
def corrupt(
    images: NDArray[np.uint8],
    name: str,
    severity: int,
    *,
    keys: Sequence[int],
    seed: int = 0,
    ladder: Ladder | None = None,
    textures: Textures | None = None,
    device: torch.device | str = "cpu",
    pool: Executor | None = None,
) -> NDArray[np.uint8]:
    """Corrupts images of one size.

    Every image has a random generator of its own, seeded by (seed, corruption, severity, key): on the CPU the same
    image gets the same bytes in any batch, on other devices up to rounding.

    Args:
        images: `(n, height, width, 3)`.
        name: a corruption of `strengths.NAMES`.
        severity: 1 to 5.
        keys: `(n,)`, a number of its own for each image, not negative.
        seed: seed of all random choices, not negative.
        ladder: which published strengths; None for those that fit the size.
        textures: photographs of frost; None for those that are made here.
        device: where to compute. Random numbers and JPEG are the CPU's.
        pool: threads for what is done image by image; None for none.

    Returns:
        The corrupted images, `(n, height, width, 3)`.

    Raises:
        InputError: if a value, a shape or a type is not as described.
    """
    ladder = _checked(images, name, severity, keys, seed, ladder)
    if not len(images):
        return images.copy()
    where = torch.device(device)
    number = NAMES.index(name)
    draws = Draws([(seed, number, severity, int(key)) for key in keys], where, pool)
    arguments: tuple[Any, ...] = STRENGTHS[ladder][name][severity - 1]
    extra: dict[str, Any] = {}
    if name == "frost":
        least = (images.shape[1] + 1, images.shape[2] + 1)
        extra = {"textures": scaled_textures(textures or made_textures(), arguments[-1], least, where)}
    elif name == "jpeg_compression" and pool is not None:
        extra = {"each": pool.map}
    given = from_bytes(torch.from_numpy(images.copy()).to(where))
    return to_bytes(_APPLY[name](given, draws, *arguments, **extra)).cpu().numpy()


def _checked(images: Any, name: str, severity: int, keys: Sequence[int], seed: int, ladder: Any) -> Ladder:
    if name not in NAMES:
        raise unknown_name("corruption", name, NAMES)
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise InputError(f"severity {severity!r} is not allowed: give a whole number from 1 to 5")
    if seed < 0:
        raise InputError(f"seed {seed} is not allowed: give a whole number that is not negative")
    is_images = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not is_images or images.shape[3] != 3:
        given = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
        raise InputError(f"images to corrupt are {given.strip()}: give uint8 of shape (n, height, width, 3)")
    if min(images.shape[1:3]) < SMALLEST:
        raise InputError(
            f"images to corrupt have {images.shape[2]}x{images.shape[1]} pixels: give at least {SMALLEST} each way"
        )
    if len(keys) != len(images) or any(key < 0 for key in keys):
        raise InputError(f"{len(keys)} keys for {len(images)} images: give each a number that is not negative")
    if ladder is not None and ladder not in LADDERS:
        raise unknown_name("ladder of strengths", str(ladder), LADDERS)
    fitting: Ladder = ladder or ladder_for(*images.shape[1:3])
    return fitting
