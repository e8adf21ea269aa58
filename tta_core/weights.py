"""Finds the weights of backbones that are not shipped. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from tta_core.errors import InputError
from tta_core.spec import BackboneSpec

VARIABLE = "TTA_GRID_WEIGHTS"
"""Environment variable that names a folder with weights. Workers inherit it from the process that started Ray."""

SUFFIXES = (".safetensors", ".pth")

EMBEDDED, TIMM, FILE = "embedded", "timm", "file"
"""Where a network comes from: what stands before the colon in `BackboneSpec.source`."""


def local_weights(spec: BackboneSpec) -> Path | None:
    """The file of a backbone in the folder that `TTA_GRID_WEIGHTS` names; None if there is none."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    files = [Path(given).expanduser().absolute() / f"{spec.weights}{suffix}" for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def check_weights(spec: BackboneSpec) -> None:
    """Looks whether the weights of a backbone can be had, without reading or downloading them.

    Raises:
        InputError: if they are not here and may not be downloaded.
    """
    kind, _, name = spec.source.partition(":")
    if kind == EMBEDDED or local_weights(spec) is not None:
        return
    if kind == FILE:
        raise weights_missing(spec, "there is no such file")
    # Imported here: it is slow, and most sweeps do not need it.
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(f"timm/{name}", "model.safetensors"), str):
        raise weights_missing(spec, "HF_HUB_OFFLINE is set and the hub's cache lacks them")


def weights_missing(spec: BackboneSpec, problem: str) -> InputError:
    """The error for weights that are not here, with where to put them."""
    kind, _, name = spec.source.partition(":")
    files = " or ".join(f"{spec.weights}{suffix}" for suffix in SUFFIXES)
    hub = f", or let timm download https://huggingface.co/timm/{name}" if kind == TIMM else ""
    return InputError(
        f"the weights of {spec.name} are not here: {problem}. Put {files} into a folder and let {VARIABLE} name it "
        f"(now {os.environ.get(VARIABLE) or 'not set'}){hub}"
    )
