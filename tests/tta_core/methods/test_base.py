"""What all methods share beyond the contract that the registry-driven tests check."""

import io

import pytest
import torch
from torch import nn

from tests.states import equal
from tta_core import build_method
from tta_core.errors import InputError
from tta_core.frozen import Frozen
from tta_core.methods.base import Method
from tta_core.methods.context import Context
from tta_core.methods.registry import methods
from tta_core.methods.stateful import Remembering


@pytest.fixture
def build(network_of, beyond):
    """Builds a method around the small network with all that a runner hands over."""

    def make(name, **changes):
        return build_method(name, network_of(name), **{"num_classes": 10, "batch_size": 16, **beyond(), **changes})

    return make


def saved(method):
    """Everything in a method's state, as bytes."""
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    return file.getvalue()


@pytest.mark.parametrize("name", list(methods()))
def test_predicting_between_steps_leaves_nothing_behind(name, build, images):
    watched, undisturbed = (build(name, preset="digits-c") for _ in range(2))
    for seed in range(3):
        watched.predict(images(7, seed + 50))
        before = saved(watched)
        record = dict(watched.record)
        logits = watched.predict(images(16, seed))
        assert logits.shape == (16, 10)
        assert not logits.requires_grad
        assert torch.equal(logits, watched.predict(images(16, seed)))
        assert watched.record == record
        assert saved(watched) == before
        assert torch.equal(watched(images(16, seed)), undisturbed(images(16, seed)))
    assert saved(watched) == saved(undisturbed)
    assert watched.diagnostics() == undisturbed.diagnostics()


@pytest.mark.parametrize("name", [n for n, m in methods().items() if m.scores_of(m.settings()) == "pre-update"])
def test_a_prediction_is_what_the_next_step_scores(name, build, images):
    method = build(name, preset="digits-c", **methods()[name].scores_as_it_stands)
    for seed in range(2):
        predicted = method.predict(images(16, seed))
        assert torch.allclose(method(images(16, seed)), predicted, atol=1e-5)


@pytest.mark.parametrize("name", list(methods()))
def test_predicting_leaves_no_trace_in_any_network(name, network_of, beyond, images):
    """In a buffer that counts the forwards of every network that a method holds: the student's, the teacher's."""
    network, counting = network_of(name), {}

    def count(head, _):
        head.forwards += 1
        counting[id(head)] = head

    network.head.register_buffer("forwards", torch.zeros((), dtype=torch.int64))
    network.head.register_forward_pre_hook(count)
    method = build_method(name, network, num_classes=10, batch_size=16, preset="digits-c", **beyond())
    for seed in range(2):
        method(images(16, seed))
        forwards = {number: int(head.forwards) for number, head in counting.items()}
        state = method.state_dict()
        method.predict(images(7, 50))
        assert {number: int(counting[number].forwards) for number in forwards} == forwards
        assert counting.keys() == forwards.keys()
        assert equal(method.state_dict(), state)
    assert any(forwards.values())


class Counting(nn.Module):
    """Changes all that a forward may: a buffer in place, another by assignment, attributes old and new."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("assigned", torch.zeros(()))
        self.seen = 0

    def forward(self, x):
        self.in_place += 1
        self.assigned = self.assigned + 1
        self.seen += 1
        self.last = x
        return x.flatten(1)[:, :3]


class Notes(Remembering):
    """A memory of its own."""

    remembers = ("taken",)

    def __init__(self):
        self.taken = [torch.zeros(())]


class Counts(Method[Frozen]):
    """Draws random numbers to predict, and notes it: in attributes old and new, in place, and in a part."""

    remembers = ("total",)

    def prepare(self):
        self.drawn = None
        self.total = torch.zeros(2)
        self.notes = Notes()

    def parts(self):
        return {"notes": self.notes}

    def make_optimizer(self, parameters):
        return None

    def step(self, images):
        return self.network(images)

    def frozen_logits(self, images):
        self.drawn = torch.randn(2, generator=self.generator)
        self.total += self.drawn
        self.notes.taken[0] += 1
        self.notes.taken.append(self.drawn)
        return super().frozen_logits(images)


def test_all_that_a_forward_changes_is_put_back():
    method = Counts(Counting(), Frozen(), Context(num_classes=3))
    network, buffer, generator = method.network, method.network.assigned, method.generator.get_state()
    method.predict(torch.ones(1, 3, 2, 2))
    assert (float(network.in_place), float(network.assigned), network.seen) == (0, 0, 0)
    assert network.assigned is buffer
    assert not hasattr(network, "last")
    assert method.drawn is None
    assert (method.total.tolist(), method.notes.taken) == ([0, 0], [torch.zeros(())])
    assert torch.equal(method.generator.get_state(), generator)


def test_it_is_put_back_also_when_the_forward_fails():
    method = Counts(Counting(), Frozen(), Context(num_classes=3))
    with pytest.raises(AttributeError):
        method.predict("no images")
    assert (float(method.network.in_place), method.network.seen) == (0, 0)


def of_an_older_version(state):
    """As `state_dict` gave it when networks and parts had no names."""
    tensors = {what: state[what]["student"] for what in ("parameters", "buffers")}
    return tensors | {"optimizer": state["optimizer"], "generator": state["generator"], "extra": {}}


@pytest.mark.parametrize(
    "change",
    [
        of_an_older_version,
        lambda state: state | {"parts": {"method": {}}},
        lambda state: state | {"parameters": {"student": state["parameters"]["student"]}},
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(change, build, images):
    one, other = build("moasepp", preset="digits-c"), build("moasepp", preset="digits-c")
    one(images())
    before = other.state_dict()
    with pytest.raises(InputError, match=r"does not fit this method: .* the same version of the same method"):
        other.load_state_dict(change(one.state_dict()))
    assert equal(other.state_dict(), before)
