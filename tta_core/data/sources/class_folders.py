"""Benchmarks with one folder a class, such as ImageNet-C, whatever their images are stored in. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tta_core.data.benchmarks import CLEAN
from tta_core.data.crops import photograph_crop
from tta_core.data.files.encoded import EncodedImages
from tta_core.data.files.find import IN_PART, check_any, check_classes, find_images
from tta_core.data.root import data_root, not_here, own_folder
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import first_names


def domain_folder(spec: BenchmarkSpec, root: Path, domain: str, severity: int) -> Path:
    """The folder of a domain below the data root."""
    if domain == CLEAN:
        return root / spec.clean_folder
    folder = own_folder(spec, root)
    return folder / domain / str(severity) if spec.severities else folder


def check_domain(spec: BenchmarkSpec, domain: str, severity: int) -> Path:
    """Looks for the classes of a domain, not at their images. Where a list names these, any class will do.

    Returns:
        The domain's folder.

    Raises:
        InputError: if the images, a class of them or the list of images is missing.
    """
    root = data_root(spec)
    folder = domain_folder(spec, root, domain, severity)
    if spec.image_list:
        listed_names(spec, root / spec.image_list)
        check_any(spec, root, folder)
    else:
        check_classes(spec, root, folder)
    return folder


def check_training(spec: BenchmarkSpec) -> Path:
    """Looks for the classes of the training images; returns their folder.

    Raises:
        InputError: if the images or a class of them is missing.
    """
    root = data_root(spec)
    folder = root / spec.training_folder
    check_classes(spec, root, folder)
    return folder


def load_training(spec: BenchmarkSpec, crop: Crop, size: int) -> tuple[EncodedImages, NDArray[np.int64]]:
    """Lists the training images, as many as there are; none is decoded yet.

    They are photographs, cut as clean ones are, see `load_domain`.

    Returns:
        The images, resized and cropped to `size`, and the labels `(images,)`.

    Raises:
        InputError: if a class or all images are missing.
    """
    folder = check_training(spec)
    images = find_images(spec, data_root(spec), folder, photograph_crop(crop), size)
    if not len(images):
        raise not_here(spec, f"the folder {folder} has no images")
    return images, image_labels(spec, images.names)


def load_domain(
    spec: BenchmarkSpec, domain: str, severity: int, crop: Crop, size: int, *, whole: bool = True
) -> tuple[EncodedImages, NDArray[np.int64]]:
    """Lists the images of a domain; none is decoded yet.

    Clean photographs have any size, so they are resized whatever `crop` says: to 8/7, or as a backbone wants it.

    Args:
        spec: the benchmark.
        domain: the domain.
        severity: its severity.
        crop: how images are brought to `size`.
        size: pixels.
        whole: whether all images must be there, or just any.

    Returns:
        The images, and the labels `(images,)`.

    Raises:
        InputError: if files are missing or there are more than there should be.
    """
    folder = check_domain(spec, domain, severity) if whole else domain_folder(spec, data_root(spec), domain, severity)
    images = find_images(spec, data_root(spec), folder, photograph_crop(crop) if domain == CLEAN else crop, size)
    if spec.image_list:
        places = {name: number for number, name in enumerate(images.names)}
        names = listed_names(spec, data_root(spec) / spec.image_list)
        missing = [name for name in names if name not in places]
        if missing:
            where = f"the folder {folder}" if images.kind == "folders" else str(images.folder)
            raise not_here(spec, f"{where} lacks {len(missing)} listed images: {first_names(missing)}")
        images = images.chosen([places[name] for name in names])
    elif whole:
        _check_count(spec, images, spec.count(domain))
    return images, image_labels(spec, images.names)


def image_labels(spec: BenchmarkSpec, names: Sequence[str]) -> NDArray[np.int64]:
    """Number of each image's class among all classes of the backbone, from its name `<class>/<file>`."""
    numbers = dict(zip(spec.class_names, spec.class_numbers or range(spec.num_classes), strict=True))
    return np.array([numbers[name.partition("/")[0]] for name in names], dtype=np.int64)


def _check_count(spec: BenchmarkSpec, images: EncodedImages, count: int) -> None:
    """Raises `InputError` if there are not as many images as the table says."""
    if len(images) != count:
        counts = Counter(name.partition("/")[0] for name in images.names)
        word, choose = ("fewest", min) if len(images) < count else ("most", max)
        name = choose(spec.class_names, key=lambda name: counts[name])
        where = f"the folder {images.folder}" if images.kind == "folders" else str(images.folder)
        raise not_here(
            spec, f"{where} has {len(images)} images, not {count}; {word} in {name}: {counts[name]} ({IN_PART})"
        )


def listed_names(spec: BenchmarkSpec, file: Path) -> list[str]:
    """The images that a list names, in its order."""
    try:
        names = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise not_here(spec, f"the list {file} cannot be read ({error})") from None
    classes = set(spec.class_names)
    wrong = [name for name in names if name.count("/") != 1 or name.partition("/")[0] not in classes]
    if wrong:
        raise not_here(spec, f"the list {file} has {len(wrong)} lines that are no <class>/<file>: {first_names(wrong)}")
    if len(set(names)) != spec.images_per_domain or len(names) != spec.images_per_domain:
        raise not_here(
            spec,
            f"the list {file} names {len(set(names))} different images, not {spec.images_per_domain} once each; for "
            f"a list of another length take its whole benchmark, such as imagenet-c, and give subset_file = {file}",
        )
    return names
