"""The written-out products and gradients against autograd's."""

import pytest
import torch

from tta_core.methods.moase import sparse_mlp as module
from tta_core.methods.moase.selection import where_positive

BATCH, TOKENS, EXPERTS, BOTTLENECK, DIM = 5, 3, 4, 6, 8
IDLE = 1
"""Number of the expert that keeps nothing."""
SCALE = 0.8


@pytest.fixture
def arguments():
    """Onto, tokens, routing, weights, down weight, down bias, up weight, up bias."""
    generator = torch.Generator().manual_seed(0)
    matrices = (EXPERTS, BOTTLENECK, DIM)
    images, shares = (BATCH, TOKENS, DIM), (BATCH, TOKENS, EXPERTS)
    shapes = [images, images, shares, shares, matrices, (EXPERTS, BOTTLENECK), matrices, (EXPERTS, DIM)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


def select(hidden, images, experts):
    """Keeps what is below 1 + the number of the image; one expert keeps nothing."""
    limit = 1 + torch.arange(BATCH, dtype=hidden.dtype)[images].view(-1, 1, 1, 1)
    kept = where_positive(hidden, limit - hidden.detach())
    numbers = torch.arange(EXPERTS)[experts]
    if numbers.tolist() == [IDLE]:
        return None
    return kept * (numbers != IDLE).unsqueeze(-1)


def written_out(*given):
    return module.SparseMLP.apply(*given, select, SCALE)


def by_autograd(onto, tokens, routing, weights, down_weight, down_bias, up_weight, up_bias):
    hidden = (torch.einsum("btd,erd->bter", tokens, down_weight) + down_bias).relu()
    kept = select(hidden, slice(None), slice(0, EXPERTS))
    return onto + SCALE * (torch.einsum("bter,bte,erd->btd", kept, weights, up_weight) + routing @ up_bias)


def value_and_gradients(function, arguments):
    value = function(*arguments)
    return [value, *torch.autograd.grad(value.square().sum(), arguments)]


@pytest.mark.parametrize("images_at_once", [1, 2, BATCH])
def test_pieces_for_the_cache_give_what_autograd_gives(images_at_once, arguments, monkeypatch):
    monkeypatch.setattr(module, "CACHED_VALUES", images_at_once * TOKENS * BOTTLENECK)
    expected = value_and_gradients(by_autograd, arguments)
    found = value_and_gradients(written_out, arguments)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_all_at_once_as_on_a_device_gives_what_autograd_gives(arguments, monkeypatch):
    monkeypatch.setattr(module, "works_in_pieces", lambda device: False)
    expected = value_and_gradients(by_autograd, arguments)
    found = value_and_gradients(written_out, arguments)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_any_memory_layout_will_do(arguments):
    def transposed(onto, tokens, *rest):
        return written_out(onto.mT.contiguous().mT, tokens.mT.contiguous().mT, *rest).mT.contiguous().mT

    expected = value_and_gradients(by_autograd, arguments)
    found = value_and_gradients(transposed, arguments)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_every_image_and_expert_is_in_one_piece(arguments, monkeypatch):
    monkeypatch.setattr(module, "CACHED_VALUES", 2 * TOKENS * BOTTLENECK)
    seen = torch.zeros(BATCH, EXPERTS)
    for images, experts in module._pieces(arguments[1], arguments[5]):
        seen[images, experts] += 1
    assert (seen == 1).all()


def test_autocast_of_the_caller_does_not_reach_the_gradients(arguments):
    single = [tensor.detach().float().requires_grad_() for tensor in arguments]
    expected = value_and_gradients(written_out, single)
    value = written_out(*single).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(value, single)
    assert all(torch.equal(a, b) for a, b in zip(found, expected[1:], strict=True))
