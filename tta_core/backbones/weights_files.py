"""Reads the tensors of a network from a file, executing nothing that is in it."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tta_core.backbones.own_weights import GIVEN, check_sha256, file_sha256, unreadable
from tta_core.errors import InputError

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
"""Keys under which training scripts put the weights of a network, beside other things."""

HARMLESS: list[Any] = [argparse.Namespace]
"""What training scripts, such as that of MAE, store beside the weights: it holds values and does nothing."""


def read_weights(
    file: Path, sha256: str | None = None, key_map: Mapping[str, str | None] | None = None, *, stated_by: str = GIVEN
) -> dict[str, Tensor]:
    """Reads the tensors of a network.

    What training scripts add is taken off: wrappers around the weights and the prefix `module.`.

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
    content = _content(file)
    while isinstance(content, Mapping) and (wrapper := next((key for key in WRAPPERS if key in content), None)):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            f"the weights file {file} holds no tensors by name, as `network.state_dict()` gives them: save those"
        )
    prefix = "module." if content and all(str(name).startswith("module.") for name in content) else ""
    named = {str(name).removeprefix(prefix): _float32(tensor) for name, tensor in content.items()}
    return renamed(named, key_map, file) if key_map else named


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
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
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
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = first_line(error).partition(". ")[0]
        raise unreadable(file, f"it is cut short, damaged or no weights ({reason}); get it again") from None


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
