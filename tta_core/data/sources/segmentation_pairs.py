"""Images and the label maps that belong to them, as files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pairs:
    """Images of a domain with their label maps.

    Attributes:
        images, maps: the folders.
        names, map_names: the files below them, in one order.
        without_map: images that have none.
        without_image: label maps that belong to no image.
        strange: files beside the images that are none of them, such as references of `train_ref`.
    """

    images: Path
    maps: Path
    names: tuple[str, ...]
    map_names: tuple[str, ...]
    without_map: tuple[str, ...] = ()
    without_image: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()

    def list_hash(self) -> str:
        """Twelve hexadecimal digits of a hash of the images' names in their order."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:12]
