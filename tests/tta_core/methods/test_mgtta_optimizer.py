import copy
import math

import pytest
import torch
from torch.nn import functional

from tta_core.methods.mgtta.learned_optimizer import (
    LearnedOptimizer,
    Memory,
    MetaParameters,
    initial_meta,
    respond,
    shapes,
    start,
)

SCALARS = 5


@pytest.fixture
def meta():
    """Parameters of the size that trained ones have."""
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes().items()}
    return MetaParameters(**values)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_scalar(meta, matrix, bias, u):
    """The formulas of mixed §2.8 for one scalar, with autograd for the inner gradient."""
    layer_norm = functional.layer_norm
    q, k, v = meta.query @ u, meta.key @ u, meta.value @ u
    eta = max(0.0, 1 + float(meta.rate_offset)) * torch.sigmoid(meta.rate_weight @ u + meta.rate_bias) / 8
    z = (k @ matrix + bias).detach().requires_grad_()
    error = 0.5 * (layer_norm(z, (8,), meta.inner_scale, meta.inner_bias, 1e-6) - (v - k).detach()).square().sum()
    (gradient,) = torch.autograd.grad(error, z)
    matrix, bias = matrix - eta * torch.outer(k, gradient), bias - eta * gradient
    o = q + layer_norm(q @ matrix + bias, (8,), meta.inner_scale, meta.inner_bias, 1e-6)
    return torch.tanh(meta.output @ layer_norm(o, (8,), meta.outer_scale, meta.outer_bias, 1e-6)), matrix, bias


def test_it_has_164_numbers():
    generator = torch.Generator().manual_seed(0)
    assert sum(parameter.numel() for parameter in initial_meta(generator, torch.empty(0))) == 164


def test_all_scalars_at_once_are_the_formula_for_each(meta):
    memory = Memory(normal(8, 8, SCALARS), normal(8, SCALARS, seed=2))
    inputs = normal(2, SCALARS, seed=3)
    response, after = respond(meta, memory, inputs)
    for number in range(SCALARS):
        expected, matrix, bias = one_scalar(
            meta, memory.matrix[..., number], memory.bias[..., number], inputs[:, number]
        )
        assert response[number].item() == pytest.approx(expected.item(), abs=1e-12)
        assert torch.allclose(after.matrix[..., number], matrix)
        assert torch.allclose(after.bias[..., number], bias)


def test_the_memory_does_not_learn_at_a_negative_rate(meta):
    memory = start(meta, SCALARS)
    _, after = respond(meta._replace(rate_offset=torch.tensor(-1.5, dtype=torch.float64)), memory, normal(2, SCALARS))
    assert torch.equal(after.matrix, memory.matrix)
    assert torch.equal(after.bias, memory.bias)


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_inputs_are_adams_and_the_release_is_one_step_ahead(ahead, meta):
    optimizer = LearnedOptimizer(meta, 1, (0.9, 0.99), ahead)
    first, second = 0.5, -2.0
    mean = square = 0.0
    memory = start(meta, 1)
    for step, gradient in enumerate((first, second), start=1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        root = math.sqrt(square / (1 - 0.99 ** (step + ahead))) + 1e-8
        inputs = torch.tensor([[mean / (1 - 0.9 ** (step + ahead)) / root], [gradient / root]], dtype=torch.float64)
        expected, memory = respond(meta, memory, inputs)
        found = optimizer.update(torch.tensor([gradient], dtype=torch.float64))
        assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_gradients_of_zero_stay_finite(meta):
    assert LearnedOptimizer(meta, SCALARS, (0.9, 0.99), 0).update(torch.zeros(SCALARS).double()).isfinite().all()


def test_scalars_do_not_see_each_other(meta):
    gradients = normal(3, SCALARS)
    together = LearnedOptimizer(meta, SCALARS, (0.9, 0.99), 0)
    alone = LearnedOptimizer(meta, 1, (0.9, 0.99), 0)
    for gradient in gradients:
        assert torch.allclose(together.update(gradient)[2:3], alone.update(gradient[2:3]))


def test_the_graph_goes_back_one_step_only(meta):
    leaves = MetaParameters(*(parameter.clone().requires_grad_() for parameter in meta))
    optimizer = LearnedOptimizer(leaves, SCALARS, (0.9, 0.99), 0)
    optimizer.update(normal(SCALARS)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in leaves)
    for parameter in leaves:
        parameter.grad = None
    optimizer.update(normal(SCALARS, seed=4)).sum().backward()
    assert leaves.start_matrix.grad is None
    assert leaves.query.grad.abs().sum() > 0


def test_a_state_is_taken_back(meta):
    one, other = (LearnedOptimizer(meta, SCALARS, (0.9, 0.99), 0) for _ in range(2))
    for seed in range(3):
        one.update(normal(SCALARS, seed=seed))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one.update(normal(SCALARS)), other.update(normal(SCALARS)))
