"""Updates that the device may undo, and the recovery from a collapse."""

import pytest
import torch
from torch import nn

from tta_core.methods.common.recovery import Recovery, assign, flat, step_where

YES, NO = torch.tensor(True), torch.tensor(False)


def trained(momentum=0.9, nesterov=False):
    torch.manual_seed(0)
    network = nn.Linear(3, 2).double()
    return dict(network.named_parameters()), torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=momentum, nesterov=nesterov
    )


def set_gradients(parameters, value):
    for number, parameter in enumerate(parameters.values()):
        parameter.grad = torch.full_like(parameter, value + number)


def momenta(parameters, optimizer):
    return [optimizer.state[p]["momentum_buffer"].clone() for p in parameters.values()]


def recovery(threshold=0.2, *, clears_memory=True):
    return Recovery(threshold, 0.9, clears_memory=clears_memory, device=torch.device("cpu"))


def test_flat_and_assign_are_inverse():
    tensors = [torch.arange(6.0).view(2, 3), torch.tensor(7.0), torch.arange(2.0)]
    row = flat(tensors)
    assert row.tolist() == [0, 1, 2, 3, 4, 5, 7, 0, 1]
    kept = [torch.zeros_like(tensor) for tensor in tensors]
    assign(kept, row)
    assert all(torch.equal(one, other) for one, other in zip(kept, tensors, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_that_counts_is_the_optimizers_own(momentum):
    (ours, optimizer), (theirs, plain) = trained(momentum), trained(momentum)
    for value in (1.0, -2.0, 0.5):
        set_gradients(ours, value), set_gradients(theirs, value)
        step_where(optimizer, YES)
        plain.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_that_does_not_count_leaves_parameters_and_momentum_as_they_are(momentum):
    parameters, optimizer = trained(momentum)
    before = flat(list(parameters.values()))
    set_gradients(parameters, 1.0)
    step_where(optimizer, NO)
    assert torch.equal(flat(list(parameters.values())), before)
    step_where(optimizer, YES)
    moved = flat(list(parameters.values()))
    memory = momenta(parameters, optimizer) if momentum else []
    set_gradients(parameters, 0.0)
    step_where(optimizer, NO)
    assert torch.equal(flat(list(parameters.values())), moved)
    if momentum:
        assert all(torch.equal(a, b) for a, b in zip(memory, momenta(parameters, optimizer), strict=True))
    # The step that did not count has left nothing behind: the next one is what it would have been without it.
    reference, plain = trained(momentum)
    for value in (1.0, 2.0):
        set_gradients(reference, value)
        plain.step()
    set_gradients(parameters, 2.0)
    step_where(optimizer, YES)
    assert all(torch.equal(parameters[name], reference[name]) for name in parameters)


def test_parameters_without_a_gradient_are_not_stepped():
    parameters, optimizer = trained()
    before = parameters["bias"].clone()
    parameters["weight"].grad = torch.ones_like(parameters["weight"])
    step_where(optimizer, YES)
    assert torch.equal(parameters["bias"], before)
    assert list(optimizer.state) == [parameters["weight"]]


def test_the_average_starts_at_the_first_loss_and_skips_steps_that_do_not_count():
    follower = recovery()
    for loss, counts in ((5.0, NO), (1.0, YES), (2.0, YES), (9.0, NO), (0.0, YES)):
        follower.follow(torch.tensor(loss), counts)
    assert float(follower.average) == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2))
    assert follower.average.dtype == torch.float64


def test_no_average_is_not_a_low_one():
    parameters, optimizer = trained()
    before = flat(list(parameters.values()))
    source = {name: torch.zeros_like(p) for name, p in parameters.items()}
    assert not recovery().recover(optimizer, parameters, source)["reset"]
    assert torch.equal(flat(list(parameters.values())), before)


@pytest.mark.parametrize("clears_memory", [True, False])
def test_a_low_average_puts_the_source_back(clears_memory):
    parameters, optimizer = trained()
    source = {name: p.detach().clone() for name, p in parameters.items()}
    set_gradients(parameters, 1.0)
    optimizer.step()
    memory = momenta(parameters, optimizer)
    follower = recovery(clears_memory=clears_memory)
    follower.follow(torch.tensor(0.1), YES)
    record = follower.recover(optimizer, parameters, source)
    assert record["reset"]
    assert float(record["ema"]) == pytest.approx(0.1)
    assert all(torch.equal(parameters[name], source[name]) for name in source)
    assert bool(follower.started) != clears_memory
    for before, after in zip(memory, momenta(parameters, optimizer), strict=True):
        assert torch.equal(after, torch.zeros_like(after) if clears_memory else before)
    # Only a low average that was written back is low again: 0.9 x 0.1 + 0.1 x 0.3.
    follower.follow(torch.tensor(0.3), YES)
    assert bool(follower.recover(optimizer, parameters, source)["reset"]) != clears_memory


@pytest.mark.parametrize("nesterov", [False, True])
def test_after_a_recovery_that_clears_everything_steps_are_those_of_a_fresh_optimizer(nesterov):
    (parameters, optimizer), (fresh, plain) = trained(nesterov=nesterov), trained(nesterov=nesterov)
    source = {name: p.detach().clone() for name, p in parameters.items()}
    follower = recovery()
    for value in (3.0, -1.0):
        set_gradients(parameters, value)
        optimizer.step()
    follower.follow(torch.tensor(0.0), YES)
    follower.recover(optimizer, parameters, source)
    for value in (1.0, 2.0):
        set_gradients(parameters, value), set_gradients(fresh, value)
        optimizer.step(), plain.step()
        assert all(torch.equal(parameters[name], fresh[name]) for name in fresh)


def test_a_threshold_of_zero_never_recovers():
    parameters, optimizer = trained()
    source = {name: torch.zeros_like(p) for name, p in parameters.items()}
    follower = recovery(0.0)
    follower.follow(torch.tensor(0.0), YES)
    assert not follower.recover(optimizer, parameters, source)["reset"]
    assert all(parameter.any() for parameter in parameters.values())


def test_the_state_of_a_recovery_comes_back():
    one, other = recovery(), recovery()
    one.follow(torch.tensor(0.7), YES)
    other.load_state_dict(one.state_dict())
    assert other.average == one.average
    assert other.started
