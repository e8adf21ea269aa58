"""Labels and names of a domain's images, for orders that are made from them. Decodes no image, imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.domains import split_severity
from tta_core.data.opened import check_kind, read_domain
from tta_core.data.sources import class_folders
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import InputError, first_names
from tta_core.streams.subsets import Subset

FILES = ("class-folders", "severity-arrays")
"""Storages with files for each domain."""


def domain_labels(
    spec: BenchmarkSpec, name: str, severity: int, *, data_seed: int, crop: Crop, image_size: int
) -> NDArray[np.int64]:
    """Labels `(images,)` of a domain, see `tta_core.data.opened.read_domain` for the arguments.

    They are known without any file where all classes have as many images and these lie in order of class.

    Raises:
        InputError: if they have to be read, and files are missing or are not what they should be.
    """
    domain, _ = split_severity(name, severity)
    row = owner(spec, domain)
    if row.images_per_class and not row.image_list:
        numbers = np.array(row.class_numbers or range(row.num_classes), dtype=np.int64)
        return np.repeat(numbers, row.images_per_class)
    # All domains that are made here show the same images: clean ones are there, corrupted ones may have to be made.
    known = name if row.storage in FILES else CLEAN
    return read_domain(spec, known, severity, data_seed=data_seed, crop=crop, image_size=image_size)[1]


def named_labels(spec: BenchmarkSpec, name: str, subset: Subset) -> NDArray[np.int64]:
    """Labels `(images,)` of a list of names.

    Raises:
        InputError: if the images of the domain have numbers only, or a class in the list is none of its classes.
    """
    row = owner(spec, split_severity(name, 0)[0])
    if row.storage != "class-folders":
        raise InputError(f"the images of {spec.name} have no names: give their numbers in {name}, from 0")
    known = set(row.class_names)
    if wrong := [entry for entry in subset.entries if entry.partition("/")[0] not in known]:
        raise InputError(
            f"{subset.path} lists images of no class that {name} has: {first_names(wrong)}; a name is <class>/<file>, "
            f"such as {row.class_names[0]}/..."
        )
    return class_folders.image_labels(row, subset.entries)


def domain_names(
    spec: BenchmarkSpec, name: str, severity: int, *, data_seed: int | None = None, whole: bool = False
) -> Sequence[str]:
    """`<class>/<file>` of each image of a domain in class folders.

    Args:
        spec: the benchmark.
        name: the domain.
        severity: strength of a domain that has none of its own.
        data_seed: seed of corruptions that were made here; None for any.
        whole: whether all must be there.

    Raises:
        InputError: if files are missing.
    """
    domain, severity = split_severity(name, severity)
    row = owner(spec, domain)
    check_kind(row, domain, data_seed)
    return class_folders.load_domain(row, domain, severity, row.crops[0], 1, whole=whole)[0].names
