"""Digital: pixelate, JPEG, elastic transform. Images are float32 `(n, 3, height, width)` in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tta_core.corruptions import separable
from tta_core.corruptions.draws import Draws
from tta_core.corruptions.levels import from_bytes, rounded, to_bytes


def pixelate(images: Tensor, _: Draws, share: float) -> Tensor:
    """Shrinks and enlarges with Pillow's box filter, rounding to levels after each axis as Pillow does."""
    height, width = images.shape[2:]
    small = max(int(height * share), 1), max(int(width * share), 1)
    for sizes in (((height, small[0]), (width, small[1])), ((small[0], height), (small[1], width))):
        rows, columns = (separable.box_matrix(*size).to(images.device) for size in sizes)
        images = rounded(separable.along_rows(rounded(separable.along_columns(images, columns)), rows))
    return images


def jpeg_compression(images: Tensor, _: Draws, quality: int, each: Callable[..., Any] = map) -> Tensor:
    """Compresses and decompresses with Pillow, on the CPU: the loss is that of libjpeg, bit for bit.

    Args:
        images: the images, at levels of eight bits.
        quality: 1 to 95.
        each: `map`, or that of a pool of threads.
    """

    def squeezed(image: Any) -> Any:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    done = np.stack(list(each(squeezed, to_bytes(images).cpu().numpy())))
    return from_bytes(torch.from_numpy(done).to(images.device))


def elastic_transform(images: Tensor, draws: Draws, amplitude: float, sigma: float, shift: float) -> Tensor:
    """Moves three corners of a square in the middle and the image with them, then bends it smoothly."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device, dtype=torch.float32).view(1, height, 1)
    columns = torch.arange(width, device=images.device, dtype=torch.float32).view(1, 1, width)
    inverse = _inverse_affine((2 * draws.uniform(3, 2) - 1) * shift, height, width)
    across, down = inverse[:, 0], inverse[:, 1]
    source_columns = across[:, 0] * columns + across[:, 1] * rows + across[:, 2]
    source_rows = down[:, 0] * columns + down[:, 1] * rows + down[:, 2]
    moved = _sampled(images, source_rows, source_columns, _inner_mirror)
    bends = 2 * draws.uniform(2, height, width) - 1
    bends = amplitude * separable.gaussian_blur(bends, sigma, border="reflect", truncate=3.0)
    return _sampled(moved, rows + bends[:, 0], columns + bends[:, 1], _mirror)


def _inverse_affine(shifts: Tensor, height: int, width: int) -> Tensor:
    """The maps `(n, 2, 3, 1, 1)` from where a pixel goes to where it comes from, column first.

    Args:
        shifts: `(n, 3, 2)`, how far the corners go, column first.
        height: of the images.
        width: likewise.
    """
    centre, side = np.array([width // 2, height // 2], dtype=np.float64), min(height, width) // 3
    corners = centre + np.array([[side, side], [side, -side], [-side, -side]])
    moved = corners + shifts.double().cpu().numpy()
    # Solved the other way round: from the moved corners to the corners.
    known = np.concatenate([moved, np.ones((len(moved), 3, 1))], axis=2)
    inverse = np.linalg.solve(known, np.broadcast_to(corners, moved.shape)).transpose(0, 2, 1)
    return torch.from_numpy(np.ascontiguousarray(inverse, dtype=np.float32)).to(shifts.device)[..., None, None]


def _sampled(images: Tensor, rows: Tensor, columns: Tensor, fold: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Reads each image bilinearly at positions `(n, height, width)` in pixels; `fold` brings back those beyond it."""
    count, channels, height, width = images.shape
    flat, result = images.flatten(2), torch.zeros_like(images).flatten(2)
    top, left = rows.floor(), columns.floor()
    down, right = rows - top, columns - left
    for row, row_share in ((top, 1 - down), (top + 1, down)):
        for column, column_share in ((left, 1 - right), (left + 1, right)):
            source = (fold(row.long(), height) * width + fold(column.long(), width)).view(count, 1, -1)
            share = (row_share * column_share).view(count, 1, -1)
            result += share * flat.gather(2, source.expand(-1, channels, -1))
    return result.view(images.shape)


def _mirror(positions: Tensor, size: int) -> Tensor:
    """Folds positions back inside (`b a | a b c | c b`)."""
    folded = positions.remainder(2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)


def _inner_mirror(positions: Tensor, size: int) -> Tensor:
    """Folds positions back inside without repeating the border (`c b | a b c | b a`)."""
    folded = positions.remainder(2 * size - 2)
    return torch.minimum(folded, 2 * size - 2 - folded)
