"""Singular value decompositions and their files."""

import threading

import pytest
import torch

from tta_core.methods.common import spectral_cache
from tta_core.methods.common.spectral_cache import cached_decomposition, decompose


@pytest.fixture
def weight():
    """Large enough to be cached."""
    return torch.randn(256, 128, generator=torch.Generator().manual_seed(0))


def counted(monkeypatch):
    calls = []
    monkeypatch.setattr(spectral_cache, "decompose", lambda w: calls.append(w) or decompose(w))
    return calls


def only_file(root):
    (file,) = (root / "svd").glob("*.safetensors")
    return file


@pytest.mark.parametrize(("shape", "dtype"), [((30, 12), torch.float32), ((12, 30), torch.float64)])
def test_the_factors_are_orthonormal_and_give_the_matrix_back(shape, dtype):
    matrix = torch.randn(shape, dtype=dtype)
    u, sigma, vh = decompose(matrix)
    assert (u.shape, sigma.shape, vh.shape) == ((shape[0], 12), (12,), (12, shape[1]))
    assert u.dtype == dtype
    for product in (u.T @ u, vh @ vh.T):
        assert torch.allclose(product, torch.eye(12, dtype=dtype), atol=1e-5)
    assert torch.allclose((u * sigma) @ vh, matrix, atol=1e-6)
    assert (sigma.diff() <= 0).all()


def test_directions_without_weight_are_left_out():
    matrix = torch.randn(20, 3) @ torch.randn(3, 10)
    assert decompose(matrix).sigma.shape == (3,)


def test_a_matrix_is_decomposed_once(weight, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    one, other = (cached_decomposition(weight.clone(), root=tmp_path) for _ in range(2))
    assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_other_values_or_another_precision_are_another_file(weight, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    changed = weight.clone()
    changed[3, 5] += 1e-3
    for matrix in (weight, changed, weight.double(), weight.T.contiguous()):
        found = cached_decomposition(matrix, root=tmp_path)
        assert torch.allclose((found.u * found.sigma) @ found.vh, matrix, atol=1e-5)
    assert len(calls) == 4


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "altered"])
def test_a_damaged_file_is_computed_anew(damage, weight, tmp_path, monkeypatch):
    expected = cached_decomposition(weight, root=tmp_path)
    file = only_file(tmp_path)
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(
        {
            "truncated": content[:middle],
            "overwritten": b"not a tensor",
            "altered": content[:middle] + b"\x3f" * 64 + content[middle + 64 :],
        }[damage]
    )
    calls = counted(monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(cached_decomposition(weight, root=tmp_path), expected, strict=True))
    assert len(calls) == 1
    assert file.read_bytes() == content


def test_whoever_comes_while_another_computes_waits_for_its_file(weight, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    threads = [threading.Thread(target=cached_decomposition, args=(weight,), kwargs={"root": tmp_path}) for _ in "four"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert [file.name for file in (tmp_path / "svd").iterdir() if "partial" in file.name] == []


def test_small_matrices_leave_no_file(tmp_path):
    cached_decomposition(torch.randn(64, 64), root=tmp_path)
    assert not list(tmp_path.iterdir())
