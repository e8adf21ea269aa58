"""Every corruption: shape, determinism per image, and errors."""

import numpy as np
import pytest

from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.data.sources import digits_kernels as kernels
from tta_core.data.sources.digits import load_digits
from tta_core.data.sources.digits_corruptions import BLOCK, corrupt
from tta_core.errors import InputError

ALL = (*CORRUPTIONS, *HELD_OUT_CORRUPTIONS)
RANDOM = set(ALL) - {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
}
COUNT = BLOCK + 9

# Mean and standard deviation of the grey levels of the first 137 test images at severity 4, seed 0. A change here means
# other images: raise the version of digits-c in the benchmark table and measure the accuracies again.
FINGERPRINTS = {
    "gaussian_noise": (80.65, 90.47),
    "shot_noise": (41.32, 82.83),
    "impulse_noise": (77.02, 104.04),
    "defocus_blur": (50.95, 56.28),
    "glass_blur": (50.95, 67.62),
    "motion_blur": (50.45, 61.82),
    "zoom_blur": (86.35, 68.65),
    "snow": (116.48, 81.81),
    "frost": (100.91, 71.56),
    "fog": (84.27, 48.88),
    "brightness": (142.11, 61.38),
    "contrast": (50.95, 33.75),
    "elastic_transform": (53.02, 77.48),
    "pixelate": (50.98, 73.70),
    "jpeg_compression": (52.54, 76.52),
    "speckle_noise": (44.29, 81.66),
    "spatter": (49.03, 64.47),
    "gaussian_blur": (50.95, 54.47),
    "saturate": (23.10, 50.28),
}


@pytest.fixture(scope="module")
def digits():
    return load_digits("test")[0][:COUNT]


@pytest.fixture(scope="module")
def corrupted(digits):
    made = {}

    def make(name, severity=4):
        if (name, severity) not in made:
            made[name, severity] = corrupt(digits, name, severity, seed=0, indices=np.arange(COUNT))
        return made[name, severity]

    return make


@pytest.mark.parametrize("name", ALL)
def test_the_result_is_8_bit_images_of_the_same_shape(name, digits, corrupted):
    result = corrupted(name)
    assert result.shape == digits.shape
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert not np.array_equal(result, digits)


@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_depend_on_the_others(name, digits, corrupted):
    whole = corrupted(name)
    order = np.random.default_rng(1).permutation(COUNT)[:70]
    assert np.array_equal(corrupt(digits[order], name, 4, seed=0, indices=order), whole[order])
    for index in (0, BLOCK, COUNT - 1):
        alone = corrupt(digits[index : index + 1], name, 4, seed=0, indices=np.array([index]))
        assert np.array_equal(alone[0], whole[index])


@pytest.mark.parametrize("name", ALL)
def test_seed_severity_and_index_choose_the_randomness(name, digits):
    same = np.repeat(digits[:1], 2, axis=0)
    pair = corrupt(same, name, 4, seed=0, indices=np.array([0, 1]))
    other_seed = corrupt(same, name, 4, seed=1, indices=np.array([0, 1]))
    assert (not np.array_equal(pair[0], pair[1])) == (name in RANDOM)
    assert (not np.array_equal(pair, other_seed)) == (name in RANDOM)


@pytest.mark.parametrize("name", ALL)
def test_the_images_are_those_of_this_version(name, corrupted):
    mean, deviation = FINGERPRINTS[name]
    assert corrupted(name).mean() == pytest.approx(mean, abs=0.05)
    assert corrupted(name).std() == pytest.approx(deviation, abs=0.05)


def test_the_input_is_left_alone(digits):
    before = digits.copy()
    for name in ALL:
        corrupt(digits[:2], name, 5, seed=0, indices=np.arange(2))
    assert np.array_equal(before, digits)


@pytest.mark.parametrize("name", ALL)
def test_colour_images_and_extremes_stay_in_range(name):
    noise = np.random.default_rng(0).integers(0, 256, size=(4, 32, 32, 3), dtype=np.uint8)
    extremes = np.stack([np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)])
    images = np.concatenate([noise, extremes])
    for severity in (1, 5):
        with np.errstate(all="raise", under="ignore"):
            assert corrupt(images, name, severity, seed=3, indices=np.arange(6)).shape == images.shape


@pytest.mark.parametrize("name", ALL)
def test_no_images_give_no_images(name):
    none = np.empty((0, 32, 32, 3), np.uint8)
    assert corrupt(none, name, 1, seed=0, indices=np.empty(0, np.int64)).shape == none.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "gausian_noise"}, "Did you mean 'gaussian_noise'"),
        ({"severity": 0}, "severity 0 .* from 1 to 5"),
        ({"severity": 6}, "severity 6"),
        ({"severity": 2.5}, "severity 2.5"),
        ({"severity": True}, "severity True"),
        ({"seed": -1}, "seed -1"),
        ({"indices": np.arange(3)}, "shape .3,."),
        ({"indices": np.array([0, -1])}, "not negative"),
        ({"indices": np.array([0.0, 1.0])}, "float64"),
        ({"images": np.zeros((2, 32, 32, 3))}, "float64"),
        ({"images": np.zeros((2, 28, 28, 3), np.uint8)}, "2, 28, 28, 3"),
    ],
)
def test_a_wrong_argument_is_an_input_error(changes, message):
    arguments = {
        "images": np.zeros((2, 32, 32, 3), np.uint8),
        "name": "fog",
        "severity": 1,
        "seed": 0,
        "indices": np.arange(2),
    }
    with pytest.raises(InputError, match=message):
        corrupt(**{**arguments, **changes})


def test_a_disc_weighs_one_and_is_symmetric():
    kernel = kernels.disc_kernel(2.6)
    assert kernel.shape == (7, 7)
    assert kernel.sum() == pytest.approx(1)
    assert np.allclose(kernel, kernel.T)
    assert np.allclose(kernel, kernel[::-1])


def test_blurs_agree_with_scipy():
    from scipy import ndimage

    images = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    wanted = ndimage.gaussian_filter(images, (0, 0, 1.7, 1.7))
    assert np.allclose(kernels.gaussian_blur(images, 1.7), wanted, atol=1e-5)
    disc = ndimage.correlate(images[0, 0], kernels.disc_kernel(3.5))
    assert np.allclose(kernels.defocus_blur(images, 3.5)[0, 0], disc, atol=1e-5)


def test_sampling_agrees_with_scipy():
    from scipy import ndimage

    generator = np.random.default_rng(0)
    images = generator.random((1, 1, 32, 32), dtype=np.float32)
    rows, columns = generator.uniform(-5, 36, (2, 1, 32, 32)).astype(np.float32)
    wanted = ndimage.map_coordinates(images[0, 0], [rows[0], columns[0]], order=1, mode="reflect")
    assert np.allclose(kernels.sample_bilinear(images, rows, columns)[0, 0], wanted, atol=1e-4)


def test_shuffling_moves_pixels_and_loses_none():
    images = np.arange(2 * 1024, dtype=np.float32).reshape(2, 1, 32, 32)
    positions = len(kernels.shuffled_places(32, 32, 2))
    steps = np.random.default_rng(0).integers(-2, 2, size=(2, 1, positions, 2))
    shuffled = kernels.shuffle_nearby(images, steps, 2)
    assert np.array_equal(np.sort(shuffled.reshape(2, -1)), images.reshape(2, -1))
    assert not np.array_equal(shuffled, images)


def test_saturation_of_colour_is_that_of_hsv():
    import colorsys

    images = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    result = kernels.scale_saturation(images, 0.5, 0.1)
    for pixel, given in zip(result[0].reshape(3, -1).T[:50], images[0].reshape(3, -1).T[:50], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*given.tolist())
        wanted = colorsys.hsv_to_rgb(hue, min(1.0, saturation * 0.5 + 0.1), value)
        assert np.allclose(pixel, wanted, atol=1e-4)
