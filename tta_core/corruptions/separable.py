"""Linear maps of rows and columns, one after the other: Gaussian blur, enlargement, box filter.

Images are float32 `(n, channels, height, width)`. A matrix `(out, in)` maps one axis. Products are per image: so
an image comes out the same whichever others are in the batch.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Border = Literal["nearest", "reflect"]
"""What lies beyond the border, in the words of scipy: the border's own value, or the image mirrored (`b a | a b`)."""


def along_rows(images: Tensor, matrix: Tensor) -> Tensor:
    """Maps the row axis: `(n, channels, height, width)` to `(n, channels, out, width)`."""
    flat = images.flatten(0, 1)
    return torch.bmm(matrix.expand(len(flat), -1, -1), flat).unflatten(0, images.shape[:2])


def along_columns(images: Tensor, matrix: Tensor) -> Tensor:
    """Maps the column axis: `(n, channels, height, width)` to `(n, channels, height, out)`."""
    flat = images.flatten(0, 1)
    return torch.bmm(flat, matrix.t().expand(len(flat), -1, -1)).unflatten(0, images.shape[:2])


def gaussian_blur(images: Tensor, sigma: float, *, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """Blurs with a Gaussian of `sigma` pixels that is cut at `truncate` of them, as `scipy.ndimage.gaussian_filter`."""
    if sigma <= 0:
        return images
    height, width = images.shape[-2:]
    blurred = along_rows(images, gaussian_matrix(height, sigma, border, truncate).to(images.device))
    return along_columns(blurred, gaussian_matrix(width, sigma, border, truncate).to(images.device))


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarges the middle of an image linearly to the size of the whole (`clipped_zoom` of the published scripts)."""
    for axis in (2, 3):
        lower, upper, share = (each.to(images.device) for each in zoom_positions(images.shape[axis], factor))
        share = share.view(-1, 1) if axis == 2 else share
        images = torch.lerp(images.index_select(axis, lower), images.index_select(axis, upper), share)
    return images


@lru_cache(maxsize=256)
def gaussian_matrix(size: int, sigma: float, border: Border, truncate: float) -> Tensor:
    """The matrix `(size, size)` of a Gaussian blur along one axis."""
    reach = int(truncate * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    source = np.arange(size)[:, None] + steps[None, :]
    source = np.clip(source, 0, size - 1) if border == "nearest" else mirrored(source, size)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], source), weights[None, :])
    return torch.from_numpy(matrix.astype(np.float32))


@lru_cache(maxsize=256)
def zoom_positions(size: int, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where `clipped_zoom` reads along one axis: `scipy.ndimage.zoom` of order 1, then trimmed.

    Returns:
        The pixels before and after each position, and how far it is on the way from the one to the other, each
        `(size,)`.
    """
    inside = math.ceil(size / factor)
    first, enlarged = (size - inside) // 2, round(inside * factor)
    kept = np.arange(size) + (enlarged - size) // 2
    position = kept * ((inside - 1) / max(enlarged - 1, 1))
    lower = np.minimum(np.floor(position).astype(np.int64), max(inside - 2, 0))
    upper = np.minimum(lower + 1, inside - 1)
    share = (position - lower).astype(np.float32)
    return torch.from_numpy(first + lower), torch.from_numpy(first + upper), torch.from_numpy(share)


@lru_cache(maxsize=256)
def box_matrix(size: int, out: int) -> Tensor:
    """The matrix `(out, size)` of resizing one axis with Pillow's box filter."""
    scale = size / out
    support = 0.5 * max(scale, 1.0)
    matrix = np.zeros((out, size))
    for place in range(out):
        centre = (place + 0.5) * scale
        source = np.arange(max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), size))
        offset = (source - centre + 0.5) / max(scale, 1.0)
        matrix[place, source] = (offset > -0.5) & (offset <= 0.5)
    return torch.from_numpy((matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32))


def mirrored(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Folds positions beyond the border back inside (`b a | a b c | c b`)."""
    folded = np.mod(positions, 2 * size)
    return np.where(folded >= size, 2 * size - 1 - folded, folded)
