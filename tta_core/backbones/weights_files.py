"""Reads the tensors of a network from a file, executing nothing that is in it."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tta_core.backbones.own_weights import GIVEN, check_sha256, file_sha256, unreadable
from tta_core.errors import InputError, first_names

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
"""Keys under which training scripts put the weights of a network, the first of several that are there counts."""

AVERAGED = re.compile(r"(^|_)ema(_|$)")
"""What the key of averaged weights has in it, such as `state_dict_ema`. They count first, as in timm."""

COUNTER = "n_averaged"
"""What `torch.optim.swa_utils.AveragedModel` puts beside the tensors of its `module.`."""

DEPTH = 4
"""Wrappers within wrappers that are looked into."""

OTHER_FILES = (
    (
        rb"(?i)\s*(<!doctype html|<html|<head|<\?xml)",
        "it is a web page, such as a login or a warning before a download: "
        "open the address in a browser, and take the file that it leads to",
    ),
    (rb"version https://git-lfs", "it is a Git LFS pointer, which stands for the file: get it with git lfs pull"),
    (
        rb"(\.\./)*(\.git)?/?annex/objects",
        "it is a git-annex pointer, which stands for the file: get it with git annex get",
    ),
    (rb"\s*\{\s*\"", "it is JSON, such as a server's message or a model's description: get the file with the tensors"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd",
        "it is compressed: unpack it, and give the file in it",
    ),
    (rb"\x89HDF", "it is HDF5, as of Keras: convert it to tensors of PyTorch by name"),
    (rb"\x93NUMPY", "it is an array of numpy: save tensors by name"),
)
"""How files that are given for weights begin -> what they are and what to do."""

BEGINNING = 512
"""Bytes of a file that are looked at for that."""

HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "fdilqB?"),
    np.float64(0).__reduce__()[0],
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]
"""What training scripts store beside weights, such as arguments and accuracies: it holds values and does nothing."""


def read_weights(
    file: Path, sha256: str | None = None, key_map: Mapping[str, str | None] | None = None, *, stated_by: str = GIVEN
) -> dict[str, Tensor]:
    """Reads the tensors of a network.

    What training scripts add is taken off: wrappers around the weights and the prefix `module.`. Where averaged weights
    (EMA) are beside others, they are taken.

    Args:
        file: `.safetensors`, or anything that `torch.load(weights_only=True)` reads.
        sha256: checksum that the file must have; None if any will do.
        key_map: see `tta_core.backbones.own_weights.OwnWeights`.
        stated_by: who states the checksum, for the message.

    Returns:
        Tensors by name on the CPU; floating-point ones as float32.

    Raises:
        InputError: if the file cannot be read, is not the one of the checksum or holds something else.
    """
    if sha256 is None:
        _look_at(file)
    else:
        check_sha256(file, sha256, stated_by=stated_by)
    content = dict(_tensors(_content(file), file))
    if all(name.startswith("module.") for name in content.keys() - {COUNTER}):
        content.pop(COUNTER, None)
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    named = {name: _float32(tensor) for name, tensor in content.items()}
    return renamed(named, key_map, file) if key_map else named


def _tensors(content: object, file: Path) -> Mapping[str, Tensor]:
    """The tensors of a network in what a training script saved.

    Raises:
        InputError: if there are none, or several networks.
    """
    found = {".".join(path): tensors for path, tensors in _networks(content)}
    if not found:
        keys = (
            f": it has {first_names([str(key) for key in content]) or 'nothing'}" if isinstance(content, dict) else ""
        )
        raise InputError(
            f"the weights file {file} holds no tensors by name, as `network.state_dict()` gives them{keys}. Save those"
        )
    averaged = [key for key in found if any(AVERAGED.search(part) for part in key.split("."))]
    wrapped = ([key for key in found if key.partition(".")[0] == name] for name in WRAPPERS)
    chosen = averaged or next(filter(None, wrapped), list(found))
    if len(chosen) > 1:
        raise InputError(
            f"the weights file {file} holds several networks: {first_names(chosen)}. Save the tensors of the one meant"
        )
    return found[chosen[0]]


def _networks(content: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    """Where tensors by name stand in nested mappings. States of optimizers are none: their keys are numbers."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield path, content
    elif len(path) < DEPTH:
        for key, value in content.items():
            if "optim" not in key and "scaler" not in key:
                yield from _networks(value, (*path, key))


def renamed(tensors: Mapping[str, Tensor], key_map: Mapping[str, str | None], file: Path) -> dict[str, Tensor]:
    """Gives tensors the names of the network.

    Args:
        tensors: tensors by name.
        key_map: beginnings of names -> what stands there instead, None to leave the tensor out; the longest counts.
        file: where they come from, for the message.

    Raises:
        InputError: if an entry fits no name, or two tensors would have the same.
    """
    unused, found = set(key_map), dict[str, Tensor]()
    for name, tensor in tensors.items():
        fitting = [prefix for prefix in key_map if name.startswith(prefix)]
        unused.difference_update(fitting)
        if not fitting:
            new = name
        else:
            longest = max(fitting, key=len)
            start = key_map[longest]
            if start is None:
                continue
            new = start + name.removeprefix(longest)
        if new in found:
            raise InputError(f"key_map makes two tensors of {file} the same {new!r}: correct it")
        found[new] = tensor
    if unused:
        shown = ", ".join(list(tensors)[:5])
        raise InputError(
            f"key_map: no tensor of {file} begins with {' or '.join(map(repr, sorted(unused)))}: correct or remove it; "
            f"the names are {shown}, ..."
        )
    return found


def _look_at(file: Path) -> None:
    """Raises the errors of `file_sha256` without computing it."""
    if not (file.is_file() and file.stat().st_size):
        file_sha256(file)


def _content(file: Path) -> object:
    try:
        with file.open("rb") as opened:
            beginning = opened.read(BEGINNING)
        # Names of files may say something else than what they are: torch writes zip archives, or pickles before.
        # The first bytes of safetensors are the size of a header, which may begin as these do.
        header = int.from_bytes(beginning[:8], "little")
        safe = beginning[8:9] == b"{" and header < file.stat().st_size
        by_torch = not safe and beginning.startswith((b"PK", b"\x80"))
        for pattern, told in () if safe else OTHER_FILES:
            if re.match(pattern, beginning):
                raise unreadable(file, told)
        if safe or (file.suffix == ".safetensors" and not by_torch):
            return safetensors.torch.load_file(file)
        # Opened, since of a path torch looks at the suffix.
        with torch.serialization.safe_globals(HARMLESS), file.open("rb") as opened:
            return torch.load(opened, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except PermissionError as error:
        raise unreadable(file, f"{error.strerror}: give this user the right to read it") from None
    except safetensors.SafetensorError as error:
        raise unreadable(file, f"it is no whole safetensors file ({first_line(error)}); get it again") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise unreadable(
            file,
            f"it holds more than tensors ({found[1]}), and such things are never loaded, as they could run any code; "
            "where you trust it, load it and save its tensors only"
            if found
            else "it is damaged, or no file that torch.save wrote; get it again",
        ) from None
    # A file may hold anything, and torch lets any error through.
    except Exception as error:
        reason = first_line(error).partition(". ")[0]
        if "TorchScript" in str(error):
            raise unreadable(file, "it is a program (TorchScript); save the tensors of its state_dict()") from None
        raise unreadable(file, f"it is cut short, damaged or no weights ({reason}); get it again") from None


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
