"""Where the text heads of zero-shot backbones lie, and whether they can be made. Imports no torch.

A text head is one vector for each class, made once by the text tower of open_clip and kept in the cache. Every later
cell, and every machine that is handed the file, does without open_clip.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from tta_core.backbones.downloads import hub_is_offline
from tta_core.backbones.spec import BackboneSpec, TextHeadSpec
from tta_core.backbones.weights import VARIABLE
from tta_core.cache import cache_root
from tta_core.errors import InputError

FOLDER = "text-heads"
INSTALL = "pip install open_clip_torch (the extra `clip` of tta-grid)"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Files of a repository on the hub in which open_clip looks for weights."""

SUFFIXES = (".safetensors", ".pth", f"/{HUB_FILES[0]}")
"""What follows `MODEL.WEIGHTS` in the folder of weights; the last is how `hf download HUB --local-dir` leaves it."""


def head_file(text: TextHeadSpec) -> Path | None:
    """The file with a text head, in the folder that `TTA_GRID_WEIGHTS` names or in the cache; None if there is none."""
    name = head_file_name(text)
    files = [*(folder / name for folder in _weights_folders()), kept_head_file(text)]
    return next((file for file in files if file.is_file()), None)


def head_file_name(text: TextHeadSpec) -> str:
    """Name of the file with a text head, the same in both folders."""
    return f"{text.tag()}.safetensors"


def kept_head_file(text: TextHeadSpec) -> Path:
    """Where a text head is kept once it is made."""
    return cache_root() / FOLDER / head_file_name(text)


def text_weights(text: TextHeadSpec) -> Path | None:
    """The file of the user with the weights of the whole open_clip model; None if there is none."""
    files = [
        Path(f"{folder}/{text.model}.{text.weights}{suffix}") for folder in _weights_folders() for suffix in SUFFIXES
    ]
    return next((file for file in files if file.is_file()), None)


def check_text_head(spec: BackboneSpec) -> None:
    """Looks whether the text head of a zero-shot backbone is here or can be made, without making it.

    Raises:
        InputError: if neither.
    """
    text = spec.text
    if text is None or head_file(text) is not None:
        return
    if not open_clip_installed():
        raise open_clip_missing(spec)
    if text_weights(text) is not None:
        return
    if hub_is_offline() and not _in_hub_cache(text):
        raise text_weights_missing(spec, "HF_HUB_OFFLINE is set and the hub's cache lacks them")


def text_head_state(spec: BackboneSpec) -> str:
    """Says for people where the text head of a zero-shot backbone is, or what it will be made from; empty of others."""
    text = spec.text
    if text is None:
        return ""
    if (found := head_file(text)) is not None:
        return f"text head: {found}"
    try:
        check_text_head(spec)
    except InputError as error:
        return f"text head: MISSING: {error}"
    source = text_weights(text) or f"https://huggingface.co/{text.hub}"
    return f"text head: will be made once from {source} and kept as {kept_head_file(text)}"


def open_clip_installed() -> bool:
    """Whether text heads can be made here; does not import open_clip."""
    return importlib.util.find_spec("open_clip") is not None


def open_clip_missing(spec: BackboneSpec) -> InputError:
    """The error for a text head that is not here, where open_clip is not installed."""
    assert spec.text is not None
    return InputError(
        f"the text head of {spec.name} is not here, and open_clip, which makes it, is not installed: "
        f"{INSTALL}, or put {head_file_name(spec.text)} into a folder and let {VARIABLE} name it "
        f"({_named()}); a machine with open_clip keeps that file in {FOLDER} of its cache"
    )


def text_weights_missing(spec: BackboneSpec, problem: str) -> InputError:
    """The error for weights of a text tower that are not here, with where to put them."""
    text = spec.text
    assert text is not None
    files = " or ".join(f"{text.model}.{text.weights}{suffix}" for suffix in SUFFIXES[:2])
    return InputError(
        f"the text head of {spec.name} is not here, nor are the weights of open_clip's {text.model} ({text.weights}) "
        f"that it is made from: {problem}. Put {head_file_name(text)}, made elsewhere, or the weights as {files} into "
        f"a folder and let {VARIABLE} name it ({_named()}), or let open_clip download https://huggingface.co/{text.hub}"
    )


def _in_hub_cache(text: TextHeadSpec) -> bool:
    # Imported here: it is slow, and most sweeps do not need it.
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(text.hub, file), str) for file in HUB_FILES)


def _weights_folders() -> list[Path]:
    given = os.environ.get(VARIABLE)
    return [Path(given).expanduser().absolute()] if given else []


def _named() -> str:
    return f"now {os.environ.get(VARIABLE) or 'not set'}"
