"""The views of AugMix: each operation against PIL, draws against their distributions, mixtures by hand."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional as vision

from tta_core.methods.memo import augmix
from tta_core.methods.memo.augmix import OPERATIONS, Draws, draw_views, make_views

LEVELS = (0.1, 0.9, 3.0, 7.7, 9.99)
EXACT = ("autocontrast", "equalize", "posterize", "solarize", "translate_x", "translate_y")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[(32, 32), (48, 31)], ids=["square", "tall"])
def pictures(request):
    """Noise, a slope, a single value, noise of few values: whole numbers from 0 to 255."""
    height, width = request.param
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    noise = torch.randint(0, 256, (3, height, width), generator=generator()).float()
    slope = torch.stack([255 * x, 200 * y, 100 * (x + y)]).round()
    return torch.stack([noise, slope, torch.full_like(noise, 7), (noise / 5).floor() + 90])


def as_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).byte().numpy())


def from_pil(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def with_pil(name, image, level, backwards):
    """The operation of AugMix as its authors made it of PIL's."""
    sign = -1 if backwards else 1
    shear = sign * level * 0.3 / 10
    right, down = (sign * int(level * side / 3 / 10) for side in image.size)
    coefficients = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, right, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, down),
    }
    if name in coefficients:
        transform = Image.Transform.AFFINE
        return image.transform(image.size, transform, coefficients[name], resample=Image.Resampling.BILINEAR)
    if name == "rotate":
        return image.rotate(sign * int(level * 30 / 10), resample=Image.Resampling.BILINEAR)
    if name == "posterize":
        return ImageOps.posterize(image, 4 - int(level * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(image, 256 - int(level * 256 / 10))
    return getattr(ImageOps, name)(image)


def applied(name, pictures, level, backwards=False):
    changed, count = pictures.clone(), len(pictures)
    operations = torch.full((count,), OPERATIONS.index(name))
    levels = torch.full((count,), level, dtype=torch.float64)
    augmix.apply(changed, operations, levels, torch.full((count,), backwards))
    return changed


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_agree_with_pil(name, level, backwards, pictures):
    ours = applied(name, pictures, level, backwards)
    theirs = torch.stack([from_pil(with_pil(name, as_pil(picture), level, backwards)) for picture in pictures])
    difference = (ours - theirs).abs()
    # PIL interpolates in double precision and cuts off what is behind the point: at a whole number one may differ.
    assert difference.max() <= (0 if name in EXACT else 1)
    assert (difference > 0).float().mean() < 0.005


def test_operations_without_parameters_agree_with_torchvision(pictures):
    for name in ("autocontrast", "equalize"):
        theirs = getattr(vision, name)(pictures.byte()).float()
        assert (applied(name, pictures, 1.0) - theirs).abs().max() <= 1
    assert torch.equal(applied("solarize", pictures, 5.0), vision.solarize(pictures.byte(), 128).float())
    assert torch.equal(applied("posterize", pictures, 1.0), vision.posterize(pictures.byte(), 4).float())


def test_each_image_gets_its_own_operation_and_level(pictures):
    operations = torch.tensor(
        [-1, OPERATIONS.index("rotate"), OPERATIONS.index("solarize"), OPERATIONS.index("rotate")]
    )
    levels = torch.tensor([9.0, 4.0, 9.99, 9.0], dtype=torch.float64)
    backwards = torch.tensor([False, True, False, False])
    together = pictures.clone()
    augmix.apply(together, operations, levels, backwards)
    assert torch.equal(together[0], pictures[0])
    for number in (1, 2, 3):
        name = OPERATIONS[operations[number]]
        alone = applied(name, pictures[number : number + 1], float(levels[number]), bool(backwards[number]))
        assert torch.equal(together[number], alone[0])


def test_a_resized_box_agrees_with_pil(pictures):
    height, width = pictures.shape[-2:]
    boxes = [(0, 0, width, height), (3, 5, 11, 20), (width - 9, height - 7, 9, 7), (2, 1, 4, 3)]
    draws = blank(len(pictures), 1)
    draws.boxes[:, 0] = torch.tensor(boxes)
    ours = (255 * make_views(pictures / 255, draws)[:, 0]).round()
    for picture, (left, top, wide, high), found in zip(pictures, boxes, ours, strict=True):
        area = (left, top, left + wide, top + high)
        # Enlarged, a box of pixels is not smoothed, and nothing from beyond shines in.
        theirs = as_pil(picture).crop(area).resize((width, height), Image.Resampling.BILINEAR)
        assert (found - from_pil(theirs)).abs().max() <= 1


def test_a_padded_window_is_moved_with_black_beside_it():
    pictures = torch.full((2, 3, 8, 8), 200.0)
    draws = blank(2, 1, (8, 8))
    draws.boxes[0, 0] = torch.tensor([-3, 2, 8, 8])
    draws.flips[1] = True
    pictures[1, :, :, 0] = 0
    made = (255 * make_views(pictures / 255, draws)[:, 0]).round()
    expected = torch.full((3, 8, 8), 200.0)
    expected[:, :, :3] = 0
    expected[:, 6:] = 0
    assert torch.equal(made[0], expected)
    assert torch.equal(made[1], pictures[1].flip(-1))


def blank(images, views, size=None):
    """Draws of views that are the images themselves; boxes are set by the caller if the size is not given."""
    shape = (images, views)
    boxes = torch.zeros(*shape, 4, dtype=torch.float64)
    if size is not None:
        boxes[:] = torch.tensor([0, 0, size[1], size[0]])
    return Draws(
        boxes=boxes,
        flips=torch.zeros(shape, dtype=torch.bool),
        operations=torch.full((*shape, 3, 3), -1),
        levels=torch.ones(*shape, 3, 3, dtype=torch.float64),
        backwards=torch.zeros(*shape, 3, 3, dtype=torch.bool),
        weights=torch.full((*shape, 3), 1 / 3, dtype=torch.float64),
        original=torch.ones(shape, dtype=torch.float64),
    )


def test_views_mix_their_chains_and_the_image(pictures):
    draws = blank(len(pictures), 2, pictures.shape[-2:])
    assert torch.allclose(make_views(pictures / 255, draws)[:, 1], pictures / 255)
    draws.operations[:, 1, 0, 0] = OPERATIONS.index("solarize")
    draws.operations[:, 1, 2, :2] = torch.tensor([OPERATIONS.index("rotate"), OPERATIONS.index("equalize")])
    draws.levels[:, 1] = 6.0
    draws.weights[:, 1] = torch.tensor([0.5, 0.2, 0.3])
    draws.original[:, 1] = 0.25
    made = 255 * make_views(pictures / 255, draws)
    first = applied("solarize", pictures, 6.0)
    third = applied("equalize", applied("rotate", pictures, 6.0), 6.0)
    expected = 0.25 * pictures + 0.75 * (0.5 * first + 0.2 * pictures + 0.3 * third)
    assert torch.allclose(made[:, 0], pictures, atol=1e-3)
    assert torch.allclose(made[:, 1], expected, atol=1e-3)


def test_images_are_clipped_and_rounded_to_8_bits():
    pixels = torch.tensor([-0.5, 0.1, 0.1 + 0.4 / 255, 1.5]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    made = make_views(pixels, blank(1, 1, (2, 2)))[0, 0, 0]
    assert torch.allclose(255 * made.flatten(), torch.tensor([0.0, 26.0, 26.0, 255.0]), atol=1e-4)


@pytest.mark.parametrize("crop", ["none", "resized", "padded"])
def test_views_do_not_depend_on_how_images_are_divided(crop, pictures):
    size = pictures.shape[-2:]
    options = {"severity": 5.0, "crop": crop, "flip": True}
    one, other = generator(1), generator(1)
    together = make_views(pictures / 255, draw_views(len(pictures), 5, size, one, **options))
    apart = [make_views(picture[None] / 255, draw_views(1, 5, size, other, **options)) for picture in pictures]
    assert torch.equal(together, torch.cat(apart))
    assert together.isfinite().all()
    assert together.min() >= 0
    assert together.max() <= 1
    assert torch.equal(one.get_state(), other.get_state())


def test_draws_follow_their_distributions():
    draws = draw_views(40, 100, (32, 40), generator(), severity=3.0, crop="resized", flip=True)
    length = (draws.operations >= 0).sum(dim=-1)
    assert [(length == number).float().mean().item() for number in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.02)
    # The steps that are taken are the first ones.
    assert ((draws.operations >= 0).int().diff(dim=-1) <= 0).all()
    counts = draws.operations[draws.operations >= 0].bincount(minlength=len(OPERATIONS))
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 9] * 9, abs=0.01)
    assert draws.levels.min() >= 0.1
    assert 2.9 < draws.levels.max() <= 3
    assert draws.levels.mean().item() == pytest.approx(1.55, abs=0.02)
    assert draws.backwards.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert draws.flips.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.allclose(draws.weights.sum(dim=-1), torch.ones(40, 100, dtype=torch.float64))
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18; Beta(1, 1): mean 1/2, variance 1/12.
    assert draws.weights.mean(dim=(0, 1)).tolist() == pytest.approx([1 / 3] * 3, abs=0.015)
    assert draws.weights.var().item() == pytest.approx(1 / 18, abs=0.004)
    assert draws.original.mean().item() == pytest.approx(0.5, abs=0.02)
    assert draws.original.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_resized_boxes_lie_in_the_image_with_areas_and_ratios_in_range():
    boxes = draw_views(40, 100, (32, 40), generator(), crop="resized").boxes
    left, top, wide, high = boxes.unbind(-1)
    assert min(left.min(), top.min()) >= 0
    assert (left + wide).max() <= 40
    assert (top + high).max() <= 32
    share = wide * high / (32 * 40)
    assert 0.06 < share.min() < 0.1
    assert 0.9 < share.max() <= 1
    ratio = wide / high
    assert 0.65 < ratio.min() < 0.9
    assert 1.1 < ratio.max() < 1.5
    assert torch.equal(boxes, boxes.round())


def test_padded_windows_go_four_pixels_in_all_directions():
    boxes = draw_views(40, 100, (32, 40), generator(), crop="padded").boxes
    for corner in boxes[..., :2].unbind(-1):
        assert set(corner.flatten().tolist()) == set(range(-4, 5))
    assert torch.equal(boxes[..., 2:].flatten(0, 1).unique(dim=0), torch.tensor([[40.0, 32.0]], dtype=torch.float64))


def test_without_crop_and_flip_the_whole_image_is_kept():
    draws = draw_views(3, 4, (32, 40), generator())
    assert not draws.flips.any()
    assert draws.boxes.flatten(0, 1).unique(dim=0).tolist() == [[0, 0, 40, 32]]
