"""Images and label maps as files: what is read, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from tta_core.data.benchmarks import benchmark_spec
from tta_core.data.opened import ImageRequest
from tta_core.data.sources.segmentation_folders import CITYSCAPES_IDS
from tta_core.data.verify.verify import verify
from tta_core.errors import InputError


def write(folder, name, image_end, map_folder, map_end, labels, seed=0):
    """Writes an image and its label map."""
    height, width = labels.shape
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for where, end, content in ((folder, image_end, pixels), (map_folder, map_end, labels)):
        file = where / f"{name}{end}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(file)
    return pixels


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two images of fog, in the wrong order of creation, and one of Cityscapes with all ids."""
    monkeypatch.setenv("TTA_GRID_DATA", str(tmp_path))
    acdc = tmp_path / "acdc"
    for seed, name in enumerate(("GOPR2/GOPR2_frame_000001", "GOPR1/GOPR1_frame_000002")):
        labels = np.full((6, 10), seed, np.uint8)
        labels[0] = 255
        where = (acdc / "rgb_anon/fog/train", name, "_rgb_anon.png", acdc / "gt/fog/train")
        write(*where, "_gt_labelTrainIds.png", labels, seed)
    ids = np.full((8, 12), 7, np.uint8)
    ids[0], ids[1] = 33, 1
    streets = tmp_path / "cityscapes"
    where = (streets / "leftImg8bit/val", "bonn/bonn_000000_000019", "_leftImg8bit.png")
    write(*where, streets / "gtFine/val", "_gtFine_labelIds.png", ids)
    return tmp_path


def test_images_and_maps_come_sorted_and_whole(root):
    fog = ImageRequest(benchmark_spec("acdc"), crop="half").open("fog")
    assert list(fog.images.names) == ["GOPR1/GOPR1_frame_000002_rgb_anon.png", "GOPR2/GOPR2_frame_000001_rgb_anon.png"]
    assert fog.images.shape == (2, 6, 10, 3)
    assert fog.labels.shape == (2, 6, 10)
    maps = fog.labels[np.array([0, 1])]
    assert maps.dtype == np.uint8
    assert maps[:, 1, 0].tolist() == [1, 0]
    assert (maps[:, 0] == 255).all()


def test_all_ids_become_train_ids(root):
    clean = ImageRequest(benchmark_spec("acdc"), crop="half").open("clean")
    found = clean.labels[:1][0]
    assert (found[0] == 18).all()
    assert (found[1] == 255).all()
    assert (found[2:] == 0).all()
    assert len(CITYSCAPES_IDS) == 19


def test_the_cache_decodes_images_and_maps_once(root, monkeypatch, tmp_path):
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TTA_GRID_DECODE_CACHE", "1")
    request = ImageRequest(benchmark_spec("acdc"), crop="half")
    plain = request.open("fog", build=False)
    kept = request.open("fog", build=True)
    everything = np.arange(2)
    assert np.array_equal(plain.images[everything], kept.images[everything])
    assert np.array_equal(plain.labels[everything], kept.labels[everything])
    assert type(kept.labels) is type(kept.images) is not type(plain.labels)


def test_colours_and_other_sizes_and_other_numbers_are_named(root):
    file = root / "acdc/gt/fog/train/GOPR1/GOPR1_frame_000002_gt_labelTrainIds.png"
    request = ImageRequest(benchmark_spec("acdc"), crop="half")
    for content, message in (
        (np.zeros((6, 10, 3), np.uint8), "mode RGB: give one channel"),
        (np.full((6, 10), 40, np.uint8), "holds 40, which is neither a class"),
    ):
        Image.fromarray(content).save(file)
        with pytest.raises(InputError, match=message):
            request.open("fog").labels[:]
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(file)
    with pytest.raises(InputError, match="must have one size"):
        request.open("fog").labels[:]


def test_an_image_without_a_map_is_named(root):
    (root / "acdc/gt/fog/train/GOPR2/GOPR2_frame_000001_gt_labelTrainIds.png").unlink()
    with pytest.raises(InputError, match=r"1 images of fog have no label map .*GOPR2_frame_000001"):
        ImageRequest(benchmark_spec("acdc"), crop="half").open("fog")


def test_verify_counts_pairs_and_sizes(root):
    report = verify(benchmark_spec("acdc"), domains=["fog"], decode=True)
    (fog,) = [one for one in report.checked if one.domain == "fog"]
    assert (fog.expected, fog.found) == (400, 2)
    assert [one.kind for one in fog.problems] == ["missing images"]
    assert fog.found_classes == 2
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(
        root / "acdc/gt/fog/train/GOPR1/GOPR1_frame_000002_gt_labelTrainIds.png"
    )
    (root / "acdc/gt/fog/train/GOPR2/GOPR2_frame_000001_gt_labelTrainIds.png").unlink()
    report = verify(benchmark_spec("acdc"), domains=["fog"])
    (fog,) = [one for one in report.checked if one.domain == "fog"]
    kinds = {one.kind: one.text() for one in fog.problems}
    assert "GOPR2_frame_000001" in kinds["missing file"]
    assert "4x4" in kinds["wrong file"]
