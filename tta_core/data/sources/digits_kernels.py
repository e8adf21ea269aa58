"""The image operations that the corruptions are made of: deterministic, vectorised over the batch, no random numbers.

Images here are float32 `(n, channels, height, width)` in [0, 1]. Everything is elementwise arithmetic, shifts and
gathers, never a matrix product or an FFT, whose rounding may depend on how many images are in the batch: an image must
come out with the same bytes whichever others it is processed with.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.float32]
"""`(n, channels, height, width)`, nominally in [0, 1]."""

Fields = NDArray[np.float32]
"""`(n, height, width)`: one value a pixel, such as a displacement or a layer of fog."""

LUMINANCE = (0.299, 0.587, 0.114)


def reflect_pad(values: NDArray[np.float32], pad: int, axis: int) -> NDArray[np.float32]:
    """Pads one axis by mirroring at the border (`c b a | a b c | c b a`)."""
    widths = [(0, 0)] * values.ndim
    widths[axis] = (pad, pad)
    return np.pad(values, widths, mode="symmetric")


def convolve_axis(values: NDArray[np.float32], weights: Sequence[float], axis: int) -> NDArray[np.float32]:
    """Convolves along one axis with an odd number of symmetric weights."""
    axis = axis % values.ndim
    padded = reflect_pad(values, len(weights) // 2, axis)
    result = np.zeros_like(values)
    for start, weight in enumerate(weights):
        window = [slice(None)] * values.ndim
        window[axis] = slice(start, start + values.shape[axis])
        result += np.float32(weight) * padded[tuple(window)]
    return result


def gaussian_blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blurs the last two axes with a Gaussian of standard deviation `sigma` pixels, cut at four of them."""
    radius = max(1, int(4.0 * sigma + 0.5))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps = (weights / weights.sum()).tolist()
    return convolve_axis(convolve_axis(values, taps, -1), taps, -2)


def disc_kernel(radius: float) -> NDArray[np.float64]:
    """A disc of `radius` pixels with soft edges, summing to 1: each pixel's share of area, by 9x9 sub-samples."""
    half = int(np.ceil(radius))
    samples = 9
    positions = (np.arange((2 * half + 1) * samples) + 0.5) / samples - 0.5 - half
    inside = (positions[:, None] ** 2 + positions[None, :] ** 2) <= radius**2
    kernel = inside.reshape(2 * half + 1, samples, 2 * half + 1, samples).mean(axis=(1, 3))
    return np.asarray(kernel / kernel.sum(), dtype=np.float64)


def defocus_blur(images: Images, radius: float) -> Images:
    """Convolves with `disc_kernel(radius)`."""
    kernel = disc_kernel(radius)
    height, width = images.shape[-2:]
    half = kernel.shape[0] // 2
    padded = reflect_pad(reflect_pad(images, half, 2), half, 3)
    result = np.zeros_like(images)
    for row, column in np.argwhere(kernel > 0):
        result += np.float32(kernel[row, column]) * padded[:, :, row : row + height, column : column + width]
    return result


def stretch_axis(values: NDArray[np.float32], positions: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Samples one axis linearly at `positions`, in pixels; positions beyond the border repeat the border."""
    size = values.shape[axis]
    clipped = np.clip(positions, 0, size - 1)
    lower = np.minimum(clipped.astype(np.int64), max(size - 2, 0))
    upper = np.minimum(lower + 1, size - 1)
    shape = [1] * values.ndim
    shape[axis] = len(positions)
    share = (clipped - lower).astype(np.float32).reshape(shape)
    result: NDArray[np.float32] = values.take(lower, axis=axis) * (1 - share) + values.take(upper, axis=axis) * share
    return result


def zoom_centre(values: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Enlarges the last two axes by `factor` about their centre and keeps the size (`clipped_zoom` of ImageNet-C)."""
    for axis in (values.ndim - 2, values.ndim - 1):
        centre = (values.shape[axis] - 1) / 2
        values = stretch_axis(values, (np.arange(values.shape[axis]) - centre) / factor + centre, axis)
    return values


def zoom_blur(images: Images, largest: float, steps: int) -> Images:
    """The mean of the image and of its enlargements by `steps` factors from 1 to `largest`."""
    total = images.copy()
    for factor in np.linspace(1.0, largest, steps):
        total += zoom_centre(images, float(factor))
    return total / np.float32(steps + 1)


def motion_blur(values: NDArray[np.float32], length: int, sigma: float, angles: NDArray[np.float64]) -> Images:
    """Drags each image along its own direction: a one-sided Gaussian streak, as ImageMagick's motion blur.

    Args:
        values: `(n, channels, height, width)`.
        length: number of taps, one pixel apart.
        sigma: standard deviation of the streak in pixels.
        angles: `(n,)` in radians.
    """
    count, channels, height, width = values.shape
    weights = np.exp(-0.5 * (np.arange(length) / sigma) ** 2)
    weights = weights / weights.sum()
    rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    flat = values.reshape(count, channels, height * width)
    result = np.zeros_like(flat)
    for tap, weight in enumerate(weights):
        down = np.rint(tap * np.sin(angles)).astype(np.int64)[:, None, None]
        right = np.rint(tap * np.cos(angles)).astype(np.int64)[:, None, None]
        source = np.clip(rows + down, 0, height - 1) * width + np.clip(columns + right, 0, width - 1)
        result += np.float32(weight) * np.take_along_axis(flat, source.reshape(count, 1, -1), axis=2)
    return result.reshape(values.shape)


def sample_bilinear(images: Images, rows: Fields, columns: Fields) -> Images:
    """Reads each image at fractional positions, mirroring at the border.

    Args:
        images: `(n, channels, height, width)`.
        rows: `(n, height, width)`, where to read, in pixels.
        columns: likewise.
    """
    count, channels, height, width = images.shape
    flat = images.reshape(count, channels, height * width)
    top, left = np.floor(rows), np.floor(columns)
    down, right = rows - top, columns - left
    result = np.zeros_like(flat)
    for row_step, row_share in ((0, 1 - down), (1, down)):
        row = mirror(top.astype(np.int64) + row_step, height)
        for column_step, column_share in ((0, 1 - right), (1, right)):
            source = row * width + mirror(left.astype(np.int64) + column_step, width)
            share = (row_share * column_share).reshape(count, 1, -1)
            result += share * np.take_along_axis(flat, source.reshape(count, 1, -1), axis=2)
    return result.reshape(images.shape)


def affine_positions(shifts: NDArray[np.float32], size: int) -> tuple[Fields, Fields]:
    """Where to read so that the image is sheared, turned and stretched: three anchor points move, the rest follows.

    The anchors are those of ImageNet-C: three corners of a square of two thirds of the image about its centre.

    Args:
        shifts: `(n, 3, 2)`, row and column shift of the corners (bottom right, bottom left, top left), in pixels.
        size: height and width of the image.

    Returns:
        Rows and columns, each `(n, size, size)`.
    """
    half = size // 3
    # In coordinates of -1 to 1 within the square, an affine map is fixed by its values at the three corners.
    unit = ((np.arange(size) - size // 2) / half).astype(np.float32)
    down, right = unit[None, :, None, None], unit[None, None, :, None]
    bottom_right, bottom_left, top_left = (shifts[:, corner, None, None, :] for corner in range(3))
    moved: NDArray[np.float32] = bottom_right + top_left + (bottom_left - top_left) * down
    moved = np.float32(0.5) * (moved + (bottom_right - bottom_left) * right)
    pixels = np.arange(size, dtype=np.float32)
    rows: Fields = pixels[None, :, None] + moved[..., 0]
    columns: Fields = pixels[None, None, :] + moved[..., 1]
    return rows, columns


def mirror(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Folds positions beyond the border back inside (`c b a | a b c | c b a`)."""
    folded = np.mod(positions, 2 * size)
    return np.where(folded >= size, 2 * size - 1 - folded, folded)


def shuffle_nearby(images: Images, steps: NDArray[np.int64], reach: int) -> Images:
    """Swaps each pixel with a near one, in the raster order of ImageNet-C's glass blur.

    Args:
        images: `(n, channels, height, width)`.
        steps: `(n, rounds, positions, 2)`, row and column step of each swap, within [-reach, reach).
        reach: largest step in pixels.
    """
    count, channels, height, width = images.shape
    everyone = np.arange(count)
    # The swaps run on a map of pixel numbers, pixels first, so that the inner loop touches contiguous memory.
    origin = np.repeat(np.arange(height * width)[:, None], count, axis=1)
    jumps = np.ascontiguousarray((steps[..., 0] * width + steps[..., 1]).transpose(1, 2, 0))
    places = shuffled_places(height, width, reach)
    for round_jumps in jumps:
        for place, jump in zip(places, round_jumps, strict=True):
            other = place + jump
            taken = origin[other, everyone]
            origin[other, everyone] = origin[place]
            origin[place] = taken
    flat = images.reshape(count, channels, height * width)
    return np.take_along_axis(flat, origin.T[:, None, :], axis=2).reshape(images.shape)


def shuffled_places(height: int, width: int, reach: int) -> list[int]:
    """Pixel numbers that `shuffle_nearby` visits, last row first; a border of `reach` pixels is left out."""
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    return [row * width + column for row in rows for column in columns]


def octave_noise(grids: Sequence[NDArray[np.float32]], size: int, decay: float, *, ridged: bool) -> Fields:
    """Adds up random grids, each enlarged to `size` and weaker by `decay` than the one before; scaled to [0, 1].

    A stand-in for the diamond-square plasma of ImageNet-C that costs a few shifts instead of a loop over pixels.

    Args:
        grids: arrays `(n, points, points)` in [0, 1], coarse to fine.
        size: height and width of the result.
        decay: ratio of the amplitudes of successive grids.
        ridged: fold each grid about its middle, which turns hills into the thin bright veins of frost.
    """
    total = np.zeros((len(grids[0]), size, size), dtype=np.float32)
    for octave, grid in enumerate(grids):
        positions = np.linspace(0.0, grid.shape[1] - 1.0, size)
        layer = stretch_axis(stretch_axis(grid, positions, 1), positions, 2)
        if ridged:
            layer = 1 - np.abs(2 * layer - 1)
        total += layer * np.float32(decay**-octave)
    low, high = total.min(axis=(1, 2), keepdims=True), total.max(axis=(1, 2), keepdims=True)
    result: Fields = (total - low) / np.maximum(high - low, np.float32(1e-6))
    return result


def shift_value(images: Images, amount: float) -> Images:
    """Adds `amount` to V of HSV."""
    value = images.max(axis=1, keepdims=True)
    brighter = np.clip(value + np.float32(amount), 0, 1)
    scale = brighter / np.maximum(value, np.float32(1e-6))
    return np.where(value > 0, images * scale, brighter).astype(np.float32)


def scale_saturation(images: Images, factor: float, offset: float) -> Images:
    """Replaces S of HSV by `clip(factor * S + offset)`; a grey pixel has hue 0 and turns red, as in ImageNet-C."""
    value, least = images.max(axis=1, keepdims=True), images.min(axis=1, keepdims=True)
    spread = value - least
    saturation = spread / np.maximum(value, np.float32(1e-6))
    wanted = np.clip(saturation * np.float32(factor) + np.float32(offset), 0, 1)
    # How far each channel lies below V, as a share of the spread; pure red where the pixel is grey.
    red = np.array([0, 1, 1], dtype=np.float32).reshape(1, 3, 1, 1)
    depth = np.where(spread > 0, (value - images) / np.maximum(spread, np.float32(1e-6)), red)
    result: Images = value * (1 - wanted * depth)
    return result


def luminance(images: Images) -> Images:
    """The grey image `(n, 1, height, width)`."""
    weights = np.array(LUMINANCE, dtype=np.float32)
    result: Images = images[:, 0:1] * weights[0] + images[:, 1:2] * weights[1] + images[:, 2:3] * weights[2]
    return result


def pixelate(images: Images, grid: int) -> Images:
    """Averages over a `grid` x `grid` raster and enlarges it again, with Pillow's box filter as in ImageNet-C."""

    def shrink(image: Image.Image) -> Image.Image:
        box = Image.Resampling.BOX
        return image.resize((grid, grid), box).resize(image.size, box)

    return from_pillow([shrink(image) for image in to_pillow(images)])


def jpeg(images: Images, quality: int) -> Images:
    """Compresses and decompresses with Pillow."""

    def squeeze(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return from_pillow([squeeze(image) for image in to_pillow(images)])


def to_bytes(images: Images) -> NDArray[np.uint8]:
    """Rounds to 8 bits, `(n, height, width, channels)`."""
    rounded = np.rint(np.clip(images, 0, 1) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(0, 2, 3, 1))


def from_bytes(images: NDArray[np.uint8]) -> Images:
    """Brings 8-bit images `(n, height, width, channels)` to [0, 1] and channels first."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def to_pillow(images: Images) -> list[Image.Image]:
    """RGB images for Pillow."""
    return [Image.fromarray(image) for image in to_bytes(images)]


def from_pillow(images: Sequence[Image.Image]) -> Images:
    """The reverse of `to_pillow`."""
    return from_bytes(np.stack([np.asarray(image) for image in images]))
