"""Files of corrupted images: names, resumption, records, what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.tta_core.corruptions.photographs import photographs
from tests.tta_core.opening import check_domain, trial_images
from tta_core.corruptions.corrupt import corrupt
from tta_core.corruptions.plan import Plan, make_job, plan_benchmark, plan_images
from tta_core.data.benchmarks import BENCHMARKS, CLEAN, IMAGENET_WNIDS
from tta_core.errors import InputError
from tta_core.run.available import check_available
from tta_core.run.config import RunConfig


def planned(images: Path, folder: Path, *corruptions: str, severities: tuple[int, ...] = (), seed: int = 0) -> Plan:
    job = make_job(
        corruptions=corruptions, severities=severities, seed=seed, strengths=None, frost=None, device="cpu", workers=2
    )
    return plan_images(images, folder, job, None)


def made(plan: Plan) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    assert plan.run(lambda done, total: told.append((done, total))) == {}
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photographs of two sizes in folders."""
    place = tmp_path / "photos"
    for name, size in (("b/one.JPEG", 40), ("a/two.jpg", 40), ("a/three.png", 50)):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photographs(224)[0, :size, :size]).save(place / name, quality=95)
    return place


def files(place: Path) -> list[str]:
    return sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())


def test_a_folder_is_mirrored_for_each_corruption_and_severity(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    assert made(planned(folder, target, "contrast", "fog", severities=(5, 1))) == [(3, 3)]
    images = ("a/three.png.JPEG", "a/two.jpg", "b/one.JPEG")
    expected = [f"{name}/{severity}/{image}" for name in ("contrast", "fog") for severity in (1, 5) for image in images]
    assert files(target) == [*expected, "generated.json"]
    assert Image.open(target / "fog/5/a/three.png.JPEG").size == (50, 50)


def test_lossless_files_hold_the_very_pixels(folder: Path, tmp_path: Path) -> None:
    job = make_job(
        corruptions=["contrast"],
        severities=[3],
        seed=0,
        strengths="imagenet",
        frost=None,
        device="cpu",
        workers=1,
        lossless=True,
    )
    made(plan_images(folder, tmp_path / "made", job, None))
    assert files(tmp_path / "made/contrast") == ["3/a/three.png", "3/a/two.jpg.png", "3/b/one.JPEG.png"]
    clean = np.asarray(Image.open(folder / "a/three.png"))
    expected = corrupt(clean[None], "contrast", 3, keys=[0], ladder="imagenet")[0]
    assert (np.asarray(Image.open(tmp_path / "made/contrast/3/a/three.png")) == expected).all()


def test_an_image_is_the_same_in_any_selection(folder: Path, tmp_path: Path) -> None:
    made(planned(folder, tmp_path / "all", "gaussian_noise", severities=(3,)))
    (folder / "a/two.jpg").unlink()
    made(planned(folder, tmp_path / "some", "gaussian_noise", severities=(3,)))
    name = "gaussian_noise/3/b/one.JPEG"
    assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "some" / name).read_bytes()


def test_what_is_there_is_not_made_again(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    made(planned(folder, target, "contrast", severities=(1,)))
    kept, gone = target / "contrast/1/a/two.jpg", target / "contrast/1/b/one.JPEG"
    before, again = kept.stat().st_mtime_ns, gone.read_bytes()
    gone.unlink()
    made(planned(folder, target, "contrast", "saturate", severities=(1,)))
    assert kept.stat().st_mtime_ns == before
    assert gone.read_bytes() == again
    assert (target / "saturate/1/b/one.JPEG").exists()


def test_options_cannot_change_under_a_set(folder: Path, tmp_path: Path) -> None:
    made(planned(folder, tmp_path / "made", "contrast"))
    with pytest.raises(InputError, match=r"made otherwise \(seed = 0, not 1\)"):
        planned(folder, tmp_path / "made", "fog", seed=1).run(print)


def test_other_files_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="holds files that were not made here"):
        planned(folder, tmp_path / "other", "fog").run(print)
    with pytest.raises(InputError, match="lies in the images' own"):
        planned(folder, folder / "made", "fog")


def test_damaged_images_are_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "b/one.JPEG").read_bytes()
    (folder / "b/one.JPEG").write_bytes(whole[: len(whole) // 2])
    damaged = planned(folder, tmp_path / "made", "fog", severities=(1,)).run(lambda done, total: None)
    assert list(damaged) == ["b/one.JPEG"]
    assert "runcated" in damaged["b/one.JPEG"]
    assert files(tmp_path / "made/fog") == ["1/a/three.png.JPEG", "1/a/two.jpg"]


def test_one_image_that_is_too_small_or_gone_ends_nothing(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 9)).save(folder / "a/icon.png")
    (folder / "a/gone.jpg").symlink_to("nowhere")
    damaged = planned(folder, tmp_path / "made", "fog", severities=(1,)).run(lambda done, total: None)
    assert damaged == {
        "a/gone.jpg": "No such file or directory",
        "a/icon.png": "8x9 pixels are too few: at least 16 each way",
    }
    assert len(files(tmp_path / "made/fog")) == 3


def test_images_of_other_formats_are_taken_and_other_files_are_told(folder: Path, tmp_path: Path) -> None:
    image = Image.fromarray(photographs(224)[0, :40, :40])
    for suffix in ("webp", "bmp", "tif"):
        image.save(folder / f"more.{suffix}")
    for name in ("movie.gif", "list.txt", "other.gif", ".hidden"):
        (folder / name).write_bytes(b"")
    plan = planned(folder, tmp_path / "made", "fog", severities=(1,))
    assert "; 3 other files are left out: 2 .gif, 1 .txt" in plan.as_text()
    assert plan.run(lambda done, total: None) == {}
    assert len(files(tmp_path / "made/fog")) == 6


def test_an_archive_of_arrays_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="npz cannot be read"):
        planned(tmp_path / "a.npz", tmp_path / "made")


def test_a_write_that_fails_leaves_no_half_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: Image.Image, path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match=r"No space left on device.*run again, and it goes on where it was"):
        planned(folder, tmp_path / "made", "fog").run(lambda done, total: None)
    assert files(tmp_path / "made") == ["generated.json"]


def test_an_array_holds_all_severities_one_after_the_other(tmp_path: Path) -> None:
    clean = photographs(32)[:5]
    np.save(tmp_path / "clean.npy", clean)
    told = made(planned(tmp_path / "clean.npy", tmp_path / "made", "shot_noise", "pixelate"))
    assert told[-1] == (50, 50)
    array = np.load(tmp_path / "made/shot_noise.npy")
    assert array.shape == (25, 32, 32, 3)
    assert (array[10:15] == corrupt(clean, "shot_noise", 3, keys=range(5), ladder="cifar")).all()
    assert files(tmp_path / "made") == ["generated.json", "pixelate.npy", "shot_noise.npy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 32, 32), np.uint8), r"holds uint8 of shape \(2, 32, 32\)"),
        (np.zeros((2, 32, 32, 3)), "holds float64"),
        (b"no array", "cannot be read"),
    ],
)
def test_a_wrong_array_is_refused(tmp_path: Path, content: np.ndarray | bytes, message: str) -> None:
    file = tmp_path / "clean.npy"
    file.write_bytes(content) if isinstance(content, bytes) else np.save(file, content)
    with pytest.raises(InputError, match=message):
        planned(file, tmp_path / "made")


def test_wrong_choices_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'snow'"):
        planned(folder, tmp_path / "made", "snwo")
    with pytest.raises(InputError, match="severity 7"):
        planned(folder, tmp_path / "made", severities=(7,))
    with pytest.raises(InputError, match="give one with images"):
        planned(tmp_path / "nowhere", tmp_path / "made")
    with pytest.raises(InputError, match="device 'cuda9000' cannot be used"):
        make_job(corruptions=(), severities=(), seed=0, strengths=None, frost=None, device="cuda9000", workers=1)
    with pytest.raises(InputError, match=r"frost1.png cannot be read"):
        make_job(corruptions=(), severities=(), seed=0, strengths=None, frost=tmp_path, device="cpu", workers=1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with an image of each of three ImageNet classes, and the images of CIFAR-10-C."""
    for number, name in enumerate(IMAGENET_WNIDS[:3]):
        place = tmp_path / "imagenet/val" / name
        place.mkdir(parents=True)
        Image.fromarray(photographs(224)[number]).save(place / f"{number}.JPEG")
    cifar = tmp_path / "cifar10-c"
    cifar.mkdir()
    np.save(cifar / "clean.npy", np.resize(photographs(32), (10_000, 32, 32, 3)))
    np.save(cifar / "labels.npy", (np.arange(10_000) % 10).astype(np.uint8))
    monkeypatch.setenv("TTA_GRID_DATA", str(tmp_path))
    return tmp_path


def benchmark_plan(name: str, *corruptions: str, severities: tuple[int, ...] = (), seed: int = 0) -> Plan:
    return plan_benchmark(
        name,
        make_job(
            corruptions=corruptions,
            severities=severities,
            seed=seed,
            strengths=None,
            frost=None,
            device="cpu",
            workers=1,
        ),
    )


def test_imagenet_is_made_in_the_layout_that_readers_expect(root: Path) -> None:
    plan = benchmark_plan("imagenet-c-gen", "frost", severities=(2,), seed=4)
    assert (
        "3 images of 50,000 (a sweep needs all, or the names of these in subset_file) of imagenet/val, 224"
        in plan.as_text()
    )
    made(plan)
    assert files(root / "imagenet-c-gen/frost") == [f"2/{name}/{n}.JPEG" for n, name in enumerate(IMAGENET_WNIDS[:3])]
    assert json.loads((root / "imagenet-c-gen/generated.json").read_text())["seed"] == 4
    with pytest.raises(InputError, match="has 3 of 1000 class folders"):
        check_domain(BENCHMARKS["imagenet-c-gen"], "frost", 2, data_seed=4)


def test_images_made_here_never_pass_for_downloaded_ones(root: Path) -> None:
    made(benchmark_plan("imagenet-c-gen", "frost", severities=(2,)))
    (root / "imagenet-c-gen").rename(root / "imagenet-c")
    with pytest.raises(InputError, match=r"were made here .* never mix the two.*benchmark: imagenet-c-gen"):
        check_domain(BENCHMARKS["imagenet-c"], "frost", 2)


def test_downloaded_images_never_pass_for_those_made_here(root: Path) -> None:
    (root / "imagenet-c-gen/frost/2").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no generated.json: make its images with `tta-grid data corrupt"):
        check_domain(BENCHMARKS["imagenet-c-gen"], "frost", 2)


def test_a_cell_reads_the_images_of_its_own_data_seed(root: Path) -> None:
    spec = BENCHMARKS["cifar10-c-gen"]
    plan = benchmark_plan(spec.name, "contrast", seed=1)
    plan = Plan(**{**vars(plan), "images": plan.images[:]})
    made(plan)
    images, labels = trial_images(spec, "contrast", 5, data_seed=1, crop="upsample", image_size=32)
    assert images.shape == (10_000, 32, 32, 3)
    assert (labels == np.arange(10_000) % 10).all()
    assert trial_images(spec, CLEAN, 5, data_seed=1, crop="upsample", image_size=32)[0].shape == images.shape
    with pytest.raises(InputError, match=r"data_seed = 0, but the images in .* were made with seed 1"):
        trial_images(spec, "contrast", 5, data_seed=0, crop="upsample", image_size=32)


def test_a_plan_knows_the_seed_of_some_of_the_images(root: Path) -> None:
    made(benchmark_plan("imagenet-c-gen", "frost", severities=(2,), seed=4))
    names = root / "names.txt"
    names.write_text("".join(f"{name}/{n}.JPEG\n" for n, name in enumerate(IMAGENET_WNIDS[:3])))
    cell = {
        "method": "source",
        "benchmark": "imagenet-c-gen",
        "backbone": "resnet50.tv_in1k",
        "domains": ["frost"],
        "severity": 2,
        "subset_file": str(names),
    }
    weights = root / "weights.safetensors"
    save_file({}, weights)
    file = {"file": str(weights)}
    check_available([RunConfig.from_values({**cell, "data_seed": 4, "weights": {cell["backbone"]: file}})])
    with pytest.raises(InputError, match=r"data_seed = 0, but the images in .* were made with seed 4"):
        check_available([RunConfig.from_values({**cell, "weights": {cell["backbone"]: file}})])


def test_a_damaged_record_is_told_from_one_that_may_not_be_read(root: Path) -> None:
    made(benchmark_plan("imagenet-c-gen", "frost", severities=(2,)))
    record = root / "imagenet-c-gen/generated.json"
    record.write_text("{")
    with pytest.raises(InputError, match=r"generated.json is damaged .*: make the images again"):
        check_domain(BENCHMARKS["imagenet-c-gen"], "frost", 2)
    record.unlink()
    record.mkdir()
    with pytest.raises(InputError, match=r"generated.json cannot be read .*: give yourself access to it"):
        check_domain(BENCHMARKS["imagenet-c-gen"], "frost", 2)


def test_only_benchmarks_that_are_made_here_are_made(root: Path) -> None:
    with pytest.raises(InputError, match="imagenet-c are not made here: give one of imagenet-c-gen, cifar10-c-gen"):
        benchmark_plan("imagenet-c")
    with pytest.raises(InputError, match="all five severities"):
        benchmark_plan("cifar10-c-gen", severities=(5,))
