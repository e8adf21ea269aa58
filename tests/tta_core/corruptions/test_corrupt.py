"""The corruptions against what is published, and what callers rely on."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.tta_core.corruptions.photographs import NAMES as STATISTICS
from tests.tta_core.corruptions.photographs import photographs, statistics_of
from tta_core.corruptions.corrupt import corrupt
from tta_core.corruptions.strengths import LADDERS, NAMES, SEVERITIES, Ladder, ladder_for
from tta_core.errors import InputError

SIZES = {"imagenet": 224, "cifar": 32}


def published() -> dict[tuple[str, str, int], dict[str, float]]:
    """Statistics of the published definitions on the same photographs.

    Printed once by the functions of ImageNet-C/create_c (hendrycks/robustness, `make_imagenet_c.py` and
    `make_cifar_c.py`), run with OpenCV 5.0, scikit-image 0.26, ImageMagick 6.9.11 and the published photographs of
    frost: means over 5 to 80 runs, and the deviation from run to run.
    """
    with Path(__file__).with_name("published_statistics.csv").open() as file:
        return {
            (row["ladder"], row["corruption"], int(row["severity"])): {
                name: float(row[name]) for name in row if row[name] and name not in ("ladder", "corruption", "severity")
            }
            for row in csv.DictReader(file)
        }


PUBLISHED = published()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ladder", LADDERS)
def test_moments_and_spectra_are_those_of_the_published_scripts(ladder: Ladder, name: str) -> None:
    images = photographs(SIZES[ladder])
    for severity in SEVERITIES:
        expected = PUBLISHED[ladder, name, severity]
        found = statistics_of(corrupt(images, name, severity, keys=range(len(images)), ladder=ladder))
        for statistic in STATISTICS:
            if statistic not in expected:
                continue
            # By how much the published output differs from run to run, and what cutting levels off makes of it.
            chance = 4 * expected[f"{statistic}_deviation"]
            exact = 0.06 if statistic.startswith("power") else 0.15
            assert found[statistic] == pytest.approx(expected[statistic], abs=chance + exact), (severity, statistic)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_the_same_bytes_in_any_batch_and_with_any_threads(name: str) -> None:
    images = photographs(32)[:7]
    together = corrupt(images, name, 3, keys=range(7))
    alone = corrupt(images[4:5], name, 3, keys=[4])
    with ThreadPoolExecutor(3) as pool:
        pooled = corrupt(images[::-1], name, 3, keys=range(6, -1, -1), pool=pool)
    assert (alone[0] == together[4]).all()
    assert (pooled[::-1] == together).all()


@pytest.mark.parametrize("name", NAMES)
def test_images_of_any_size_are_corrupted(name: str) -> None:
    wide = photographs(224)[:1, :60, :91]
    made = corrupt(wide, name, 5, keys=[0], ladder="imagenet")
    assert made.shape == wide.shape
    assert (made != wide).any()
    again = corrupt(np.repeat(wide, 2, axis=0), name, 5, keys=[0, 0], ladder="imagenet")
    assert (again == made).all()


def test_seed_key_and_severity_change_the_random_choices() -> None:
    images = np.repeat(photographs(32)[:1], 2, axis=0)
    noisy = corrupt(images, "gaussian_noise", 1, keys=[0, 1])
    assert (noisy[0] != noisy[1]).any()
    assert (corrupt(images, "gaussian_noise", 1, keys=[0, 1], seed=1) != noisy).any()


def test_damage_grows_with_severity() -> None:
    images = photographs(224)[:2]
    for name in ("gaussian_noise", "defocus_blur", "contrast", "jpeg_compression"):
        damage = [
            np.abs(corrupt(images, name, severity, keys=[0, 1]).astype(float) - images).mean()
            for severity in SEVERITIES
        ]
        assert damage == sorted(damage), name


def test_a_flat_image_stays_flat_under_blur() -> None:
    flat = np.full((1, 64, 64, 3), 100, dtype=np.uint8)
    for name in ("gaussian_blur", "zoom_blur", "glass_blur", "motion_blur", "pixelate", "contrast"):
        assert (corrupt(flat, name, 5, keys=[0]) == 100).all(), name


def test_strengths_follow_the_size() -> None:
    assert ladder_for(32, 32) == "cifar"
    assert ladder_for(224, 300) == "imagenet"
    small = photographs(32)[:1]
    assert (corrupt(small, "contrast", 1, keys=[0]) == corrupt(small, "contrast", 1, keys=[0], ladder="cifar")).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gausian_noise"}, "Did you mean 'gaussian_noise'"),
        ({"severity": 6}, "severity 6 is not allowed: give a whole number from 1 to 5"),
        ({"severity": True}, "severity True is not allowed"),
        ({"seed": -1}, "seed -1 is not allowed"),
        ({"images": np.zeros((1, 32, 32, 3))}, "float64 (1, 32, 32, 3): give uint8 of shape (n, height, width, 3)"),
        ({"images": np.zeros((1, 32, 32), np.uint8)}, "uint8 (1, 32, 32): give uint8"),
        ({"images": np.zeros((1, 32, 8, 3), np.uint8)}, "have 8x32 pixels: give at least 16"),
        ({"keys": [0, 1]}, "2 keys for 1 images"),
        ({"keys": [-1]}, "give each a number that is not negative"),
        ({"ladder": "cifra"}, "Did you mean 'cifar'"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, object], message: str) -> None:
    given = {"images": photographs(32)[:1], "name": "contrast", "severity": 1, "keys": [0]} | change
    with pytest.raises(InputError) as raised:
        corrupt(given.pop("images"), given.pop("name"), given.pop("severity"), **given)  # type: ignore[arg-type]
    assert message in str(raised.value)


def test_no_image_gives_no_image() -> None:
    assert corrupt(photographs(32)[:0], "fog", 1, keys=[]).shape == (0, 32, 32, 3)
