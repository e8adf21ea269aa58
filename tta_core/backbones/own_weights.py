"""Weights that a user gives a backbone: a file or an address, its checksum, its names. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from tta_core.backbones.spec import BackboneSpec
from tta_core.errors import InputError, unknown_name
from tta_core.frozen import Frozen, told, validated

SCHEMES = ("https", "http", "file")

SHA256 = r"^[0-9a-f]{64}$"

GIVEN = "the checksum given with it is"


class OwnWeights(Frozen):
    """Weights that stand for those of a backbone's row.

    Attributes:
        file: the file, at the same path on every machine that runs cells; or
        url: where it is downloaded from, once for each cache folder.
        sha256: checksum of the file in hexadecimal; of a file that is here it is found if it is not given.
        key_map: beginnings of the names in the file -> what stands there in the network; null leaves such tensors out.
            Of several that fit the longest is taken. Wrappers such as `model` and the prefix `module.` are off before.
    """

    file: str | None = None
    url: str | None = None
    sha256: str = Field(pattern=SHA256)
    key_map: dict[str, str | None] = Field(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        """Takes fields by name, as scripts give them; raises InputError for what is not allowed."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(told(error, OwnWeights, values)) from None

    @field_validator("sha256", mode="before")
    @classmethod
    def _lower(cls, given: Any) -> Any:
        return given.lower() if isinstance(given, str) else given

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        """Makes the path absolute, and finds the checksum of a file."""
        if not isinstance(values, Mapping) or not values.keys() <= cls.model_fields.keys():
            return values
        found = dict(values)
        file, url = found.get("file"), found.get("url")
        if (file is None) == (url is None):
            raise InputError("give either file or url, the one place that the weights come from")
        if url is not None and str(url).partition("://")[0] not in SCHEMES:
            raise InputError(f"url = {url!r} is no address: allowed are {', '.join(f'{name}://' for name in SCHEMES)}")
        if url is not None and "@" in urlsplit(str(url)).netloc:
            raise InputError("url holds a user or password, and would be kept with the results: give one without")
        if url is not None and found.get("sha256") is None:
            raise InputError(
                f"url = {url!r} has no checksum, and what is downloaded could be anything: give sha256 too, as "
                "`sha256sum FILE` prints it"
            )
        if file is not None:
            found["file"] = str(Path(str(file)).expanduser().absolute())
            if found.get("sha256") is None:
                found["sha256"] = file_sha256(Path(found["file"]))
        return found

    def tag(self) -> str:
        """Short text that names these very tensors under these names; no path is in it."""
        if not self.key_map:
            return self.sha256[:12]
        return f"{self.sha256[:12]}+{hashlib.sha256(repr(sorted(self.key_map.items())).encode()).hexdigest()[:6]}"


def resolve_own_weights(given: Any, backbone: BackboneSpec, known: Mapping[str, BackboneSpec]) -> dict[str, Any] | None:
    """Resolves the entry `weights` of a cell, which may name several backbones, for its own backbone.

    Args:
        given: backbone -> file, or the fields of `OwnWeights`.
        backbone: the cell's backbone.
        known: all backbones.

    Returns:
        The backbone's name -> its weights; None if none are given for it.

    Raises:
        InputError: if the entry is malformed, names unknown backbones, or a file cannot be read.
    """
    if not given:
        return None
    if not isinstance(given, Mapping):
        raise InputError(
            f"weights = {given!r}: say for which backbone: weights: {{{backbone.name}: {given}}}; the fields of an "
            "entry are file or url, sha256, key_map"
        )
    for name in given:
        if name not in known:
            raise unknown_name("backbone in weights", name, known, "See them with: tta-grid list backbones")
    entry = given.get(backbone.name)
    if entry is None:
        return None
    if isinstance(entry, str):
        entry = {"url" if "://" in entry else "file": entry}
    if isinstance(entry, OwnWeights):
        return {backbone.name: entry}
    if not isinstance(entry, Mapping):
        raise InputError(
            f"weights: {backbone.name} = {entry!r} is not allowed: give a file, or file or url with sha256"
        )
    return {backbone.name: validated(OwnWeights, dict(entry), where=f"weights: {backbone.name}")}


def file_sha256(file: Path) -> str:
    """SHA-256 of a file in hexadecimal; of one that has not changed it is computed once in a process.

    Raises:
        InputError: if it is no file that can be read, or empty.
    """
    try:
        state = file.stat()
        if file.is_dir():
            raise unreadable(file, "it is a folder: give the file in it")
        if not state.st_size:
            raise unreadable(file, "it is empty: get it again")
        return _sha256(file, state.st_size, state.st_mtime_ns)
    except FileNotFoundError:
        raise unreadable(file, "there is no such file: mend the path, or put it there") from None
    except PermissionError as error:
        raise unreadable(file, f"{error.strerror}: give this user the right to read it") from None
    except OSError as error:
        raise unreadable(file, f"{error.strerror or error}: get it again") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise unreadable(file, f"this is no path ({error}): mend it") from None


@lru_cache(maxsize=64)
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_sha256(file: Path, expected: str, *, stated_by: str = GIVEN) -> None:
    """Compares a file with a checksum.

    Raises:
        InputError: if it has another, or cannot be read.
    """
    found = file_sha256(file)
    if found != expected:
        raise InputError(
            f"the weights file {file} has sha256 {found[:12]}..., {stated_by} {expected[:12]}...: get the right file, "
            "or correct the checksum if this file is the one that is meant"
        )


def unreadable(file: Path, problem: str) -> InputError:
    """The error for a weights file that cannot be read."""
    return InputError(f"the weights file {file} cannot be read: {problem}")
