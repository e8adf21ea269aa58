"""The benchmark table: one row is one benchmark. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.spec import BenchmarkSpec

CLEAN = "clean"
"""The domain of uncorrupted test images; every benchmark has it, no table reports it."""

IMAGENET_WNIDS = tuple(Path(__file__).with_name("imagenet_wnids.txt").read_text().split())
"""WordNet ids of the 1000 ImageNet classes, sorted: the place in the list is the number of the class."""


def _imagenet_c(name: str, title: str, files: str, **changes: object) -> BenchmarkSpec:
    """A row for a benchmark on the folders of ImageNet-C."""
    row = BenchmarkSpec(
        name=name,
        title=title,
        version=1,
        domains=CORRUPTIONS,
        held_out_domains=HELD_OUT_CORRUPTIONS,
        images_per_domain=50_000,
        num_classes=1000,
        classes="imagenet-1k",
        class_names=IMAGENET_WNIDS,
        severities=(1, 2, 3, 4, 5),
        crops=("center", "resize-center"),
        storage="class-folders",
        folder="imagenet-c",
        clean_folder="imagenet/val",
        training_folder="imagenet/train",
        files=f"{files}; for clean images imagenet/val/<wnid>/*.JPEG; for methods that need training images "
        "imagenet/train/<wnid>/*.JPEG, all or some",
        source="https://zenodo.org/records/2235448",
        licence="CC BY 4.0; the photographs are ImageNet's, for non-commercial research, https://image-net.org",
    )
    return row.model_copy(update=changes)


def _cifar_c(name: str, classes: int, record: int) -> BenchmarkSpec:
    """A row for CIFAR-10-C or CIFAR-100-C."""
    return BenchmarkSpec(
        name=name,
        title=f"test images of CIFAR-{classes}, 32x32, corrupted, in file order",
        version=1,
        domains=CORRUPTIONS,
        held_out_domains=HELD_OUT_CORRUPTIONS,
        images_per_domain=10_000,
        num_classes=classes,
        classes=f"cifar-{classes}",
        severities=(1, 2, 3, 4, 5),
        shuffled=False,
        crops=("upsample",),
        storage="severity-arrays",
        folder=name,
        training_folder=name,
        files=f"{name}/<corruption>.npy and {name}/labels.npy; for clean images {name}/clean.npy; for methods that "
        f"need training images {name}/train.npy and {name}/train_labels.npy",
        source=f"https://zenodo.org/records/{record}",
        licence="CC BY 4.0",
    )


BENCHMARKS: dict[str, BenchmarkSpec] = {
    row.name: row
    for row in (
        BenchmarkSpec(
            name="digits-c",
            title="real handwritten digits, enlarged to 32x32 and corrupted as ImageNet-C corrupts photographs",
            version=1,
            domains=CORRUPTIONS,
            held_out_domains=HELD_OUT_CORRUPTIONS,
            images_per_domain=899,
            num_classes=10,
            classes="digits",
            class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            severities=(1, 2, 3, 4, 5),
            source="scikit-learn load_digits (UCI optical recognition of handwritten digits), made here",
            licence="CC BY 4.0 (UCI); scikit-learn BSD-3-Clause",
        ),
        _imagenet_c(
            "imagenet-c",
            "validation photographs of ImageNet, corrupted",
            "imagenet-c/<corruption>/<severity>/<wnid>/*.JPEG",
        ),
        _imagenet_c(
            "imagenet-c-5k",
            "5,000 images of each domain of imagenet-c, those of a list, in its order",
            "imagenet-c/<corruption>/<severity>/<wnid>/*.JPEG and imagenet-c-5k.txt with a line <wnid>/<file>.JPEG for "
            "each image (RobustBench publishes the usual list)",
            images_per_domain=5_000,
            shuffled=False,
            crops=("resize-center", "center"),
            image_list="imagenet-c-5k.txt",
        ),
        _cifar_c("cifar10-c", 10, record=2535967),
        _cifar_c("cifar100-c", 100, record=3555552),
    )
}
