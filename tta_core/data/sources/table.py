"""Finds the storage of a benchmark by the file in this folder. Imports no torch."""

from __future__ import annotations

import importlib
from functools import cache

from tta_core.data.sources.base import Storage
from tta_core.data.spec import BenchmarkSpec

FOLDER = __name__.rpartition(".")[0]


def storage_of(spec: BenchmarkSpec) -> Storage:
    """Returns how the images of a benchmark are kept.

    Raises:
        RuntimeError: if its row names a storage that there is not.
    """
    return _storage(spec.storage)


@cache
def _storage(name: str) -> Storage:
    module = f"{FOLDER}.{name.replace('-', '_')}"
    try:
        storage: Storage = importlib.import_module(module).STORAGE
    except (ModuleNotFoundError, AttributeError) as error:
        raise RuntimeError(f"no storage {name!r}: {module} must hold STORAGE ({error})") from error
    return storage
