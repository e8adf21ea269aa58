"""What methods make before the stream from more than the stream: made once, kept on disk under what it depends on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from tta_core.backbones.table import backbone_spec
from tta_core.cache import cache_root, locked, write_whole
from tta_core.data.benchmarks import CLEAN, benchmark_spec, benchmark_tag
from tta_core.methods.context import Artefact
from tta_core.run.config import RunConfig, canonical_hash

FOLDER = "prepared"
LOCK_SECONDS = 24 * 3600.0
"""How long to wait for another process that prepares the same: training on a large source takes hours."""

log = logging.getLogger(__name__)


def artefact_key(config: RunConfig, network: nn.Module, device: torch.device) -> dict[str, Any]:
    """Everything that an artefact depends on; equal keys, equal artefacts.

    Seed, batch size, stream and severity of the cell are not in it: all cells of a network and a method share one.
    """
    spec, benchmark, backbone = (
        config.method_spec,
        benchmark_spec(config.benchmark),
        backbone_spec(config.backbone),
    )
    assert spec.preparation is not None, "only methods that prepare something have a key"
    # Of the named part of the photographs: only then is this in the key.
    part = {"subset": config.subset_hash} if config.part_of(CLEAN) is not None else {}
    return part | {
        "method": spec.name,
        "preparation": spec.preparation.version,
        "settings": {name: config.settings[name] for name in spec.preparation.settings},
        "needs": list(config.needs()),
        "weights": weights_digest(network),
        "benchmark": benchmark_tag(benchmark, (CLEAN, *benchmark.held_out_domains)),
        "data_seed": config.data_seed,
        "crop": str(config.cut),
        "normalisation": {"mean": list(backbone.mean), "std": list(backbone.std)},
        "device": device.type,
    }


def weights_digest(network: nn.Module) -> str:
    """Hash of the names, shapes, types and values of everything in a network's state."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def kept_artefact(
    key: dict[str, Any], make: Callable[[], Artefact], device: torch.device, *, root: Path | None = None
) -> tuple[Artefact, str]:
    """Reads the artefact of a key, or makes and keeps it.

    Any number of processes may ask at once: one makes it, the others wait. A damaged file is made anew. What is handed
    out has always been through the file, so that the first cell computes with the very numbers of all others.

    Args:
        key: everything that the artefact depends on, from `artefact_key`.
        make: makes it.
        device: where its tensors are wanted.
        root: folder of the cache; `cache_root()` unless given.

    Returns:
        The artefact, and twelve hexadecimal digits of the hash of its key.

    Raises:
        InputError: if the folder of the cache cannot be written to, or the disk is full.
    """
    name = canonical_hash(key)
    path = (cache_root() if root is None else root) / FOLDER / f"{key['method']}-{name}.safetensors"
    found = _read(path, device)
    if found is None:
        with locked(path, seconds=LOCK_SECONDS):
            found = _read(path, device)
            if found is None:
                log.info("preparing %s for %s", path.name, key["benchmark"])
                made = {part: tensor.detach().cpu().contiguous() for part, tensor in make().items()}
                content = safetensors.torch.save(made)
                write_whole(path, lambda file: file.write(content))
                found = {part: tensor.to(device) for part, tensor in safetensors.torch.load(content).items()}
    return found, name


def _read(path: Path, device: torch.device) -> Artefact | None:
    """Reads the file; None if there is none or if it is damaged."""
    try:
        return safetensors.torch.load_file(path, device=str(device))
    except (OSError, safetensors.SafetensorError):
        return None
