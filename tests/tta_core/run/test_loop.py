"""The online loop: what it feeds, when it resets, what it records."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tta_core.data.opened import DomainImages
from tta_core.run.loop import run_stream
from tta_core.streams.batches import Normalise, gather
from tta_core.streams.order import stream_order

DOMAINS = ("fog", "snow", "frost")


class Recorder:
    """Stands in for a method: predicts the class that the first pixel holds, and notes what happens to it."""

    def __init__(self):
        self.events = []
        self.record = {}

    def reset(self):
        self.events.append("reset")

    def at_border(self):
        """Nothing ends for it there."""

    def diagnostics(self):
        since_reset = "".join("r" if event == "reset" else "." for event in self.events).rpartition("r")[2]
        return {"batches": {"": [float(len(since_reset))]}, "events": {"": [float(len(self.events))]}}

    def __call__(self, images: Tensor) -> Tensor:
        self.events.append(len(images))
        self.record = {"selected": torch.tensor(len(images))}
        if len(self.events) % 2:
            self.record["loss"] = torch.tensor(0.5)
        classes = (images[:, 0, 0, 0] * 255).round().long() % 10
        return torch.nn.functional.one_hot(classes, 10).float() * 9


@pytest.fixture
def domains():
    generator = np.random.default_rng(0)
    made = []
    for _ in DOMAINS:
        images = generator.integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
        made.append(DomainImages(images, images[:, 0, 0, 0].astype(np.int64) % 10))
    return made


def run(stream, domains, batch_size=4):
    order = stream_order(stream, DOMAINS, 10, 7, 0)
    method = Recorder()
    normalise = Normalise((0, 0, 0), (1, 1, 1), torch.device("cpu"))
    return method, order, run_stream(method, domains, order, batch_size=batch_size, normalise=normalise)


@pytest.mark.parametrize("stream", ["mixed", "continual", "single"])
def test_each_sample_is_recorded_with_its_own_label_and_prediction(stream, domains):
    _, order, record = run(stream, domains)
    samples = record.samples
    assert (samples["prediction"] == samples["label"]).all()
    for position in range(len(order)):
        number = DOMAINS.index(samples["domain"][position])
        assert samples["label"][position] == domains[number].labels[samples["index"][position]]
    assert samples["position"].tolist() == list(range(21))


def test_single_resets_before_each_domain_and_the_others_never(domains):
    assert run("single", domains)[0].events == ["reset", 4, 3, "reset", 4, 3, "reset", 4, 3]
    assert run("continual", domains)[0].events == [4, 3] * 3
    assert run("mixed", domains)[0].events == [4, 4, 4, 4, 4, 1]


def test_diagnostics_are_of_the_whole_stream_also_across_resets(domains):
    assert run("mixed", domains)[2].diagnostics == {"batches": {"": [6.0]}, "events": {"": [6.0]}}
    # Three domains of equal size: the mean of what each had.
    single = run("single", domains)[2].diagnostics
    assert single["batches"][""] == pytest.approx([2.0])
    assert single["events"][""] == pytest.approx([(3 + 6 + 9) / 3])


def test_batches_hold_what_each_step_recorded_and_nan_where_it_did_not(domains):
    batches = run("mixed", domains)[2].batches
    assert batches["samples_seen"].tolist() == [4, 8, 12, 16, 20, 21]
    assert batches["selected"].tolist() == [4, 4, 4, 4, 4, 1]
    assert np.isnan(batches["loss"]).tolist() == [False, True] * 3


def test_samples_know_the_stretch_of_the_stream_that_they_are_in(domains):
    assert run("continual", domains)[2].samples["segment"].tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert run("mixed", domains)[2].samples["segment"].tolist() == [0] * 21


def test_nothing_is_measured_without_observers(domains):
    assert run("mixed", domains)[2].measurements == []


def test_outcomes_are_those_of_the_softmax(domains):
    samples = run("mixed", domains)[2].samples
    probabilities = torch.tensor([9.0] + [0.0] * 9).softmax(0)
    assert samples["confidence"] == pytest.approx([float(probabilities[0])] * 21)
    entropy = float(-(probabilities * probabilities.log()).sum())
    assert samples["entropy"] == pytest.approx([entropy] * 21, rel=1e-4)
    assert samples["in_top5"].all()


def test_gather_reads_memory_maps_in_stream_order(domains, tmp_path):
    np.save(tmp_path / "d.npy", domains[0].images)
    mapped = [DomainImages(np.load(tmp_path / "d.npy", mmap_mode="r"), domains[0].labels), *domains[1:]]
    order = stream_order("mixed", DOMAINS, 10, 7, 3)
    for one, other in zip(gather(mapped, order, 2, 9), gather(domains, order, 2, 9), strict=True):
        assert (one == other).all()


def test_normalise_is_per_channel():
    images = np.full((1, 2, 2, 3), 255, dtype=np.uint8)
    out = Normalise((0.5, 0.25, 0.0), (0.5, 0.25, 2.0), torch.device("cpu"))(images)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 0, 0].tolist() == [1.0, 3.0, 0.5]
