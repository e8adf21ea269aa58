"""Where the weights of a backbone come from: what a user gives, a folder, the hub. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from tta_core.backbones.downloads import downloaded, downloaded_file, hub_is_offline, offline_problem, shown
from tta_core.backbones.own_weights import OwnWeights, check_sha256
from tta_core.backbones.spec import BackboneSpec
from tta_core.errors import InputError

VARIABLE = "TTA_GRID_WEIGHTS"
"""Environment variable that names a folder with weights. Workers inherit it from the process that started Ray."""

SUFFIXES = (".safetensors", ".pth", "/model.safetensors")
"""What follows a row's `weights` in that folder; the last is how `hf download timm/TAG --local-dir` leaves a model."""

EMBEDDED, TIMM, FILE = "embedded", "timm", "file"
"""Where a network comes from: what stands before the colon in `BackboneSpec.source`."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files of a model on the hub that timm takes, in its order."""


def local_weights(spec: BackboneSpec) -> Path | None:
    """The file of a backbone in the folder that `TTA_GRID_WEIGHTS` names; None if there is none.

    Raises:
        InputError: if that is no folder, or may not be looked into.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    folder = Path(given).expanduser().absolute()
    try:
        if not folder.is_dir():
            raise InputError(f"{VARIABLE} = {given} is no folder: name the folder with the weights, or unset it")
        return next((file for suffix in SUFFIXES if (file := Path(f"{folder}/{spec.weights}{suffix}")).is_file()), None)
    except OSError as error:
        raise InputError(
            f"{VARIABLE} = {given} cannot be looked into ({error.strerror or error}): mend its permissions, or unset it"
        ) from None


def weights_file(spec: BackboneSpec, own: OwnWeights | None) -> Path | None:
    """The file to read the weights of a backbone from, downloaded if need be; None if they are shipped or the hub's.

    Raises:
        InputError: if the user's own weights cannot be had, or there is no file and no hub has the weights.
    """
    if own is not None:
        return Path(own.file) if own.file is not None else downloaded(str(own.url), own.sha256)
    kind = spec.source.partition(":")[0]
    if kind == EMBEDDED:
        return None
    found = local_weights(spec)
    if kind == FILE and found is None:
        raise weights_missing(spec, "there is no such file")
    return found


def check_weights(spec: BackboneSpec, own: OwnWeights | None = None) -> None:
    """Looks whether the weights of a backbone can be had, without loading or downloading them.

    Raises:
        InputError: if they are not here and may not be downloaded, or the user's file is not that of its checksum.
    """
    kind, _, name = spec.source.partition(":")
    if own is not None and own.file is not None:
        check_sha256(Path(own.file), own.sha256)
        return
    if own is not None:
        if downloaded_file(str(own.url), own.sha256) is None and (problem := offline_problem(str(own.url))):
            raise InputError(f"the weights of {spec.name} are not here: {problem}")
        return
    if kind == EMBEDDED or local_weights(spec) is not None:
        return
    if kind == FILE:
        raise weights_missing(spec, "there is no such file")
    if hub_is_offline() and not _in_hub_cache(name):
        raise weights_missing(spec, "HF_HUB_OFFLINE is set and the hub's cache lacks them")


def weights_origin(spec: BackboneSpec, own: OwnWeights | None = None) -> str:
    """Where the weights of a backbone would come from on this machine, in words; also if they are missing."""
    try:
        check_weights(spec, own)
    except InputError as error:
        return f"MISSING: {error}"
    kind, _, name = spec.source.partition(":")
    if own is not None:
        here = own.file or downloaded_file(str(own.url), own.sha256)
        return (
            f"{here} (sha256 {own.sha256[:12]})"
            if here
            else f"download of {shown(str(own.url))} (sha256 {own.sha256[:12]})"
        )
    if kind == EMBEDDED:
        return "shipped with tta-grid"
    if (found := local_weights(spec)) is not None:
        return str(found)
    return f"cache of the Hugging Face hub, timm/{name}" if _in_hub_cache(name) else f"download of hf.co/timm/{name}"


def weights_missing(spec: BackboneSpec, problem: str) -> InputError:
    """The error for weights that are not here, with where to put them."""
    kind, _, name = spec.source.partition(":")
    files = " or ".join(f"{spec.weights}{suffix}" for suffix in SUFFIXES[:2])
    hub = f", or let timm download https://huggingface.co/timm/{name}" if kind == TIMM else ""
    return InputError(
        f"the weights of {spec.name} are not here: {problem}. Put {files} into a folder and let {VARIABLE} name it "
        f"(now {os.environ.get(VARIABLE) or 'not set'}), or name a file: weights: {{{spec.name}: FILE}}{hub}"
    )


def _in_hub_cache(name: str) -> bool:
    # Imported here: it is slow, and most sweeps do not need it.
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(f"timm/{name}", file), str) for file in HUB_FILES)
