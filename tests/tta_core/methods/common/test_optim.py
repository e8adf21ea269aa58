"""SAM's ascent and Adam's memory (imse §1.4)."""

import pytest
import torch

from tta_core.methods.common.optim import adam_memory, ascend, load_adam_memory, put_back


@pytest.fixture
def parameters():
    """Three parameters with gradients, and one without."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (4, 7, 2, 3)]
    for parameter in made[:3]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return made


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def test_the_ascent_has_length_rho_and_the_direction_of_the_joint_gradient(parameters):
    before = flat(parameters)
    ascend(parameters, 0.05)
    move = flat(parameters) - before
    gradient = flat([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters])
    assert move.norm() == pytest.approx(0.05, rel=1e-5)
    assert torch.allclose(move, 0.05 * gradient / gradient.norm(), atol=1e-6)


def test_restoring_gives_the_same_bits(parameters):
    before = [parameter.clone() for parameter in parameters]
    put_back(parameters, ascend(parameters, 0.3))
    assert all(torch.equal(parameter, value) for parameter, value in zip(parameters, before, strict=True))


def test_a_zero_gradient_moves_nothing(parameters):
    for parameter in parameters[:3]:
        parameter.grad.zero_()
    before = flat(parameters)
    ascend(parameters, 0.05)
    assert torch.equal(flat(parameters), before)


def stepped(optimizer, parameters, steps):
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_adam_goes_on_from_a_loaded_memory_as_if_it_were_its_own(parameters):
    optimizer = torch.optim.Adam(parameters)
    stepped(optimizer, parameters, 3)
    memory, values = adam_memory(optimizer, parameters), [p.clone() for p in parameters]
    stepped(optimizer, parameters, 2)
    expected = flat(parameters)
    other = torch.optim.Adam(parameters)
    put_back(parameters, values)
    load_adam_memory(other, parameters, memory)
    stepped(other, parameters, 2)
    assert torch.equal(flat(parameters), expected)


def test_the_memory_is_a_copy_in_both_directions(parameters):
    optimizer = torch.optim.Adam(parameters)
    stepped(optimizer, parameters, 1)
    memory = adam_memory(optimizer, parameters)
    kept = memory.clone()
    stepped(optimizer, parameters, 2)
    assert torch.equal(memory, kept)
    load_adam_memory(optimizer, parameters, memory)
    stepped(optimizer, parameters, 1)
    assert torch.equal(memory, kept)


def test_the_memory_before_the_first_step_is_that_of_a_new_optimizer(parameters):
    used, new = torch.optim.Adam(parameters), torch.optim.Adam(parameters)
    memory, values = adam_memory(new, parameters), [p.clone() for p in parameters]
    assert not memory.any()
    stepped(new, parameters, 2)
    expected = flat(parameters)
    stepped(used, parameters, 5)
    put_back(parameters, values)
    load_adam_memory(used, parameters, memory)
    stepped(used, parameters, 2)
    assert torch.equal(flat(parameters), expected)
