"""Where the files of benchmarks that are not shipped lie. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import InputError, first_names

VARIABLE = "TTA_GRID_DATA"
"""Environment variable that names the data root. Workers inherit it from the process that started Ray."""


def data_root(spec: BenchmarkSpec) -> Path:
    """The folder that holds the files of a benchmark.

    Raises:
        InputError: if the variable is not set or names no folder.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        raise not_here(spec, f"{VARIABLE} is not set")
    root = Path(given).expanduser().absolute()
    with readable():
        if not root.is_dir():
            raise not_here(spec, f"{VARIABLE} = {given} is no folder")
    return root


@contextmanager
def readable() -> Iterator[None]:
    """Turns what the system says of a file or folder that cannot be read into one message."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}): let yourself read it and the folders that it lies "
            "in, such as with chmod -R u+rX"
        ) from None
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): restore it, then run again") from None


def own_folder(spec: BenchmarkSpec, root: Path, inside: Sequence[str]) -> Path:
    """The folder of a benchmark's own images below the data root; or the data root itself where it is that folder.

    Args:
        spec: the benchmark.
        root: the data root.
        inside: names of files or folders of which each tells that a folder is the one.
    """
    parts = Path(spec.folder).parts
    folder = root.joinpath(*parts)
    if os.path.exists(folder):  # noqa: PTH110 False, not an error, where it may not be looked at
        return folder
    for nearer in (root.joinpath(*parts[start:]) for start in range(1, len(parts) + 1)):
        if any(os.path.exists(nearer / name) for name in inside):  # noqa: PTH110
            return nearer
    return folder


def not_here(spec: BenchmarkSpec, problem: str) -> InputError:
    """The error for files that are missing or are not what they should be, with where to get them."""
    return InputError(
        f"{problem}. The images of {spec.name} are not shipped: let {VARIABLE} name the folder that holds "
        f"{spec.files}. Get them from {spec.source} (licence: {spec.licence})"
    )


def missing_domains(lacking: Mapping[str, InputError]) -> InputError:
    """One error for several domains: what is wrong with the first, and the names of all."""
    told = str(next(iter(lacking.values())))
    if len(lacking) == 1:
        return InputError(told)
    return InputError(
        f"{len(lacking)} domains are missing or not whole: {first_names(list(lacking))}. {told[:1].upper()}{told[1:]}"
    )
