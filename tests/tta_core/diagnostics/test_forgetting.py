"""Frozen accuracy on clean images and earlier domains."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tta_core.data.opened import DomainImages
from tta_core.diagnostics.forgetting import Forgetting, Visit, backward_transfer
from tta_core.diagnostics.held_out import MAX_IMAGES, frozen_accuracy, held_out
from tta_core.diagnostics.observer import Scene
from tta_core.streams.order import StreamOrder


def visits(*rows):
    return [
        Visit(step, domain, {name: torch.tensor(value) for name, value in accuracy.items()})
        for step, (domain, accuracy) in enumerate(rows)
    ]


def test_backward_transfer_by_hand():
    rows = visits(
        ("fog", {"fog": 0.75}),
        ("snow", {"fog": 0.5, "snow": 0.5}),
        ("frost", {"fog": 0.25, "snow": 0.625, "frost": 1.0}),
    )
    assert backward_transfer(rows) == pytest.approx(((0.25 - 0.75) + (0.625 - 0.5)) / 2)


def test_a_domain_that_comes_back_counts_from_its_first_visit():
    rows = visits(("fog", {"fog": 0.5}), ("snow", {"fog": 0.25, "snow": 0.5}), ("fog", {"fog": 0.75, "snow": 0.25}))
    assert backward_transfer(rows) == pytest.approx(-0.25)


def test_transfer_needs_two_domains_one_at_a_time():
    assert math.isnan(backward_transfer(visits(("fog", {"fog": 0.5}))))
    assert math.isnan(backward_transfer(visits(("", {"fog": 0.5, "snow": 0.5}))))


def test_every_domain_seen_is_evaluated_after_each(make_scene, watch):
    watched = watch(make_scene("tent", lr=0.1), ("forgetting",), every=4)
    found = watched.values("forgetting_accuracy", by=("step", "domain", "against"))
    clean = {(step, "clean", "") for step in (0, 2, 4, 5, 8)}
    after = {(2, "fog", "fog"), (5, "fog", "snow"), (5, "snow", "snow")}
    after |= {(8, domain, "frost") for domain in ("fog", "snow", "frost")}
    assert set(found) == clean | after
    transfer = (found[8, "fog", "frost"] - found[2, "fog", "fog"] + found[8, "snow", "frost"]) / 2
    transfer -= found[5, "snow", "snow"] / 2
    assert watched.values("backward_transfer", by=()) == {(): pytest.approx(transfer)}


def test_it_is_the_accuracy_of_the_frozen_method(make_scene, watch):
    scene = make_scene("tent", lr=0.1)
    watched = watch(scene, ("forgetting",), every=4)
    found = watched.values("forgetting_accuracy", by=("step", "domain", "against"))
    images = held_out(scene, "fog")
    predicted = scene.method.predict(scene.normalise(images.images)).argmax(dim=1).numpy()
    assert found[8, "fog", "frost"] == pytest.approx(np.mean(predicted == images.labels))
    assert found[0, "clean", ""] > 0
    # The source is right on all clean images.
    assert watched.values("forgetting_clean_drop", by=())[()] == pytest.approx(found[8, "clean", ""] - 1)
    assert found[8, "clean", ""] < 1, "nothing was forgotten: the test says nothing"


def test_the_source_forgets_nothing(make_scene, watch):
    watched = watch(make_scene("source"), ("forgetting",))
    assert watched.values("forgetting_clean_drop", by=()) == {(): 0}
    assert watched.values("backward_transfer", by=()) == {(): 0}


@pytest.mark.parametrize(("stream", "against"), [("mixed", {""}), ("single", {"fog", "snow", "frost"})])
def test_streams_in_which_nothing_can_be_forgotten_have_no_transfer(stream, against, make_scene, watch):
    watched = watch(make_scene("tent", stream), ("forgetting",))
    assert not watched.values("backward_transfer")
    places = watched.values("forgetting_accuracy", by=("step", "domain", "against"))
    assert {after for _, domain, after in places if domain != "clean"} == against


class FirstPixel(nn.Module):
    """Predicts the last digit of the first pixel."""

    def forward(self, x):
        return nn.functional.one_hot(x[:, 0, 0, 0].long() % 10, 10).float()


class Unchanged:
    """Stands in for the normalisation: pixels stay what they are."""

    mean = torch.zeros(1)

    def __call__(self, images):
        return torch.from_numpy(images).permute(0, 3, 1, 2).float()


@pytest.fixture
def scene_of(make_scene):
    """A scene with any order, in which the first pixels of an image hold its index."""

    def make(names, domain, index, segments, images):
        def open_domain(name):
            pixels = np.zeros((images, 1, 2, 3), np.uint8)
            pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = np.arange(images) % 100, np.arange(images) // 100
            return DomainImages(pixels, np.arange(images) % 4)

        order = StreamOrder(names, np.array(domain, np.int16), np.array(index, np.int32), segments, False)
        method = make_scene("source").method
        method.network = FirstPixel()
        return Scene(method, order, 2, Unchanged(), open_domain, FirstPixel)

    return make


def held_out_indices(scene, domain):
    chosen = held_out(scene, domain)
    return [int(image[0, 0, 0]) + 100 * int(image[0, 1, 0]) for image in chosen.images]


def test_images_outside_the_stream_come_first(scene_of):
    # Half of the images are streamed at one severity, a quarter at another.
    streamed = scene_of(("fog@1", "fog@2"), [0] * 200 + [1] * 100, range(300), (0, 200), images=400)
    found = held_out_indices(streamed, "fog")
    assert len(set(found)) == len(found) == MAX_IMAGES
    assert set(found) >= set(range(300, 400))
    others = scene_of(("snow",), [0] * 400, range(400), (0,), images=400)
    assert not set(held_out_indices(others, "fog")) >= set(range(300, 400))


def test_no_image_of_the_stream_is_taken_while_others_last(scene_of):
    scene = scene_of(("fog",), [0] * 100, range(100), (0,), images=400)
    assert min(held_out_indices(scene, "fog")) >= 100
    assert held_out_indices(scene, "fog") == held_out_indices(scene, "fog")


def test_frozen_accuracy_by_hand(scene_of):
    scene = scene_of(("fog",), [0], [0], (0,), images=150)
    # The last digit is the label (index modulo 4) for indices that end in 0 to 3 and have such a remainder.
    expected = np.mean([index % 10 == index % 4 for index in range(150)])
    assert float(frozen_accuracy(scene, FirstPixel(), scene.open_domain("fog"))) == pytest.approx(expected)


def test_a_domain_whose_severity_changes_is_one_visit(scene_of):
    domain = [0, 0, 1, 1, 2, 2, 0, 0]
    scene = scene_of(("fog@1", "fog@2", "snow@1"), domain, range(8), (0, 2, 4, 6), images=20)
    observer = Forgetting(scene)
    for segment in scene.segments:
        observer.at_segment_end(segment)
    places = {(m.step, m.domain, m.against) for m in observer.measurements() if m.against}
    assert places == {(1, "fog", "fog"), (2, "fog", "snow"), (2, "snow", "snow"), (3, "fog", "fog"), (3, "snow", "fog")}
