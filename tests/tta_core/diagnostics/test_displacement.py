"""Displacement of the parameters by each domain."""

import numpy as np
import pytest
import torch

from tta_core.diagnostics.displacement import Displacement
from tta_core.diagnostics.observer import Segment
from tta_core.methods.registry import methods

SELECTS_ALL = {"entropy_margin": 1.0, "redundancy_margin": 1.0, "plpd_margin": -1.0}
"""With these, methods that filter their samples learn from images that mean nothing, too."""
TRAINING = [name for name, spec in methods().items() if spec.trains and not spec.episodic]


def moved(scene, steps):
    """Sets the trained parameters to source plus what each step says, and tells the observer of a segment's end."""
    observer = Displacement(scene)
    for number, (domain, factor, source) in enumerate(steps):
        with torch.no_grad():
            for name, parameter in scene.method.trainable_parameters().items():
                parameter.copy_(scene.method.source_parameters[name] + factor(source[name]))
        observer.at_segment_end(Segment(number, 0, 1, number, number, domain))
    return {(m.quantity, m.layer, m.domain, m.against): m.value for m in observer.measurements()}


@pytest.fixture
def noise():
    """A direction for each parameter."""

    def make(scene, seed):
        generator = torch.Generator().manual_seed(seed)
        return {n: torch.randn(p.shape, generator=generator) for n, p in scene.method.source_parameters.items()}

    return make


def test_with_resets_the_start_is_the_source(make_scene, noise):
    scene = make_scene("tent", "single")
    one, other = noise(scene, 1), noise(scene, 2)
    found = moved(
        scene, [("fog", lambda d: d, one), ("snow", lambda d: -2 * d, one), ("frost", lambda d: 3 * d, other)]
    )
    length = float(torch.cat([d.flatten() for d in one.values()]).norm())
    assert found["displacement_norm", "", "fog", ""] == pytest.approx(length, rel=1e-5)
    assert found["displacement_norm", "", "snow", ""] == pytest.approx(2 * length, rel=1e-5)
    assert found["displacement_cosine", "", "fog", "snow"] == pytest.approx(-1, abs=1e-5)
    assert found["displacement_cosine", "", "snow", "snow"] == pytest.approx(1)
    flat = [torch.cat([d.flatten() for d in each.values()]) for each in (one, other)]
    cosine = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
    assert found["displacement_cosine", "", "frost", "fog"] == pytest.approx(cosine, abs=1e-5)
    assert found["displacement_cosine_mean", "", "", ""] == pytest.approx((-1 + cosine - cosine) / 3, abs=1e-5)
    assert found["displacement_cosine_min", "", "", ""] == pytest.approx(-1, abs=1e-5)
    assert found["displacement_cosine_min", "blocks.0.norm1", "", ""] == pytest.approx(-1, abs=1e-5)


def test_without_resets_the_start_is_where_the_segment_began(make_scene, noise):
    scene = make_scene("tent", "continual")
    one = noise(scene, 1)
    found = moved(scene, [("fog", lambda d: d, one), ("snow", lambda d: 3 * d, one), ("frost", lambda d: 2.5 * d, one)])
    assert found["displacement_cosine", "", "fog", "snow"] == pytest.approx(1)
    assert found["displacement_cosine", "", "snow", "frost"] == pytest.approx(-1, abs=1e-5)
    lengths = [found["displacement_norm", "", domain, ""] for domain in ("fog", "snow", "frost")]
    assert np.array(lengths) / lengths[0] == pytest.approx([1, 2, 0.5], rel=1e-4)


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_with_resets_measures_the_distance_from_the_source(name, make_scene, watch):
    known = methods()[name].settings.model_fields
    selects_all = {setting: value for setting, value in SELECTS_ALL.items() if setting in known}
    scene = make_scene(name, "single", preset="digits-c", **selects_all)
    watched = watch(scene, ("displacement",))
    norms = watched.values("displacement_norm", by=("domain",))
    assert set(norms) == {("fog",), ("snow",), ("frost",)}
    parameters, source = scene.method.trainable_parameters(), scene.method.source_parameters
    last = torch.cat([(p.detach() - source[n]).flatten() for n, p in parameters.items()]).norm()
    assert norms["frost",] == pytest.approx(float(last), rel=1e-4)
    matrix = watched.values("displacement_cosine", by=("domain", "against"))
    assert len(matrix) == 9
    assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in matrix.values())
    means = watched.values("displacement_cosine_mean", by=("layer",))
    different = [value for (domain, against), value in matrix.items() if domain != against]
    assert means["",] == pytest.approx(np.mean(different))
    assert len(means) > 1
