"""A small world to watch: three domains of random images, a tiny network, any method."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tta_core import build_method
from tta_core.data.opened import DomainImages
from tta_core.diagnostics.make import make_observers
from tta_core.diagnostics.observer import Observer, Scene
from tta_core.run.loop import StreamRecord, run_stream
from tta_core.streams.batches import Normalise
from tta_core.streams.order import stream_order

DOMAINS = ("fog", "snow", "frost")
IMAGES = 30
MEAN = STD = (0.5, 0.5, 0.5)


def pixels(name):
    """Domains differ in brightness, so that they can be told apart."""
    patches = np.random.default_rng(0).integers(0, 100, (IMAGES, 4, 4, 3), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2) + np.uint8(50 * ("clean", *DOMAINS).index(name))


class KeepsLogits(Observer):
    """Notes the scored logits and what it was told."""

    def __init__(self, scene):
        super().__init__(scene)
        self.logits, self.moments, self.segments = [], [], []

    @classmethod
    def applies_to(cls, method):
        return True

    def after_step(self, moment, logits):
        self.logits.append(logits)
        self.moments.append(moment)

    def at_segment_end(self, segment):
        self.segments.append((segment, len(self.moments)))

    def measurements(self):
        return []


@dataclass
class Watched:
    """A run that was watched."""

    scene: Scene
    record: StreamRecord
    keeper: KeepsLogits
    names: list[str] = field(default_factory=list)

    def values(self, quantity, *, by=("step", "layer", "domain", "against", "item")):
        """Values of a quantity by the given places."""
        found = [m for m in self.record.measurements if m.quantity == quantity]
        values = {tuple(getattr(m, place) for place in by): m.value for m in found}
        assert len(values) == len(found), "two measurements of one place"
        return values


@pytest.fixture
def make_scene(network_of, beyond):
    """Builds a method and the scene that its observers see."""

    def make(name, stream="continual", *, samples=20, batch_size=8, network=None, **given):
        normalise = Normalise(MEAN, STD, torch.device("cpu"))
        clean = normalise(pixels("clean"))

        def source():
            """Prefers no class: random networks predict one class for all images otherwise."""
            made = network_of(name) if network is None else network()
            with torch.no_grad():
                made.head.bias -= made(clean).mean(dim=0)
            return made

        with torch.no_grad():  # So the source network is always right on clean images.
            labels = source()(clean).argmax(dim=1).numpy()
        handed = {"num_classes": 10, "batch_size": batch_size, **beyond(), **given}
        method = build_method(name, source(), **handed)
        order = stream_order(stream, DOMAINS, IMAGES, samples, 0)
        return Scene(method, order, batch_size, normalise, lambda name: DomainImages(pixels(name), labels), source)

    return make


def watch(scene, names, *, every=2, others=()):
    """Runs a scene under the eyes of the named observers and of others."""
    keeper = KeepsLogits(scene)
    made = make_observers(names, scene)
    observers = [keeper, *others, *made]
    record = run_stream(
        scene.method,
        [scene.open_domain(name) for name in scene.order.domains],
        scene.order,
        batch_size=scene.batch_size,
        normalise=scene.normalise,
        precision=scene.precision,
        observers=observers,
        measure_every=every,
    )
    return Watched(scene, record, keeper, [type(observer).__name__ for observer in made])


@pytest.fixture(name="watch")
def watch_fixture():
    """Runs a scene under the eyes of the named observers and of others."""
    return watch
