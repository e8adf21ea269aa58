"""Image files in class folders: which images, in which order, cut how, and what is said when they are not there."""

import io
import os
import shutil

import numpy as np
import pytest
import torchvision.transforms.functional as reference
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode

from tests.tta_core.opening import check_domain, stored_images
from tta_core.data.benchmarks import BENCHMARKS, CLEAN, IMAGENET_WNIDS
from tta_core.data.files.encoded import cropped, decoded
from tta_core.errors import InputError


def load(spec, domain="fog", severity=5, crop="center", size=32):
    return stored_images(spec, domain, severity, crop, size)


def mean_colour(image):
    return np.asarray(image, dtype=float).mean(axis=(0, 1))


def test_the_index_is_by_class_and_then_by_name(photographs):
    images, labels = load(photographs)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.names[:5] == [*(f"n01/image_{i}.JPEG" for i in range(4)), "n02/image_0.JPEG"]
    assert images.shape == (12, 32, 32, 3)


def test_the_pixels_are_those_of_the_file_of_that_domain_severity_and_number(photographs):
    for severity in (1, 5):
        images, _ = load(photographs, "snow", severity)
        # n02 is green: 200 plus 2 a number, less 5 a severity; JPEG may be off by little.
        found = images[np.array([6, 4])]
        assert found.dtype == np.uint8
        assert mean_colour(found[0])[1] == pytest.approx(204 - 5 * severity, abs=1.5)
        assert mean_colour(found[1])[1] == pytest.approx(200 - 5 * severity, abs=1.5)


def test_images_are_indexed_as_an_array_is(photographs):
    images, _ = load(photographs)
    assert len(images) == 12
    assert images[2:5].shape == (3, 32, 32, 3)
    assert (images[[3]] == images[3:4]).all()
    with pytest.raises(IndexError):
        images[np.array([12])]


def test_a_list_gives_its_images_in_its_order(listed_photographs):
    images, labels = load(listed_photographs)
    assert labels.tolist() == [1, 0, 2, 1, 2]
    assert images.names[0] == "n02/image_3.JPEG"


def test_clean_images_lie_elsewhere_and_are_resized_whatever_the_crop(photographs, listed_photographs):
    for spec, count in ((photographs, 12), (listed_photographs, 5)):
        images, labels = load(spec, CLEAN, crop="center")
        assert images.shape == (count, 32, 32, 3)
        assert images.crop == "resize-center"
        assert mean_colour(images[:1][0]).argmax() == labels[0]


@pytest.mark.parametrize("size", [(224, 224), (300, 257), (257, 300), (500, 375), (231, 231), (640, 225)])
@pytest.mark.parametrize("crop", ["center", "resize-center"])
def test_crops_are_those_of_torchvision(crop, size, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = expected = Image.fromarray(noise)
    if crop == "resize-center":
        expected = reference.resize(image, 256, InterpolationMode.BILINEAR)
    expected = reference.center_crop(expected, 224)
    found = cropped(image, crop, 224, tmp_path)
    assert (np.asarray(found) == np.asarray(expected)).all()


def test_a_crop_needs_enough_pixels(tmp_path):
    with pytest.raises(InputError, match="100x300 pixels, too few to cut 224x224 out: give crop: resize-center"):
        cropped(Image.new("RGB", (100, 300)), "center", 224, tmp_path)


def test_grey_images_have_three_channels(photographs, tmp_path):
    Image.new("L", (32, 32), 77).save(tmp_path / "photos-c/fog/5/n01/image_0.JPEG")
    images, _ = load(photographs)
    assert np.abs(images[:1].astype(int) - 77).max() <= 1


def test_grey_levels_of_sixteen_bits_become_eight(photographs, tmp_path):
    levels = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(levels).save(tmp_path / "photos-c/fog/5/n01/image_0.JPEG", format="PNG")
    images, _ = load(photographs)
    assert (images[0:1][0] == (levels >> 8)[:, :, None]).all()


def test_a_download_that_was_filled_up_with_zeros_is_damaged():
    content = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).save(content, format="JPEG")
    whole = content.getvalue()
    assert decoded(whole + b"what follows the end").size == (640, 427)
    for share in (0.5, 0.75, 0.9):
        with pytest.raises(ValueError, match="truncated"):
            decoded(whole[: int(share * len(whole))] + bytes(2**16))


@pytest.mark.parametrize("damage", ["cut short", "empty", "text", "gone"])
def test_a_damaged_image_is_named_and_never_left_out(damage, photographs, tmp_path):
    images, _ = load(photographs)
    file = tmp_path / "photos-c/fog/5/n02/image_1.JPEG"
    whole = file.read_bytes()
    file.write_bytes({"cut short": whole[: len(whole) // 2], "empty": b"", "text": b"no image"}.get(damage, whole))
    if damage == "gone":
        file.unlink()
    assert images[:5].shape == (5, 32, 32, 3)
    with pytest.raises(InputError, match=r"the image .*n02/image_1.JPEG cannot be (decoded|read) "):
        images[5:6]


def test_missing_classes_are_counted_and_named(photographs, tmp_path):
    for name in ("n01", "n03"):
        shutil.rmtree(tmp_path / "photos-c/fog/5" / name)
    with pytest.raises(
        InputError, match=r"photos-c/fog/5 has 1 of 3 class folders, without n01, n03 .*subset_file.*example.org"
    ):
        check_domain(photographs, "fog", 5)


def test_a_missing_image_is_counted_with_its_class(photographs, tmp_path):
    (tmp_path / "photos-c/fog/5/n02/image_2.JPEG").unlink()
    check_domain(photographs, "fog", 5)
    with pytest.raises(InputError, match=r"has 11 images, not 12; fewest in n02: 3"):
        load(photographs)


def test_other_files_are_no_images(photographs, tmp_path):
    for name in ("Thumbs.db", "._image_0.JPEG", ".image_9.jpg"):
        (tmp_path / "photos-c/fog/5/n02" / name).write_bytes(b"")
    assert len(load(photographs)[0]) == 12


def test_where_a_list_names_the_images_only_these_need_be_there(listed_photographs, tmp_path):
    list_file = tmp_path / listed_photographs.image_list
    list_file.write_text(list_file.read_text().replace("n01/image_0", "n02/image_1"))
    expected = load(listed_photographs)[0][:]
    shutil.rmtree(tmp_path / "photos-c/fog/5/n01")
    check_domain(listed_photographs, "fog", 5)
    assert (load(listed_photographs)[0][:] == expected).all()


@pytest.mark.parametrize("hidden", ["photos-c/fog/5", "photos-c/fog/5/n02"])
def test_folders_that_may_not_be_looked_at_are_named(hidden, photographs, tmp_path, monkeypatch):
    """With the system's answers replaced: the superuser may look at everything."""
    scanned = os.scandir

    def refusing(path):
        if str(path) == str(tmp_path / hidden):
            raise PermissionError(13, "Permission denied", str(path))
        return scanned(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=rf"{hidden} cannot be read \(Permission denied\): let yourself .* chmod -R u"):
        load(photographs)
    with pytest.raises(InputError, match=rf"{hidden} cannot be read \(Permission denied\)"):
        stored_images(photographs, "fog", 5, "center", 32, whole=False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["n01/image_0.JPEG"] * 5, "names 1 different images, not 5 once each"),
        ([f"n01/image_{i}.JPEG" for i in range(4)], "names 4 different images, not 5 once each; .*give subset_file ="),
        ([f"image_{i}.JPEG" for i in range(5)], r"5 lines that are no <class>/<file>: image_0.JPEG, .* and 2 more"),
        ([f"n01/../image_{i}.JPEG" for i in range(5)], "5 lines that are no <class>/<file>"),
        ([f"n01/image_{i}.JPEG" for i in range(5)], "lacks 1 listed images: n01/image_4.JPEG"),
    ],
)
def test_a_wrong_list_is_refused(lines, message, listed_photographs, tmp_path):
    (tmp_path / listed_photographs.image_list).write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        load(listed_photographs)


def test_what_is_missing_is_said_with_layout_source_and_licence(photographs, listed_photographs, tmp_path, monkeypatch):
    (tmp_path / listed_photographs.image_list).unlink()
    with pytest.raises(InputError, match=r"the list .*photos-c-5.txt cannot be read"):
        check_domain(listed_photographs, "fog", 5)
    with pytest.raises(InputError, match=r"folder .*photos-c/spatter/5 cannot be read \(No such file or directory\)"):
        check_domain(photographs, "spatter", 5)
    monkeypatch.setenv("TTA_GRID_DATA", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"TTA_GRID_DATA = .*none is no folder"):
        check_domain(photographs, "fog", 5)
    monkeypatch.delenv("TTA_GRID_DATA")
    told = r"TTA_GRID_DATA is not set\. .*imagenet-c/<corruption>/<severity>/<wnid>/\*.JPEG.*zenodo.*CC BY 4.0"
    with pytest.raises(InputError, match=told):
        check_domain(BENCHMARKS["imagenet-c"], "fog", 5)


def test_the_classes_of_imagenet_are_sorted_and_complete():
    assert len(set(IMAGENET_WNIDS)) == 1000
    assert list(IMAGENET_WNIDS) == sorted(IMAGENET_WNIDS)
    # Two well-known ones: tench is class 0, golden retriever 207.
    assert (IMAGENET_WNIDS[0], IMAGENET_WNIDS[207]) == ("n01440764", "n02099601")
