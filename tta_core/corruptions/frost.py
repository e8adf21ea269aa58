"""Photographs of frost, or textures made here that look alike to the eye of a network.

The published photographs are no part of this package. Those who have them name their folder. The textures that stand in
for them have their size, the mean and deviation of their colours, the distribution of their grey and the slope of their
spectrum, all measured on the photographs; the shapes of crystals they have not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tta_core.errors import InputError

FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The photographs that the published scripts choose from."""

SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
"""Shares of the pixels below the levels that a `Look` names."""


@dataclass(frozen=True, eq=False)
class Textures:
    """Pictures of frost.

    Attributes:
        pictures: each float32 `(3, height, width)` in [0, 1].
    """

    pictures: tuple[Tensor, ...]


@dataclass(frozen=True)
class Look:
    """What was measured on a photograph of frost, values in [0, 1].

    Attributes:
        size: height and width.
        mean: by channel.
        deviation: likewise.
        levels: grey levels that `SHARES` of the pixels lie below.
        slope: exponent of the power over the frequency.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    levels: tuple[float, ...]
    slope: float


_WHITE = Look(
    (315, 560), (0.787, 0.805, 0.841), (0.084, 0.087, 0.089), (0.55, 0.69, 0.76, 0.82, 0.86, 0.9, 0.96), -1.63
)
LOOKS = (
    Look((600, 900), (0.305, 0.585, 0.65), (0.106, 0.065, 0.06), (0.37, 0.42, 0.46, 0.5, 0.55, 0.61, 0.7), -1.74),
    # The second and the third published photograph are the same.
    _WHITE,
    _WHITE,
    Look((350, 527), (0.54, 0.599, 0.648), (0.112, 0.112, 0.117), (0.32, 0.45, 0.52, 0.59, 0.65, 0.72, 0.9), -1.2),
    Look((495, 660), (0.441, 0.484, 0.528), (0.174, 0.17, 0.163), (0.17, 0.27, 0.35, 0.46, 0.58, 0.71, 0.93), -1.76),
)


@lru_cache(maxsize=1)
def made_textures() -> Textures:
    """Textures with the looks of the published photographs, always the same."""
    return Textures(tuple(_made(look, np.random.default_rng(number)) for number, look in enumerate(LOOKS)))


def read_textures(folder: Path) -> Textures:
    """Reads the published photographs.

    Raises:
        InputError: if one is missing or cannot be decoded.
    """
    pictures = []
    for name in FILES:
        try:
            with Image.open(folder / name) as opened:
                pixels = np.asarray(opened.convert("RGB"), dtype=np.float32) / 255
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"the photograph of frost {folder / name} cannot be read ({error}): give a folder with "
                f"{', '.join(FILES)}, as in ImageNet-C/create_c of https://github.com/hendrycks/robustness"
            ) from None
        pictures.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    return Textures(tuple(pictures))


@lru_cache(maxsize=8)
def scaled_textures(textures: Textures, scale: float, least: tuple[int, int], device: torch.device) -> list[Tensor]:
    """The pictures at a scale, or as much larger as images need.

    Args:
        textures: the pictures.
        scale: factor of height and width.
        least: smallest height and width that the result may have.
        device: where to put them.
    """
    result = []
    for picture in textures.pictures:
        height, width = picture.shape[1:]
        factor = max(scale, least[0] / height, least[1] / width)
        size = max(round(height * factor), least[0]), max(round(width * factor), least[1])
        # Without antialiasing, as OpenCV's `resize` does it in the published scripts.
        resized = nn.functional.interpolate(picture[None], size=size, mode="bilinear", align_corners=False)[0]
        result.append((picture if size == (height, width) else resized).to(device))
    return result


def _made(look: Look, generator: np.random.Generator) -> Tensor:
    """Noise of the look's spectrum, with its distribution and colours."""
    height, width = look.size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((height, width))) * frequency ** (look.slope / 2)
    noise = np.fft.irfft2(spectrum, s=(height, width))
    share = _ranks(noise) / noise.size
    level = np.interp(share, (0.0, *SHARES, 1.0), (look.levels[0], *look.levels, look.levels[-1]))
    level = (level - level.mean()) / level.std()
    colours = [mean + deviation * level for mean, deviation in zip(look.mean, look.deviation, strict=True)]
    return torch.from_numpy(np.clip(np.stack(colours), 0, 1).astype(np.float32))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many values are smaller than each."""
    ranks = np.empty(values.size)
    ranks[np.argsort(values, axis=None, kind="stable")] = np.arange(values.size)
    return ranks.reshape(values.shape)
