"""Files that list the images that a cell may use: numbers in the domain, or names. Imports no torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tta_core.data.files.decoded import DecodedImages
from tta_core.data.files.encoded import EncodedImages
from tta_core.data.files.image_list import read_entries
from tta_core.data.label_space import ChosenImages
from tta_core.data.opened import DomainImages, ImageRequest
from tta_core.data.sources.base import Labels, unnamed
from tta_core.errors import InputError, first_names


@dataclass(frozen=True)
class Subset:
    """The images that a file lists, one a line.

    Attributes:
        path: the file.
        entries: numbers of images in their domain, from 0, or names `<class>/<file>`; none twice.
        numbers: whether they are numbers.
    """

    path: Path
    entries: tuple[str, ...]
    numbers: bool

    def __len__(self) -> int:
        return len(self.entries)

    def content_hash(self) -> str:
        """Sixteen hexadecimal digits that differ as soon as the images or their order do."""
        return hashlib.sha256("\n".join(self.entries).encode()).hexdigest()[:16]

    def indices(self, domain: str, images: int) -> NDArray[np.int64]:
        """Numbers of the images by which a stream means them, in the order of the file.

        Of a file with numbers these are the numbers. A file with names is a domain of its own, so that it is the same
        whatever else a folder holds: its images are numbered from 0.

        Args:
            domain: the domain's name.
            images: images that it has.

        Raises:
            InputError: if the domain has fewer images than a number says.
        """
        if not self.numbers:
            return np.arange(len(self), dtype=np.int64)
        found = [int(entry) for entry in self.entries]
        if max(found) >= images:
            raise InputError(f"{self.path} lists image {max(found)}, but {domain} has {images} images, from 0")
        return np.array(found, dtype=np.int64)

    def places(self, domain: str, names: Sequence[str]) -> NDArray[np.int64]:
        """Where the images of a file with names are, in the order of the file.

        Args:
            domain: the domain's name.
            names: names of its images.

        Raises:
            InputError: if the domain lacks some.
        """
        places = {name: number for number, name in enumerate(names)}
        missing = [name for name in self.entries if name not in places]
        if missing:
            raise InputError(
                f"{self.path} lists images that {domain} lacks: {first_names(missing)}; a name is "
                f"<class>/<file>{f', such as {names[0]}' if len(names) else ''}"
            )
        return np.array([places[name] for name in self.entries], dtype=np.int64)


def read_subset(path: Path) -> Subset:
    """Reads a file that lists images; of one that has not changed since it was last read, what was read then.

    Raises:
        InputError: if it is missing, empty, mixes numbers with names, or names an image twice.
    """
    try:
        state = path.stat()
        return _read(path, state.st_mtime_ns, state.st_size)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"subset_file = {path} cannot be read ({getattr(error, 'strerror', None) or error}): give a text file with "
            "a line for each image: its number in the domain, or <class>/<file>"
        ) from None


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _size: int) -> Subset:
    entries = read_entries(path)
    numbers = [entry for entry in entries if entry.isascii() and entry.isdigit()]
    if not entries or len(numbers) not in (0, len(entries)):
        has = f"{len(numbers)} numbers and {len(entries) - len(numbers)} names" if entries else "no images"
        raise InputError(f"subset_file = {path} lists {has}: give a line for each image, numbers only or names only")
    entries = [str(int(entry)) for entry in entries] if numbers else entries
    if len(set(entries)) != len(entries):
        twice = Counter(entries).most_common(1)[0][0]
        raise InputError(f"subset_file = {path} lists {twice} twice: name each image once")
    return Subset(path, tuple(entries), bool(numbers))


def open_chosen(request: ImageRequest, name: str, subset: Subset, *, build: bool = False) -> DomainImages:
    """The images of a domain that a list names, in its order. Only these must be there.

    Args:
        request: how images are opened.
        name: the domain.
        subset: the list, of names.
        build: see `ImageRequest.open`.

    Raises:
        InputError: if the domain lacks some, or its images have no names.
    """
    domain = request.open(name, whole=False, build=build)
    images = domain.images
    chosen = images if isinstance(images, ChosenImages) else ChosenImages(images, np.arange(len(images)))
    if not isinstance(chosen.images, EncodedImages | DecodedImages):
        raise unnamed(request.domain(name))
    places = subset.places(name, [chosen.images.names[number] for number in chosen.numbers])
    return replace(domain, images=ChosenImages(chosen.images, chosen.numbers[places]), labels=domain.labels[places])


def named_labels(request: ImageRequest, name: str, subset: Subset) -> Labels:
    """Labels `(images,)` of a list of names; nothing is read.

    Raises:
        InputError: if the images of the domain have numbers only, or a class in the list is none of its classes.
    """
    try:
        return request.labels_of(name, subset.entries)
    except InputError as error:
        raise InputError(f"subset_file = {subset.path}: {error}") from None
