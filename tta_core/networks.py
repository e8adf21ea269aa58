"""Builds the network of a backbone and loads its weights."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from tta_core.embedded.network import WEIGHTS_FOLDER, build_digits_network
from tta_core.errors import InputError
from tta_core.spec import BackboneSpec
from tta_core.weights import EMBEDDED, FILE, local_weights, weights_missing

WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts put the weights of a network, beside other things."""

NAMES_SHOWN = 3
"""How many of the keys that do not fit a message names."""


def load_backbone(spec: BackboneSpec) -> nn.Module:
    """Builds the network of a backbone with its weights, in eval mode, in float32 on the CPU.

    Raises:
        InputError: if the weights are missing, are not the ones that the table names, or do not fit the network.
    """
    kind, _, name = spec.source.partition(":")
    if kind == EMBEDDED:
        file = WEIGHTS_FOLDER / spec.weights
        return _filled(spec, build_digits_network(name), _shipped_weights(file, spec.sha256), file)
    found = local_weights(spec)
    if found is not None:
        network = timm.create_model(name, pretrained=False, num_classes=spec.num_classes, **spec.options)
        return _filled(spec, network, read_weights(found, spec.sha256), found)
    if kind == FILE:
        raise weights_missing(spec, "there is no such file")
    return _from_hub(spec, name)


def read_weights(file: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads the tensors of a network from a file, executing nothing that is in it.

    What training scripts add is taken off: wrappers around the weights and the prefix `module.`.

    Args:
        file: `.safetensors`, or anything that `torch.load(weights_only=True)` reads.
        sha256: checksum that the file must have; None if any will do.

    Returns:
        Tensors by name on the CPU; floating-point ones as float32.

    Raises:
        InputError: if the file cannot be read, is not the one of the checksum or holds something else.
    """
    try:
        _check_sha256(file, sha256)
        if file.suffix == ".safetensors":
            content = safetensors.torch.load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise InputError(
            f"the weights file {file} cannot be read ({_first_line(error)}): give a whole file; one that holds more "
            "than tensors must be saved again with its tensors only"
        ) from None
    while isinstance(content, Mapping) and (wrapper := next((key for key in WRAPPERS if key in content), None)):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            f"the weights file {file} holds no tensors by name, as `network.state_dict()` gives them: save those"
        )
    prefix = "module." if content and all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): _float32(tensor) for name, tensor in content.items()}


def _filled(spec: BackboneSpec, network: nn.Module, weights: Mapping[str, Tensor], file: Path) -> nn.Module:
    """Puts weights into a network that wants exactly these."""
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = {
        "missing": [name for name in own if name not in given],
        "not in the network": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {given[name]}, not {own[name]}" for name in own if name in given and own[name] != given[name]
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_first(names)}" for what, names in problems.items() if names)
        raise InputError(
            f"the weights in {file} do not fit {spec.name} ({spec.num_classes} classes): {listed}. Give the file of "
            "this very backbone"
        )
    network.load_state_dict(dict(weights))
    return network.eval()


def _from_hub(spec: BackboneSpec, tag: str) -> nn.Module:
    """Lets timm find the weights in the hub's cache or download them."""
    try:
        network = timm.create_model(tag, pretrained=True, **spec.options)
    # The hub's client lets errors of several libraries through, of some only by their common base.
    except Exception as error:
        raise weights_missing(spec, f"timm got none from the hub ({_first_line(error)})") from error
    if network.num_classes != spec.num_classes:
        raise InputError(
            f"{tag} has {network.num_classes} classes, the backbone table says {spec.num_classes}: mend it"
        )
    return network.float().eval()


# A worker runs many cells; the shipped weights are small, so each file is read and checked once.
@lru_cache(maxsize=4)
def _shipped_weights(file: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        _check_sha256(file, sha256)
        return {name: _float32(tensor) for name, tensor in safetensors.torch.load_file(file).items()}
    except OSError as error:
        raise InputError(
            f"the weights file {file} cannot be read ({error.strerror}): install the package again, or make it with "
            "python -m tta_core.embedded.train"
        ) from None


def _check_sha256(file: Path, expected: str | None) -> None:
    if expected is None:
        return
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"the weights file {file.name} has sha256 {found[:12]}..., the backbone table says {expected[:12]}...: "
            "restore the file, or put the new checksum into tta_core/backbones.py"
        )


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _first(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
