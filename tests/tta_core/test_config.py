"""Configurations, cell ids and fingerprints."""

import json

import pytest

from tta_core.config import RunConfig
from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.errors import InputError


def config(**values):
    return RunConfig.from_values({"method": "tent", **values})


def test_what_is_left_out_is_filled_in():
    made = config(preset="digits-c")
    assert made.settings == {"lr": 0.03, "momentum": 0.9}
    assert made.domains == CORRUPTIONS
    assert made.samples_per_domain == 899


def test_a_resolved_configuration_reads_back_as_itself():
    made = config(preset="digits-c", severity=4)
    assert RunConfig.from_values(json.loads(made.model_dump_json())) == made
    assert RunConfig.from_values(json.loads(made.model_dump_json())).cell_id() == made.cell_id()


def test_equal_runs_have_equal_ids_however_they_are_written():
    assert config().cell_id() == config(settings={"lr": 5e-4}, domains=list(CORRUPTIONS)).cell_id()
    assert config(preset="paper").cell_id() == config(preset="recommended").cell_id()
    assert config(settings={"lr": "1e-3"}).cell_id() == config(preset="official").cell_id()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "source"},
        {"settings": {"lr": 0.1}},
        {"backbone": "digits-vit-mae"},
        {"severity": 4},
        {"samples_per_domain": 10},
        {"data_seed": 1},
        {"stream": "continual"},
        {"batch_size": 63},
        {"seed": 1},
        {"precision": "bf16"},
        {"domains": ["fog"]},
    ],
    ids=str,
)
def test_everything_that_changes_the_result_changes_the_id(change):
    assert config(**change).cell_id() != config().cell_id()


def test_the_fingerprint_leaves_out_method_and_seed_and_nothing_else():
    base = config()
    for change in ({"method": "source"}, {"seed": 1}, {"settings": {"lr": 0.1}}):
        assert config(**change).fingerprint() == base.fingerprint()
    for change in (
        {"severity": 4},
        {"samples_per_domain": 10},
        {"stream": "single"},
        {"batch_size": 1},
        {"backbone": "digits-vit-mae"},
        {"precision": "bf16"},
        {"data_seed": 1},
        {"domains": "held-out"},
    ):
        assert config(**change).fingerprint() != base.fingerprint()


def test_domain_sets():
    assert config(domains="held-out").domains == HELD_OUT_CORRUPTIONS
    assert config(domains="fog").domains == ("fog",)
    assert config(domains=["clean", "fog"]).domains == ("clean", "fog")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sevrity": 3}, "unknown key 'sevrity', did you mean 'severity'"),
        ({"severity": 6}, r"severity 6 is not one of \[1, 2, 3, 4, 5\]"),
        ({"backbone": "digits-vit"}, "unknown backbone 'digits-vit'.*Did you mean 'digits-vit-mae'"),
        ({"benchmark": "digit-c"}, "unknown benchmark 'digit-c'. Did you mean 'digits-c'"),
        ({"stream": "mixd"}, "unknown stream 'mixd'. Did you mean 'mixed'"),
        ({"samples_per_domain": 900}, "each domain of digits-c has 899 images"),
        ({"samples_per_domain": 0}, "samples_per_domain = 0 is not allowed"),
        ({"batch_size": 0}, "batch_size = 0 is not allowed"),
        ({"seed": -1}, "seed = -1 is not allowed"),
        ({"domains": ["fogg"]}, "unknown domain of digits-c 'fogg'. Did you mean 'fog'"),
        ({"domains": ["fog", "fog"]}, "named twice"),
        ({"settings": 3}, "not a mapping"),
        ({"settings": {"lr": 0}}, "lr = 0 is not allowed: input should be greater than 0"),
        ({"precision": "fp8"}, "precision = 'fp8' is not allowed"),
    ],
    ids=str,
)
def test_mistakes_are_named_with_what_is_allowed(values, message):
    with pytest.raises(InputError, match=message):
        config(**values)
