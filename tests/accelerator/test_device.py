"""The stand-in accelerator itself: what it refuses, what it counts, what it computes."""

import copy
import io

import pytest
import torch

from tests.accelerator.device import DEVICE, waits


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_what_is_computed_is_what_the_cpu_computes():
    x, w = numbers(4, 3), numbers(3, 2).requires_grad_()
    own = w.detach().to(DEVICE).requires_grad_()
    for weight, given in ((w, x), (own, x.to(DEVICE))):
        torch.relu(given @ weight)[1:].view(-1).square().sum().backward()
    assert own.grad.device == DEVICE
    assert torch.equal(own.grad.cpu(), w.grad)


def test_a_network_moves_is_copied_and_comes_back_from_a_file():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(DEVICE)
    file = io.BytesIO()
    torch.save(copy.deepcopy(network).double().state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert {tensor.device for tensor in loaded.values()} == {DEVICE}
    assert torch.equal(loaded["0.weight"].cpu(), network[0].weight.double().cpu())


@pytest.mark.parametrize(
    "mix",
    [lambda there, here: there + here, lambda there, here: torch.stack([there[0], here[0]]), torch.minimum],
    ids=["sum", "stack", "minimum"],
)
def test_devices_do_not_mix(mix):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mix(numbers(3).to(DEVICE), numbers(3))


def test_a_number_of_the_cpu_may_stand_beside_tensors_of_the_device():
    assert (numbers(3).to(DEVICE) * torch.tensor(2.0)).device == DEVICE


READING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.cpu().numpy(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "write by mask": lambda x: x.index_put_((x == x,), x.clone()),
    "index by a number": lambda x: x[x.argmax()],
    "copy out": lambda x: torch.empty(3).copy_(x),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=DEVICE),
    "copy in": lambda x: x.copy_(numbers(3)),
    "unpinned": lambda x: numbers(3).to(DEVICE, non_blocking=True),
    "synchronize": lambda x: torch.get_device_module(DEVICE).synchronize(),
}
RUNNING = {
    "sum": lambda x: x.sum(),
    "where": lambda x: torch.where(x > 0, x, 0),
    "masked_fill": lambda x: x.masked_fill_(x > 0, 1.0),
    "write one number by mask": lambda x: x.__setitem__(x > 0, 1.0),
    "full": lambda x: torch.full((), 3, device=DEVICE),
    "pinned": lambda x: numbers(3).pin_memory().to(DEVICE, non_blocking=True),
    "views": lambda x: x.view(3, 1).unsqueeze(0).expand(2, 3, 1).clone(),
}


@pytest.mark.parametrize("name", READING)
def test_what_the_host_waits_for_is_counted(name):
    there = numbers(3).to(DEVICE)
    with waits() as found:
        READING[name](there)
    assert len(found) == 1


@pytest.mark.parametrize("name", RUNNING)
def test_what_it_does_not_wait_for_is_not(name):
    there = numbers(3).to(DEVICE)
    with waits() as found:
        RUNNING[name](there)
    assert not found


def test_numpy_takes_no_tensor_of_the_device():
    with pytest.raises(TypeError, match="numpy"):
        numbers(3).to(DEVICE).numpy()


@pytest.mark.parametrize(
    "make",
    [
        lambda where: torch.arange(7, device=where),
        lambda where: torch.arange(1.0, 4.0, 0.5, device=where),
        lambda where: torch.eye(2, 3, device=where),
        lambda where: torch.linspace(0, 1, 5, device=where),
        lambda where: torch.full((2,), 3, device=where),
    ],
    ids=["arange", "arange by half", "eye", "linspace", "full"],
)
def test_what_is_made_there_has_its_shape(make):
    made = make(DEVICE)
    assert made.device == DEVICE
    assert torch.equal(made.cpu(), make("cpu"))
    assert len(made) == len(make("cpu"))
    assert made.dtype == make("cpu").dtype


def test_a_change_of_shape_is_refused():
    with pytest.raises(NotImplementedError, match="changes a shape"):
        torch.sub(numbers(3).to(DEVICE), 1, out=torch.empty(0, device=DEVICE))


def test_autocast_may_be_entered():
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert (numbers(3, 3).to(DEVICE) @ numbers(3, 3).to(DEVICE)).device == DEVICE
