"""Noise: gaussian, shot, impulse, speckle. Images are float32 `(n, 3, height, width)` in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_core.corruptions.draws import Draws


def gaussian_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """Adds normal noise."""
    return images + deviation * draws.normal(*images.shape[1:])


def shot_noise(images: Tensor, draws: Draws, photons: float) -> Tensor:
    """Counts photons, `photons` of them at full brightness."""
    return draws.poisson(images * photons) / photons


def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Makes a share of the values 0 or 1, either with the same probability."""
    chance = draws.uniform(*images.shape[1:])
    salted = torch.where(chance < share, torch.ones_like(images), images)
    return torch.where(chance < share / 2, torch.zeros_like(images), salted)


def speckle_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """Adds normal noise in proportion to the value."""
    return images + images * deviation * draws.normal(*images.shape[1:])
