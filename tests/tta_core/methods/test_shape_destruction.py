"""Destroying shapes: what goes where, and what stays."""

import pytest
import torch

from tta_core.methods.deyo.shape_destruction import occlude, shuffle_patches, shuffle_pixels


def orders(batch, tiles, seed=0):
    return torch.rand(batch, tiles, generator=torch.Generator().manual_seed(seed)).argsort(dim=-1)


@pytest.mark.parametrize(("shape", "patch_len"), [((8, 8), 2), ((12, 12), 4), ((6, 9), 3), ((4, 8), 4), ((5, 5), 1)])
def test_each_place_gets_the_tile_that_the_order_names(shape, patch_len):
    (height, width), batch = shape, 3
    images = torch.randn(batch, 3, height, width)
    order = orders(batch, patch_len**2)
    found = shuffle_patches(images, order, patch_len)
    rows, columns = height // patch_len, width // patch_len

    def tile(image, number):
        down, across = divmod(int(number), patch_len)
        return image[:, down * rows : (down + 1) * rows, across * columns : (across + 1) * columns]

    for number in range(batch):
        for place in range(patch_len**2):
            assert torch.equal(tile(found[number], place), tile(images[number], order[number, place]))


def test_the_order_of_the_tiles_as_they_are_changes_nothing():
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(shuffle_patches(images, torch.arange(16).expand(2, -1), 4), images)


@pytest.mark.parametrize("size", [(10, 10), (9, 14), (3, 3)])
def test_sizes_that_the_grid_does_not_divide_are_resized_and_back(size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    order = orders(2, 16)
    found = shuffle_patches(images, order, 4)
    between = tuple(max(length // 4, 1) * 4 for length in size)

    def resized(given, to):
        return torch.nn.functional.interpolate(given, to, mode="bilinear", antialias=True)

    torch.testing.assert_close(found, resized(shuffle_patches(resized(images, between), order, 4), size))
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    # An even colour is the same wherever its tiles go.
    even = torch.full((1, 3, *size), 0.3, dtype=torch.float64)
    torch.testing.assert_close(shuffle_patches(even, order[:1], 4), even)


def test_pixels_move_alike_in_all_images_and_channels():
    images = torch.randn(2, 3, 4, 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    found = shuffle_pixels(images, order)
    for place, source in enumerate(order.tolist()):
        assert torch.equal(found[..., place // 5, place % 5], images[..., source // 5, source % 5])


def test_the_window_gets_the_mean_colour_of_the_whole_image():
    images = torch.randn(2, 3, 6, 8)
    before = images.clone()
    found = occlude(images, slice(1, 4), slice(5, 9))
    window = torch.zeros(6, 8, dtype=torch.bool)
    window[1:4, 5:] = True
    assert torch.equal(images, before)
    assert torch.equal(found[..., ~window], images[..., ~window])
    mean = images.flatten(2).mean(-1, keepdim=True)
    torch.testing.assert_close(found[..., window], mean.expand(-1, -1, 9))
