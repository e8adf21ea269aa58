"""One cell, without Ray, on the embedded benchmark."""

import time

import numpy as np
import pytest
import torch

import tta_core
from tta_core.errors import InputError
from tta_core.methods.registry import methods
from tta_core.run.cell import CollapseError
from tta_core.run.config import RunConfig

BACKBONES = {"batch-norm": "digits-resnet-supervised"}
SMALL = {"preset": "digits-c", "severity": 4, "samples_per_domain": 20, "domains": ["fog", "contrast", "pixelate"]}


def on_its_backbone(method):
    """The backbone of a method that does not take the usual one, as an entry of a cell."""
    backbone = BACKBONES.get(methods()[method].network)
    return {"backbone": backbone} if backbone else {}


@pytest.mark.parametrize("stream", ["mixed", "continual", "single"])
@pytest.mark.parametrize("method", list(methods()))
def test_every_method_runs_on_every_stream(method, stream):
    settings = methods()[method].quick
    result = tta_core.run(
        {"method": method, "stream": stream, "settings": settings, **on_its_backbone(method), **SMALL}
    )
    assert result.n_samples == 60
    assert result.accuracy == np.mean(result.samples["prediction"] == result.samples["label"])
    assert 0.3 < result.accuracy <= result.accuracy5 <= 1
    assert set(result.domain_accuracy) == set(SMALL["domains"])
    assert np.mean(list(result.domain_accuracy.values())) == pytest.approx(result.accuracy)
    assert result.seconds > 0
    assert result.peak_memory_mib > 0
    assert (result.trainable_parameters > 0) == methods()[method].trains
    assert {"loss", "selected"} <= {*result.batches} | (set() if methods()[method].trains else {"loss"})
    assert bool(result.artefact) == bool(methods()[method].preparation and result.config.needs())


def test_expert_usage_is_of_the_whole_stream_where_domains_reset_the_method():
    usage = tta_core.run({"method": "moetta", "stream": "single", **SMALL}).diagnostics["expert_usage"]
    alone = [
        tta_core.run({"method": "moetta", "stream": "single", **SMALL} | {"domains": [domain]}).diagnostics[
            "expert_usage"
        ]
        for domain in SMALL["domains"]
    ]
    for layer, shares in usage.items():
        assert shares == pytest.approx(np.mean([each[layer] for each in alone], axis=0))


# Of every method, test_contract.py asks for the same bits, and test_checkpoint.py of a run that was interrupted.
@pytest.mark.parametrize("method", ["source", "moetta", "imse", "moasepp"])
def test_the_same_cell_gives_the_same_bits(method):
    one, other = (tta_core.run({"method": method, **SMALL}) for _ in range(2))
    assert one.cell == other.cell
    assert one.stream_order == other.stream_order
    for name in ("prediction", "confidence", "entropy"):
        assert (one.samples[name] == other.samples[name]).all()
    assert one.measurements == other.measurements


def test_what_is_measured_changes_no_outcome():
    values = {"method": "moetta", "stream": "recurring", "rounds": 2, "batch_size": 8, "diagnostics_every": 5, **SMALL}
    values |= {"samples_per_domain": 10}
    plain, watched, again = (tta_core.run(values | {"diagnostics": names}) for names in ("none", "all", "all"))
    assert plain.cell != watched.cell
    assert plain.config.fingerprint() == watched.config.fingerprint()
    for name in ("prediction", "confidence", "entropy"):
        assert (plain.samples[name] == watched.samples[name]).all()
    assert plain.measurements == []
    assert watched.measurements == again.measurements
    assert {"forgetting_accuracy", "alignment_std", "routing"} <= {one.quantity for one in watched.measurements}
    assert all(np.isfinite(one.value) for one in watched.measurements)


def test_measuring_is_not_the_methods_time(monkeypatch):
    """Forty evaluations of 50 ms are two seconds that the method did not take."""
    slow = []

    def evaluate(scene, predict, images):
        slow.append(time.sleep(0.05))
        return torch.zeros(())

    monkeypatch.setattr("tta_core.diagnostics.forgetting.frozen_accuracy", evaluate)
    values = {"method": "source", "diagnostics": "forgetting", "diagnostics_every": 1, "batch_size": 2, **SMALL}
    result = tta_core.run(values)
    assert len(slow) > 30
    assert result.seconds < 0.05 * len(slow)


def test_all_methods_see_the_same_stream_under_one_seed():
    cells = [RunConfig.from_values({"method": name, **on_its_backbone(name), **SMALL}) for name in methods()]
    orders = {cell.order().order_hash() for cell in cells}
    assert len(orders) == 1
    assert tta_core.run({"method": "source", "seed": 1, **SMALL}).stream_order not in orders


def test_corruption_costs_accuracy():
    corrupted = tta_core.run({"method": "source", **SMALL})
    clean = tta_core.run({"method": "source", **SMALL} | {"domains": ["clean"]})
    assert clean.accuracy > corrupted.accuracy + 0.05


def test_bf16_runs_and_is_close():
    full = tta_core.run({"method": "source", **SMALL})
    half = tta_core.run({"method": "source", "precision": "bf16", **SMALL})
    assert half.cell != full.cell
    assert half.accuracy == pytest.approx(full.accuracy, abs=0.05)


def test_divergence_is_an_error_that_says_what_to_do():
    with pytest.raises(CollapseError, match=r"tent diverged.*lower the learning rate"):
        tta_core.run({"method": "tent", "settings": {"lr": 1e30}, "batch_size": 8, **SMALL})


def test_divergence_in_a_domain_before_a_reset_is_found(monkeypatch):
    """The parameters at the end are those of the last domain alone, so the predictions are looked at too."""
    monkeypatch.setattr("tta_core.run.cell.all_finite", lambda parameters: True)
    with pytest.raises(CollapseError, match="predictions are infinite"):
        tta_core.run({"method": "tent", "stream": "single", "settings": {"lr": 1e30}, "batch_size": 4, **SMALL})


def test_a_configuration_object_and_its_values_are_the_same_run():
    values = {"method": "source", **SMALL}
    assert tta_core.run(tta_core.RunConfig.from_values(values)).cell == tta_core.run(values).cell


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused(device):
    if device == "cuda:99" and torch.cuda.device_count() > 99:
        pytest.skip("it is there")
    with pytest.raises(InputError, match=f"device '{device}' cannot be used"):
        tta_core.run({"method": "source", **SMALL}, device=device)


def test_mistakes_in_the_values_are_one_message():
    with pytest.raises(InputError, match=r"unknown method 'tennt'. Did you mean 'tent'"):
        tta_core.run({"method": "tennt"})
