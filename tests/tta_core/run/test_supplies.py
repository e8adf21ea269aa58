"""What methods may need beyond the stream, for each kind of benchmark."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tta_core.data.benchmarks import BENCHMARKS, CLEAN
from tta_core.data.sources.digits import load_digits
from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES, SOURCE_IMAGES
from tta_core.run import supplies as module
from tta_core.run.available import check_available
from tta_core.run.config import RunConfig
from tta_core.run.images import load_domains, normalisation
from tta_core.run.supplies import HeldOutImages, LabelledSource, SourceImages

CPU = torch.device("cpu")


def config(**values):
    return RunConfig.from_values({"method": "source", "backbone": "colour-vit", **values})


def supply(kind, made):
    return kind(made, normalisation(made, CPU))


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "SUPPLY_BATCH", 5)


def test_source_images_are_clean_and_in_one_order_whatever_the_batch_size(photographs, colour_vit, monkeypatch):
    source = supply(SourceImages, config(benchmark="photos-c", batch_size=2))
    assert [len(batch) for batch in source] == [12]
    monkeypatch.setattr(module, "SUPPLY_BATCH", 5)
    assert [len(batch) for batch in source] == [5, 5, 2]
    assert all((one == other).all() for one, other in zip(source, source, strict=True))
    monkeypatch.setattr(module, "SOURCE_IMAGES_USED", 7)
    assert [len(batch) for batch in source] == [5, 2]


def test_source_images_of_arrays_are_the_clean_ones(arrays, colour_vit, tmp_path):
    made = config(benchmark="tiny10-c")
    (batch,) = supply(SourceImages, made)
    torch.testing.assert_close(batch, normalisation(made, CPU)(np.load(tmp_path / "tiny10-c/clean.npy")))


def test_training_images_of_the_digits_have_their_labels(small_batches):
    made = RunConfig.from_values({"method": "source"})
    images, labels = load_digits("train")
    normalise = normalisation(made, CPU)
    seen = torch.cat([own for _, own in LabelledSource(made, normalise)])
    assert sorted(seen.tolist()) == sorted(labels.tolist())
    first, own = next(iter(LabelledSource(made, normalise)))
    every = normalise(images).flatten(1)
    places = [int((every == image.flatten()).all(dim=1).nonzero()[0]) for image in first]
    assert labels[places].tolist() == own.tolist()


def test_training_folders_hold_any_number_of_images(photographs, colour_vit, tmp_path, monkeypatch):
    row = photographs.model_copy(update={"training_folder": "photos/train"})
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    made = config(benchmark="photos-c")
    with pytest.raises(InputError, match="photos/train cannot be read"):
        next(iter(supply(LabelledSource, made)))
    for number, name in enumerate(row.class_names):
        folder = tmp_path / "photos/train" / name
        folder.mkdir(parents=True)
        for copy in range(number + 1):
            Image.new("RGB", (60, 40), (80 * number, 10, 10)).save(folder / f"{copy}.png")
    ((images, labels),) = supply(LabelledSource, made)
    assert labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert (images[:, 0].mean(dim=(1, 2)).diff()[[0, 2]] > 0).all()


def test_training_arrays_are_checked(arrays, colour_vit, tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, arrays.name, arrays.model_copy(update={"training_folder": "tiny10-c"}))
    made, folder = config(benchmark="tiny10-c"), tmp_path / "tiny10-c"
    np.save(folder / "train.npy", np.zeros((7, 8, 8, 3), np.uint8))
    np.save(folder / "train_labels.npy", np.arange(7) % 3)
    ((images, labels),) = supply(LabelledSource, made)
    assert images.shape == (7, 3, 32, 32)
    assert labels.tolist().count(1) == 2
    np.save(folder / "train_labels.npy", np.arange(7))
    with pytest.raises(InputError, match="labels outside 0 to 2"):
        next(iter(supply(LabelledSource, made)))
    np.save(folder / "train_labels.npy", np.arange(6) % 3)
    with pytest.raises(InputError, match=r"int64 of shape \(6,\), not 7 integers"):
        next(iter(supply(LabelledSource, made)))


def test_held_out_images_mix_the_domains_that_no_table_reports(small_batches):
    made = RunConfig.from_values({"method": "source", "severity": 2})
    batches = list(supply(HeldOutImages, made))
    names = BENCHMARKS["digits-c"].held_out_domains
    assert sum(len(labels) for _, labels in batches) == 899 * len(names)
    strongest = RunConfig.from_values({"method": "source", "severity": 5})
    normalise = normalisation(made, CPU)
    found = {}
    for name, domain in zip(names, load_domains(strongest, names), strict=True):
        for image, label in zip(normalise(np.array(domain.images)), domain.labels, strict=True):
            found[image.numpy().tobytes()] = name, int(label)
    first = [
        (found[image.numpy().tobytes()], int(label))
        for batch in batches[:8]
        for image, label in zip(*batch, strict=True)
    ]
    assert {name for (name, _), _ in first} == set(names)
    assert all(expected == given for (_, expected), given in first)


def test_held_out_images_come_in_one_order_whatever_the_cell(small_batches):
    one = supply(HeldOutImages, RunConfig.from_values({"method": "source", "severity": 2, "batch_size": 1}))
    other = supply(HeldOutImages, RunConfig.from_values({"method": "source", "severity": 5, "seed": 9}))
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True))


LISTED = ["n02/image_3.JPEG", "n01/image_0.JPEG"]


@pytest.fixture
def part(photographs, colour_vit, tmp_path, monkeypatch):
    """Only two photographs are anywhere, and the cell names these."""
    row = photographs.model_copy(
        update={"training_folder": "photos/train", "held_out_domains": ("spatter",), "images_per_class": 4}
    )
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    for severity in (1, 2, 3, 4, 5):
        shutil.copytree(tmp_path / "photos-c/fog/5", tmp_path / f"photos-c/spatter/{severity}", dirs_exist_ok=True)
    shutil.copytree(tmp_path / "photos/val", tmp_path / "photos/train")
    for file in list(tmp_path.rglob("*.JPEG")):
        if str(file.relative_to(file.parents[1])) not in LISTED:
            file.unlink()
    for folder in list(tmp_path.rglob("n03")):
        folder.rmdir()
    (tmp_path / "names.txt").write_text("\n".join(LISTED))
    return config(benchmark="photos-c", subset_file=str(tmp_path / "names.txt"))


def test_what_a_method_needs_is_of_the_part_that_the_cell_names(part, monkeypatch):
    (batch,) = supply(SourceImages, part)
    (clean,) = load_domains(part, [CLEAN])
    order = np.sort(np.random.default_rng(0).permutation(2))
    torch.testing.assert_close(batch, normalisation(part, CPU)(clean.images[order]))
    assert clean.labels.tolist() == [1, 0]
    for kind in (HeldOutImages, LabelledSource):
        assert sorted(label for _, labels in supply(kind, part) for label in labels.tolist()) == [0, 1]
    monkeypatch.setattr(RunConfig, "needs", lambda self: (SOURCE_IMAGES, HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES))
    check_available([part])


def test_a_part_of_other_photographs_says_nothing_of_clean_ones(renditions, colour_vit, tmp_path):
    (tmp_path / "names.txt").write_text("n03/art_1.jpg")
    made = config(benchmark=renditions.name, subset_file=str(tmp_path / "names.txt"))
    assert made.part_of("renditions") is not None
    assert made.part_of(CLEAN) is None
    assert sum(len(batch) for batch in supply(SourceImages, made)) == 12
