"""Batched augmentation against torchvision's functions, image by image."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from tta_core.methods.common import augmentation
from tta_core.methods.common.augmentation import affine, augment, gaussian_blur

FACTORS = torch.tensor([0.7, 0.9, 1.0, 1.1, 1.3])


@pytest.fixture
def pixels():
    """Five images; in some the hue is undefined or two channels are the largest together."""
    pixels = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    pixels[0] = pixels[0, :1]
    pixels[1, :, :6] = 0
    pixels[2, 0] = pixels[2, 1]
    return pixels


@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"])
def test_each_image_is_adjusted_with_its_own_factor(name, pixels):
    factors = FACTORS - 1 if name == "adjust_hue" else FACTORS
    each = zip(pixels, factors.tolist(), strict=True)
    expected = torch.stack([getattr(reference, name)(image, factor) for image, factor in each])
    assert torch.allclose(getattr(augmentation, name)(pixels, factors), expected, atol=2e-6)


@pytest.mark.parametrize("sigma", [0.001, 0.3, 0.5, 2.0])
def test_blur(sigma, pixels):
    expected = reference.gaussian_blur(pixels, 5, [sigma, sigma])
    assert torch.allclose(gaussian_blur(pixels, torch.tensor(sigma)), expected, atol=1e-6)


@pytest.mark.parametrize("geometry", [0.05, 0.3, 0.5, 0.77, 0.999])
def test_geometry_is_that_of_padding_moving_and_cropping(geometry, pixels):
    size = pixels.shape[-1]
    shift, scale = 2 * size * geometry / 16, 1 + 0.2 * (geometry - 0.5)
    padded = reference.pad(pixels, size // 2, padding_mode="edge")
    moved = reference.affine(padded, 15 * geometry, [shift, shift], scale, [0.0, 0.0], InterpolationMode.NEAREST)
    found = affine(pixels, *(torch.tensor(value) for value in (15 * geometry, shift, scale)))
    assert torch.equal(found, reference.center_crop(moved, size))


def test_strengths_change_what_they_stand_for(pixels):
    def variants(geometry, colour, noise):
        strengths = torch.tensor([geometry, colour, noise])
        return augment(pixels[3:4].expand(400, -1, -1, -1), strengths, torch.Generator().manual_seed(0))

    still = variants(0.0, 0.0, 0.0)
    assert torch.equal(still, still[:1].expand_as(still))
    flipped = variants(0.3, 0.0, 0.0)
    share = (flipped[:, 0, 0, 0] != flipped[:, 0, 0, -1].mode().values).float().mean()
    assert 0.2 < min(float(share), 1 - float(share)) < 0.4
    assert variants(0.0, 1.0, 0.0).mean(dim=(2, 3)).std(dim=0).min() > 0.01
    noisy = variants(0.0, 0.0, 1.0)
    inside = (still > 0.1) & (still < 0.9)
    assert float((noisy - still)[inside].std()) == pytest.approx(0.02, rel=0.02)


def test_what_is_drawn_comes_from_the_generator_and_stays_in_range(pixels):
    strengths = torch.tensor([0.5, 0.9, 0.9])
    one, same, other = (augment(pixels, strengths, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 1


def test_double_precision_stays(pixels):
    found = augment(pixels.double(), torch.full((3,), 0.5), torch.Generator().manual_seed(0))
    assert found.dtype == torch.float64
