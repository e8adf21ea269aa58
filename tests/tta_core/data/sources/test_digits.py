"""The digits and the domains made from them."""

import numpy as np
import pytest

from tests.tta_core.opening import trial_images
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.data.sources import embedded as digits_c
from tta_core.data.sources.digits import load_digits
from tta_core.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path))
    return tmp_path


def load(name, severity, *, data_seed=0):
    return trial_images(BENCHMARKS["digits-c"], name, severity, data_seed=data_seed)


@pytest.mark.parametrize(("split", "count"), [("train", 898), ("test", 899)])
def test_a_split_has_the_promised_images(split, count):
    images, labels = load_digits(split)
    assert images.shape == (count, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.shape == (count,)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(10))
    assert (images[..., 0] == images[..., 1]).all()
    assert (images[..., 0] == images[..., 2]).all()
    assert images.max() == 255
    # The padding keeps the outermost pixels nearly black.
    assert images[:, [0, -1]].mean() < 2


def test_the_splits_share_no_image():
    train, test = load_digits("train")[0], load_digits("test")[0]
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


def test_an_unknown_split_is_an_input_error():
    with pytest.raises(InputError, match="Did you mean 'train'"):
        load_digits("trian")


def test_clean_is_the_test_split_whatever_the_severity(cache):
    images, labels = load("clean", 3)
    expected_images, expected_labels = load_digits("test")
    assert np.array_equal(images, expected_images)
    assert np.array_equal(labels, expected_labels)
    assert labels.dtype == np.int64
    load("clean", 5)
    assert len(list(cache.glob("*clean*.npy"))) == 1


def test_a_domain_is_built_once_and_read_only(cache, monkeypatch):
    first, _ = load("contrast", 4)
    assert first.shape == (BENCHMARKS["digits-c"].images_per_domain, 32, 32, 3)
    assert not first.flags.writeable

    def forbidden(*_, **__):
        raise AssertionError("built twice")

    monkeypatch.setattr(digits_c, "corrupt", forbidden)
    monkeypatch.setattr(digits_c, "load_digits", forbidden)
    again, labels = load("contrast", 4)
    assert np.array_equal(first, again)
    assert labels.shape == (899,)


def test_severity_and_data_seed_give_other_images(cache):
    base = load("impulse_noise", 4)[0]
    assert not np.array_equal(base, load("impulse_noise", 5)[0])
    assert not np.array_equal(base, load("impulse_noise", 4, data_seed=1)[0])


@pytest.mark.parametrize(
    ("domain", "severity", "data_seed", "message"),
    [
        ("fogg", 3, 0, "Did you mean 'fog'"),
        ("fog", 6, 0, "severity 6"),
        ("fog", 0, 0, "from 1 to 5"),
        ("fog", 3, -1, "data seed -1"),
    ],
)
def test_a_domain_that_is_not_there_is_an_input_error(cache, domain, severity, data_seed, message):
    with pytest.raises(InputError, match=message):
        load(domain, severity, data_seed=data_seed)
