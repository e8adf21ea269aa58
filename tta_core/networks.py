"""Builds the network of a backbone and loads its weights."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import safetensors.torch
from torch import Tensor, nn

from tta_core.embedded.network import WEIGHTS_FOLDER, build_digits_vit
from tta_core.errors import InputError
from tta_core.spec import BackboneSpec


def load_backbone(spec: BackboneSpec) -> nn.Module:
    """Builds the network of a backbone with its weights, in eval mode, in float32 on the CPU.

    Raises:
        InputError: if the weights are missing, are not the ones that the table names, or do not fit the network.
    """
    _, _, pretraining = spec.source.partition(":")
    network = build_digits_vit(pretraining)
    try:
        network.load_state_dict(_shipped_weights(spec.weights, spec.sha256))
    except RuntimeError as error:
        raise InputError(f"the weights of {spec.name} do not fit its network: {error}") from None
    return network.eval()


# A worker runs many cells; each pair of weights is read and checked once.
@lru_cache(maxsize=4)
def _shipped_weights(file_name: str, sha256: str) -> dict[str, Tensor]:
    try:
        content = (WEIGHTS_FOLDER / file_name).read_bytes()
    except OSError as error:
        raise InputError(
            f"the weights file {WEIGHTS_FOLDER / file_name} cannot be read ({error.strerror}): install the package "
            "again, or make it with python -m tta_core.embedded.train"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(
            f"the weights file {file_name} has sha256 {found[:12]}..., the backbone table says {sha256[:12]}...: "
            "restore the shipped file, or put the new checksum into tta_core/backbones.py"
        )
    return {name: tensor.float() for name, tensor in safetensors.torch.load(content).items()}
