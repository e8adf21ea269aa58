"""Methods that segment, on the stand-in: the declared waits, the numbers of the CPU."""

import pytest

from tests.accelerator.device import DEVICE
from tta_core.bench import agreement
from tta_core.bench.agreement import differences_to_cpu, waits_of_steps
from tta_core.bench.request import BenchRequest, MethodChoice
from tta_core.bench.subject import make_subject
from tta_core.methods.registry import methods

TOLERANCE = 1e-7
"""Of logits in float64."""


@pytest.fixture(scope="module")
def subject():
    asked = BenchRequest(methods=(), backbone="segformer-scenes", batch_size=1, image_size=32, device=DEVICE.type)
    return make_subject(asked, DEVICE).double()


@pytest.mark.parametrize("name", methods("segmentation"))
def test_a_step_computes_what_the_cpu_does_and_waits_as_declared(name, subject, monkeypatch):
    monkeypatch.setattr(agreement, "STEPS", 2)
    spec = methods("segmentation")[name]
    choice = MethodChoice(name=name, settings=spec.quick, task="segmentation")
    settings = choice.resolve()
    assert max(waits_of_steps(subject, choice, 0)) <= spec.waits_of(settings)
    if not spec.draws_on_device_with(settings):
        assert max(differences_to_cpu(subject, choice, 0)) <= TOLERANCE * spec.amplifies_rounding
