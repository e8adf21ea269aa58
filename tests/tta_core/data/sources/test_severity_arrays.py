"""Arrays with all severities of a corruption: the right rows, and what is said when a file is wrong."""

import numpy as np
import pytest

from tests.tta_core.opening import trial_images
from tta_core.data.benchmarks import CLEAN
from tta_core.errors import InputError


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_severity_is_its_rows(severity, arrays, tmp_path):
    images, labels = trial_images(arrays, "snow", severity)
    whole = np.load(tmp_path / "tiny10-c/snow.npy")
    assert (images == whole[6 * (severity - 1) : 6 * severity]).all()
    assert isinstance(images, np.memmap)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert labels.dtype == np.int64


def test_labels_may_be_there_once(arrays, tmp_path):
    np.save(tmp_path / "tiny10-c/labels.npy", np.array([2, 1, 0, 2, 1, 0]))
    assert trial_images(arrays, "fog", 4)[1].tolist() == [2, 1, 0, 2, 1, 0]


def test_clean_images_have_a_file_of_their_own(arrays, tmp_path):
    images, labels = trial_images(arrays, CLEAN, 5)
    assert (images == np.load(tmp_path / "tiny10-c/clean.npy")).all()
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("fog", np.zeros((29, 8, 8, 3), np.uint8), r"uint8 of shape \(29, 8, 8, 3\), not uint8 of shape \(30, height"),
        ("fog", np.zeros((30, 8, 8, 3), np.float32), "holds float32 of shape"),
        ("fog", np.zeros((30, 3, 8, 8), np.uint8), r"of shape \(30, 3, 8, 8\)"),
        ("fog", np.zeros((6, 8, 8, 3), np.uint8), "one severity alone does not say which it is"),
        ("labels", np.zeros(7, np.uint8), r"labels.npy holds uint8 of shape \(7,\), not 6 or 30 integers"),
        ("labels", np.zeros(6), "labels.npy holds float64"),
        ("labels", np.full(6, 3), "labels outside 0 to 2"),
        ("labels", np.full(6, -1), "labels outside 0 to 2"),
    ],
)
def test_a_wrong_array_is_refused(file, content, message, arrays, tmp_path):
    np.save(tmp_path / f"tiny10-c/{file}.npy", content)
    with pytest.raises(InputError, match=message):
        trial_images(arrays, "fog", 5)


def test_labels_of_another_benchmark_are_refused(arrays, tmp_path):
    counted = arrays.model_copy(update={"images_per_class": 2})
    assert len(trial_images(counted, "fog", 5)[1]) == 6
    np.save(tmp_path / "tiny10-c/labels.npy", np.array([0, 1, 1, 0, 1, 1]))
    with pytest.raises(InputError, match=r"labels.npy has 4 images of the class 1, not 2"):
        trial_images(counted, "fog", 5)


def test_a_file_that_is_missing_or_damaged_is_named(arrays, tmp_path):
    file = tmp_path / "tiny10-c/fog.npy"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"fog.npy cannot be read"):
        trial_images(arrays, "fog", 5)
    with file.open("wb") as archive:
        np.savez(archive, np.zeros((30, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"fog.npy cannot be read \(.* no .npy file"):
        trial_images(arrays, "fog", 5)
    # Objects would be unpickled.
    np.save(file, np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"fog.npy cannot be read"):
        trial_images(arrays, "fog", 5)
    file.unlink()
    with pytest.raises(InputError, match=r"fog.npy cannot be read \(No such file or directory\)\. .*example.org/tiny"):
        trial_images(arrays, "fog", 5)
