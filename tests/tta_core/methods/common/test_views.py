"""Random views: every operation and the whole pipeline against torchvision's, on the padded image as published."""

import dataclasses

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from tta_core.methods.common import views
from tta_core.methods.common.views import (
    View,
    apply_view,
    blur,
    blur_taps,
    draw_view,
    move,
    normalised_view,
    predict_views,
    random_view,
)
from tta_core.methods.context import Context

CONTEXT = Context(10, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2))
STILL = View((), 0.0, (0, 0), 1.0, 0.001, False)
VIEWS = [
    View((("gamma", 0.7), ("hue", -0.06), ("saturation", 1.5), ("brightness", 1.4), ("contrast", 0.7)),
         15.0, (4, -4), 0.9, 0.5, True),
    View((("contrast", 1.3), ("brightness", 0.6), ("gamma", 1.3), ("saturation", 0.5), ("hue", 0.06)),
         -15.0, (-4, 3), 1.1, 0.27, False),
    View((("hue", 0.02), ("saturation", 0.9), ("contrast", 1.1), ("gamma", 1.0), ("brightness", 1.05)),
         3.3, (0, 1), 0.97, 0.13, True),
]  # fmt: skip


@pytest.fixture
def pixels():
    """Five images in [0, 1], one of them grey, with black in another."""
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pixels[0] = pixels[0, :1]
    pixels[1, :, :6] = 0
    return pixels


def move_as_published(pixels, view):
    height, width = pixels.shape[-2:]
    padded = reference.pad(pixels, [width // 2, height // 2], padding_mode="edge")
    return reference.affine(
        padded, view.angle, list(view.shift), view.scale, [0.0, 0.0], InterpolationMode.BILINEAR, fill=[0.0] * 3
    )


def apply_as_published(pixels, view):
    """The published order: colours, padding, affine map, blur, centre crop, flip."""
    for name, factor in view.colours:
        if name == "gamma":
            pixels = reference.adjust_gamma(pixels.clamp(1e-8, 1), factor)
        else:
            pixels = getattr(reference, f"adjust_{name}")(pixels, factor)
    size = list(pixels.shape[-2:])
    moved = reference.gaussian_blur(move_as_published(pixels, view), 5, [view.blur, view.blur])
    cropped = reference.center_crop(moved, size)
    return reference.hflip(cropped) if view.flip else cropped


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "gamma"])
def test_one_factor_for_all_images(name, pixels):
    for factor in (-0.06, 0.05) if name == "hue" else (0.6, 1.0, 1.4):
        expected = apply_as_published(pixels, dataclasses.replace(STILL, colours=((name, factor),)))
        assert torch.allclose(views.ADJUST[name](pixels, factor), expected, atol=2e-6)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [(32, 32), (33, 33), (24, 40), (31, 20)])
def test_moving_needs_no_padding(size, view, pixels):
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = reference.center_crop(move_as_published(pixels, view), list(size))
    found = move(pixels, dataclasses.replace(view, flip=False))
    assert torch.allclose(found, expected, atol=2e-5)
    assert torch.allclose(move(pixels, view), expected.flip(-1) if view.flip else expected, atol=2e-5)


@pytest.mark.parametrize("sigma", [0.001, 0.1, 0.2, 0.34, 0.36, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_taps_that_are_left_out_make_no_difference(sigma, dtype, pixels):
    taps = blur_taps(sigma, dtype)
    half = len(taps) // 2
    assert taps == taps[::-1]
    assert sum(taps) == pytest.approx(1)
    expected = reference.gaussian_blur(pixels.to(dtype), 5, [sigma, sigma])
    inside = expected[..., half : 32 - half, half : 32 - half]
    assert torch.allclose(blur(pixels.to(dtype), taps), inside, atol=1e-6 if dtype == torch.float32 else 1e-14)


def test_small_blurs_need_fewer_taps():
    assert [len(blur_taps(sigma, torch.float32)) for sigma in (0.001, 0.1, 0.25, 0.5)] == [1, 1, 3, 5]


@pytest.mark.parametrize("view", VIEWS)
def test_the_whole_pipeline(view, pixels):
    assert torch.allclose(apply_view(pixels, view), apply_as_published(pixels, view), atol=5e-5)
    # In double precision too, but for the hue, which torchvision turns in single precision.
    double = pixels.double()
    assert torch.allclose(apply_view(double, view), apply_as_published(double, view), atol=2e-6)
    others = dataclasses.replace(view, colours=tuple(item for item in view.colours if item[0] != "hue"))
    assert torch.allclose(apply_view(double, others), apply_as_published(double, others), rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_views_of_any_shape(seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(2, 3, 20 + 3 * seed, 36 - 2 * seed, generator=generator, dtype=torch.float64)
    view = draw_view(*pixels.shape[-2:], generator)
    assert torch.allclose(apply_view(pixels, view), apply_as_published(pixels, view), atol=2e-6)


def test_what_is_drawn_fills_the_published_ranges():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_view(224, 160, generator) for _ in range(2000)]
    ranges = [([dict(view.colours)[name] for view in drawn], low, high) for name, low, high in views.COLOURS]
    ranges += [
        ([view.angle for view in drawn], -15, 15),
        ([view.scale for view in drawn], 0.9, 1.1),
        ([view.blur for view in drawn], 0.001, 0.5),
        ([view.shift[0] for view in drawn], -20, 20),
        ([view.shift[1] for view in drawn], -28, 28),
    ]
    for values, low, high in ranges:
        assert low <= min(values) < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < max(values) <= high
        assert sum(values) / len(values) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert sum(view.flip for view in drawn) == pytest.approx(1000, abs=100)
    orders = [tuple(name for name, _ in view.colours) for view in drawn]
    assert len(set(orders)) == 120
    assert max(orders.count(order) for order in set(orders)) < 45


def test_noise_is_added_last_and_the_result_clipped(pixels, monkeypatch):
    view = dataclasses.replace(STILL, colours=(("brightness", 0.5),))
    monkeypatch.setattr(views, "draw_view", lambda *_: view)
    pixels = torch.full((4, 3, 64, 64), 1.5)
    pixels[2:] = -0.5
    found = random_view(pixels, torch.Generator().manual_seed(0))
    assert float(found[:2].mean()) == pytest.approx(0.5, abs=1e-3)  # Clipped before it was darkened.
    assert float(found[:2].std()) == pytest.approx(0.005, rel=0.02)
    assert not torch.equal(found[0], found[1])
    assert float(found.min()) == 0
    assert float((found[2:] == 0).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_one_draw_serves_the_whole_batch_and_leaves_the_images(pixels, monkeypatch):
    monkeypatch.setattr(views, "NOISE", 0.0)
    before = pixels.clone()
    same = pixels[:1].expand(5, -1, -1, -1)
    found = random_view(same, torch.Generator().manual_seed(1))
    assert torch.equal(found, found[:1].expand_as(found))
    assert torch.equal(random_view(pixels, torch.Generator().manual_seed(1))[:1], found[:1])
    assert not torch.equal(random_view(pixels, torch.Generator().manual_seed(2))[:1], found[:1])
    assert torch.equal(pixels, before)


def mean_colour(images):
    return images.mean(dim=(2, 3))


def test_views_are_made_of_pixels_and_normalised_again(pixels):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    centre, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    seen = []

    def augment(pixels, generator):
        seen.append(pixels)
        return pixels * 0.5

    images = (pixels - centre) / spread
    logits = predict_views(mean_colour, images, 3, torch.Generator(), mean=mean, std=std, augment=augment)
    assert logits.shape == (3, 5, 3)
    assert torch.allclose(seen[0], pixels, atol=1e-6)
    assert torch.allclose(logits[2], mean_colour((0.5 * pixels - centre) / spread), atol=1e-5)


def test_without_a_normalisation_what_is_given_is_clipped_as_released(pixels):
    images = 4 * pixels - 2
    found = predict_views(lambda x: x.flatten(1), images, 2, torch.Generator(), mean=(0,) * 3, std=(1,) * 3)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("images_at_once", [1, 10, 12, 1000])
def test_forwards_of_any_size_give_the_same(images_at_once, pixels):
    sizes = []

    def network(images):
        sizes.append(len(images))
        return mean_colour(images)

    def run(images_at_once):
        return predict_views(
            network, pixels.requires_grad_(), 5, torch.Generator().manual_seed(3), mean=(0.5,) * 3, std=(0.5,) * 3,
            images_at_once=images_at_once,
        )  # fmt: skip

    expected = run(5)
    sizes.clear()
    found = run(images_at_once)
    assert sizes == {1: [5] * 5, 10: [10, 10, 5], 12: [10, 10, 5], 1000: [25]}[images_at_once]
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.equal(found[0], found[1])
    assert not found.requires_grad


def test_a_normalised_view_is_made_of_pixels():
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (CONTEXT.mean, CONTEXT.std))
    expected = random_view(pixels, torch.Generator().manual_seed(5))
    found = normalised_view((pixels - mean) / std, CONTEXT, torch.Generator().manual_seed(5))
    assert torch.allclose(found * std + mean, expected, atol=1e-9)
    assert float((expected - pixels).abs().mean()) > 1e-3


def test_normalised_images_are_left_as_they_are():
    images = torch.rand(2, 3, 32, 32)
    before = images.clone()
    found = normalised_view(images, CONTEXT, torch.Generator(), lambda pixels, _: pixels.clone())
    assert torch.allclose(found, images, atol=1e-6)
    assert torch.equal(images, before)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_graph_goes_through_a_view(seed):
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not normalised_view(images, Context(10), torch.Generator().manual_seed(seed)).requires_grad
