"""What observers are told, and that they change nothing."""

import dataclasses
import math
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.states import equal
from tta_core.diagnostics.make import make_observers
from tta_core.diagnostics.names import OBSERVERS
from tta_core.diagnostics.observer import Measurement, Observer
from tta_core.methods.registry import methods

PICKY = (
    *("activations", "alignment", "code", "displacement", "experts"),
    *("features", "forgetting", "routing", "shifts"),
)
"""Observers that are asked in which methods they find something to measure."""


@pytest.mark.parametrize(("name", "stream"), [("imse", "mixed"), *((name, "single") for name in methods())])
def test_all_observers_together_change_no_bit_of_the_run(name, stream, make_scene, watch):
    declared = {quantity for row in OBSERVERS.values() for quantity in row.quantities}
    runs = {}
    for names in ((), tuple(OBSERVERS)):
        torch.manual_seed(7)
        scene = make_scene(name, stream, preset="digits-c", **methods()[name].quick)
        watched = watch(scene, names, every=2)
        runs[bool(names)] = (watched, scene.method.state_dict(), torch.get_rng_state())
    (plain, plain_state, plain_random), (seen, seen_state, seen_random) = runs[False], runs[True]
    assert seen.record.measurements
    assert {one.quantity for one in seen.record.measurements} <= declared
    assert not plain.record.measurements
    for one, other in zip(plain.keeper.logits, seen.keeper.logits, strict=True):
        assert torch.equal(one, other)
    assert equal(plain_state, seen_state)
    assert torch.equal(plain_random, seen_random)
    assert plain.record.diagnostics == seen.record.diagnostics
    for column, values in plain.record.batches.items():
        assert values.tobytes() == seen.record.batches[column].tobytes()


def test_half_precision_is_watched_as_well(make_scene, watch):
    scene = dataclasses.replace(make_scene("moetta", preset="digits-c"), precision="bf16")
    plain = dataclasses.replace(make_scene("moetta", preset="digits-c"), precision="bf16")
    seen, unseen = watch(scene, tuple(OBSERVERS)), watch(plain, ())
    for one, other in zip(seen.keeper.logits, unseen.keeper.logits, strict=True):
        assert torch.equal(one, other)
    assert {"alignment_std", "forgetting_accuracy", "routing"} <= {m.quantity for m in seen.record.measurements}


@pytest.mark.parametrize(
    ("method", "applying"),
    [
        ("source", {"Alignment", "Features", "Forgetting"}),
        ("tent", {"Alignment", "Displacement", "Features", "Forgetting"}),
        ("moetta", {"Alignment", "Displacement", "Experts", "Features", "Forgetting", "Routing"}),
    ],
)
def test_observers_without_anything_to_measure_are_left_out(method, applying, make_scene, watch):
    assert set(watch(make_scene(method), PICKY).names) == applying


def test_measuring_steps_are_every_nth_and_the_last(make_scene, watch):
    keeper = watch(make_scene("source"), (), every=4).keeper
    assert [moment.step for moment in keeper.moments] == list(range(9))
    assert [moment.step for moment in keeper.moments if moment.measuring] == [0, 4, 8]
    keeper = watch(make_scene("source"), (), every=5).keeper
    assert [moment.step for moment in keeper.moments if moment.measuring] == [0, 5, 8]


def test_a_moment_says_which_samples_it_is_about(make_scene, watch):
    watched = watch(make_scene("source", "mixed"), ())
    order = watched.scene.order
    for moment in watched.keeper.moments:
        assert len(moment.images) == moment.positions.stop - moment.positions.start
        assert (moment.domain == order.domain[moment.positions]).all()
        assert watched.scene.domain[moment.positions].tolist() == moment.domain.tolist()
    assert watched.scene.label.tolist() == watched.record.samples["label"].tolist()


def test_segments_end_after_their_last_step(make_scene, watch):
    watched = watch(make_scene("source"), ())
    assert [segment.domain for segment, _ in watched.keeper.segments] == ["fog", "snow", "frost"]
    # 20 images in batches of 8 are three steps.
    assert [(s.first_step, s.last_step, s.start, s.stop) for s, _ in watched.keeper.segments] == [
        (0, 2, 0, 20),
        (3, 5, 20, 40),
        (6, 8, 40, 60),
    ]
    assert [steps for _, steps in watched.keeper.segments] == [3, 6, 9]
    assert watched.record.samples["segment"].tolist() == [0] * 20 + [1] * 20 + [2] * 20
    (mixed, steps), *others = watch(make_scene("source", "mixed"), ()).keeper.segments
    assert (mixed.domain, mixed.last_step, steps, others) == ("", 7, 8, [])


def test_segments_of_a_stream_with_resets_end_before_the_reset(make_scene, watch):
    scene = make_scene("tent", "single", lr=0.1)
    trained = scene.method.trainable_parameters()
    at_end = []

    class ComparesParameters(Observer):
        applies_to = classmethod(lambda cls, method: True)

        def at_segment_end(self, segment):
            at_end.append(any(not torch.equal(p, scene.method.source_parameters[n]) for n, p in trained.items()))

        def measurements(self):
            return []

    watch(scene, (), others=[ComparesParameters(scene)])
    assert at_end == [True] * 3


aten = torch.ops.aten
WAITING = (aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten._unique2, aten.bincount)
INDEXING = (aten.index, aten.index_put, aten.index_put_)
READING = ("tolist", "cpu")


class ForbidsWaiting(TorchDispatchMode):
    """Fails on operations that would wait for a device: tensors on the CPU never do, so this is how to find them."""

    active = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.active:
            assert func.overloadpacket not in WAITING, f"{func} waits for the device"
            if func.overloadpacket in INDEXING:
                masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
                assert not masks, "indexing by a mask waits for the device"
        return func(*args, **(kwargs or {}))

    @contextmanager
    def lifted(self):
        """Allows it again: a forward on the CPU may do what one on a device does not."""
        self.active = False
        try:
            yield
        finally:
            self.active = True


@pytest.fixture
def forbid_waiting(monkeypatch):
    """A context in which waiting for a device is an error; yields the mode."""

    @contextmanager
    def forbidding():
        mode = ForbidsWaiting()

        def reading(read):
            def fail(tensor, *given):
                assert not mode.active, "reading a tensor waits for the device"
                return read(tensor, *given)

            return fail

        with monkeypatch.context() as patched, mode:
            for name in READING:
                patched.setattr(torch.Tensor, name, reading(getattr(torch.Tensor, name)))
            yield mode

    return forbidding


@pytest.mark.parametrize(
    "wait", [float, bool, lambda x: x.tolist(), lambda x: x.cpu(), torch.unique, torch.nonzero, lambda x: x[x > 0]]
)
def test_waiting_is_found(wait, forbid_waiting):
    with forbid_waiting() as mode:
        with pytest.raises(AssertionError, match="waits for the device"):
            wait(torch.ones(1))
        with mode.lifted():
            wait(torch.ones(1))


@pytest.mark.parametrize("name", list(methods()))
def test_no_observer_waits_for_the_device_in_a_step(name, make_scene, watch, forbid_waiting):
    """Off the clock they do, but that is the clock's doing."""
    scene = make_scene(name, preset="digits-c", **methods()[name].quick)
    frozen_logits = scene.method.frozen_logits

    class Forbids(Observer):
        applies_to = classmethod(lambda cls, method: True)

        def __init__(self, observer):
            self.observer, self.scene = observer, observer.scene

        def before_step(self, moment):
            with forbid_waiting():
                self.observer.before_step(moment)

        def after_step(self, moment, logits):
            with forbid_waiting() as mode:

                def lifted(images):
                    with mode.lifted():
                        return frozen_logits(images)

                scene.method.frozen_logits = lifted
                self.observer.after_step(moment, logits)
            scene.method.frozen_logits = frozen_logits

        def measurements(self):
            return self.observer.measurements()

        def at_segment_end(self, segment):
            self.observer.at_segment_end(segment)

    observers = [Forbids(observer) for observer in make_observers(tuple(OBSERVERS), scene)]
    assert watch(scene, (), every=2, others=observers).record.measurements


def test_values_that_are_not_finite_are_dropped(make_scene, watch):
    class Measures(Observer):
        applies_to = classmethod(lambda cls, method: True)

        def measurements(self):
            return [Measurement("m", value, item=i) for i, value in enumerate((1.0, math.nan, math.inf, -2.0))]

    scene = make_scene("source")
    measured = watch(scene, (), others=[Measures(scene)]).values("m", by=("item",))
    assert measured == {(0,): 1.0, (3,): -2.0}
