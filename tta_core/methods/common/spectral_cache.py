"""Singular value decompositions of weight matrices, kept on disk under the hash of the weights (imse §1.1)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tta_core.cache import cache_root, locked, write_whole

SMALLEST_SINGULAR_VALUE = 1e-6
"""Directions with smaller singular values are left out."""

SMALLEST_CACHED = 2**15
"""Matrices with fewer entries are decomposed each time: below, that takes less than a millisecond."""

PROBE_TOLERANCE = 1e3
"""Largest relative error of the recomposed matrix on a probe vector, in machine epsilons, for an undamaged file."""


class Decomposition(NamedTuple):
    """W = U diag(sigma) V^T: `u` (rows, rank), `sigma` (rank,) in falling order, `vh` (rank, columns)."""

    u: Tensor
    sigma: Tensor
    vh: Tensor


def decompose(weight: Tensor) -> Decomposition:
    """Decomposes a matrix `(rows, columns)`, exact but for singular values up to 1e-6.

    It is done in float64 on the CPU and rounded: a float32 product with all three factors then errs no more than one
    with the matrix itself, and no device gives other factors.

    Returns:
        Factors in the precision and on the device of `weight`.
    """
    u, sigma, vh = torch.linalg.svd(weight.detach().to("cpu", torch.float64), full_matrices=False)
    rank = int((sigma > SMALLEST_SINGULAR_VALUE).sum())
    return Decomposition(*(factor.contiguous().to(weight) for factor in (u[:, :rank], sigma[:rank], vh[:rank])))


def cached_decomposition(weight: Tensor, *, root: Path | None = None) -> Decomposition:
    """As `decompose`, but large matrices are decomposed once for all processes.

    Any number of processes may ask at once: one computes, the others wait. A damaged file is computed anew.

    Args:
        weight: matrix `(rows, columns)`.
        root: folder of the cache; `cache_root()` unless given.

    Raises:
        InputError: if the folder of the cache cannot be written to, or the disk is full.
    """
    if weight.numel() < SMALLEST_CACHED:
        return decompose(weight)
    path = (cache_root() if root is None else root) / "svd" / f"{_digest(weight)}.safetensors"
    found = _read(path, weight)
    if found is not None:
        return found
    with locked(path):
        found = _read(path, weight)
        if found is None:
            found = decompose(weight)
            content = save({name: factor.cpu() for name, factor in found._asdict().items()})
            write_whole(path, lambda file: file.write(content))
    return found


def _digest(weight: Tensor) -> str:
    """Hash of shape, precision and values."""
    values = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{tuple(weight.shape)} {weight.dtype}".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()


def _read(path: Path, weight: Tensor) -> Decomposition | None:
    """Reads the file; None if there is none, or if it does not hold factors of `weight`."""
    try:
        factors = load_file(path, device=str(weight.device))
        found = Decomposition(factors["u"], factors["sigma"], factors["vh"])
        return found if _recomposes(found, weight) else None
    except (OSError, SafetensorError, KeyError, RuntimeError):
        return None


def _recomposes(found: Decomposition, weight: Tensor) -> bool:
    """Whether U diag(sigma) V^T and the matrix take one arbitrary vector to the same place."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(weight.shape[1], generator=generator, dtype=torch.float64).to(found.u)
    expected = weight.detach().to(found.u) @ probe
    error = found.u @ (found.sigma * (found.vh @ probe)) - expected
    return bool(error.norm() <= PROBE_TOLERANCE * torch.finfo(found.u.dtype).eps * expected.norm())
