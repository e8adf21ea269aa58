"""Destroys the shapes in images and leaves their colours: DeYO's augmentations (mixed §2.5), batched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shuffle_patches(images: Tensor, order: Tensor, patch_len: int) -> Tensor:
    """Cuts each image into a grid of tiles and puts other tiles in their places.

    Images whose size the grid does not divide are made smaller before, bilinearly and with antialiasing, and brought
    back afterwards.

    Args:
        images: `(batch, channels, height, width)`.
        order: int64 `(batch, patch_len^2)`, on the device of the images: the number of the tile that each place gets,
            counted row by row.
        patch_len: tiles in a row and in a column.

    Returns:
        Images of the same shape.
    """
    height, width = images.shape[-2:]
    rows, columns = max(height // patch_len, 1), max(width // patch_len, 1)
    divisible = _resize(images, rows * patch_len, columns * patch_len)
    grid = divisible.unflatten(-1, (patch_len, columns)).unflatten(-3, (patch_len, rows))
    tiles = grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # batch, tile, channel, row, column
    tiles = tiles[torch.arange(len(images), device=images.device).unsqueeze(1), order]
    grid = tiles.unflatten(1, (patch_len, patch_len)).permute(0, 3, 1, 4, 2, 5)
    return _resize(grid.flatten(-2).flatten(-3, -2), height, width)


def shuffle_pixels(images: Tensor, order: Tensor) -> Tensor:
    """Moves the pixels of all images alike.

    Args:
        images: `(batch, channels, height, width)`.
        order: int64 `(height x width,)`, on the device of the images: the number of the pixel that each place gets.
    """
    return images.flatten(2)[:, :, order].view_as(images)


def occlude(images: Tensor, rows: slice, columns: slice) -> Tensor:
    """Covers a window with the mean colour of each image, the window included.

    Args:
        images: `(batch, channels, height, width)`; they stay as they are.
        rows: of the window.
        columns: of the window.
    """
    covered = images.clone()
    covered[..., rows, columns] = images.mean(dim=(-2, -1), keepdim=True)
    return covered


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
