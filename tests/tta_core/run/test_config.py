"""Configurations, cell ids and fingerprints."""

import json

import pytest

from tta_core.data.benchmarks import benchmark_spec
from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS, ORDERS
from tta_core.errors import InputError
from tta_core.methods.registry import method_spec
from tta_core.run.config import RunConfig, canonical_hash
from tta_core.streams.choice import OPTIONAL_FIELDS
from tta_core.streams.choice_files import FILES


def config(**values):
    return RunConfig.from_values({"method": "tent", **values})


def test_what_is_left_out_is_filled_in():
    made = config(preset="digits-c")
    assert made.settings == method_spec("tent").settings(lr=0.02).model_dump(mode="json")
    assert made.domains == CORRUPTIONS
    assert made.samples_per_domain == 899
    assert (made.rounds, made.crop) == (1, "none")


def test_a_resolved_configuration_reads_back_as_itself():
    made = config(preset="digits-c", severity=4)
    assert RunConfig.from_values(json.loads(made.model_dump_json())) == made
    assert RunConfig.from_values(json.loads(made.model_dump_json())).cell_id() == made.cell_id()


def test_equal_runs_have_equal_ids_however_they_are_written():
    assert config().cell_id() == config(settings={"lr": 5e-4}, domains=list(CORRUPTIONS)).cell_id()
    assert config(preset="paper").cell_id() == config(preset="recommended").cell_id()
    assert config(settings={"lr": 1e-3}).cell_id() == config(preset="official").cell_id()


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
        {"stream": "recurring"},
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
        {"stream": "gradual"},
        {"stream": "recurring"},
        {"domains": "order-3"},
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
    assert config(domains="order-3").domains[:2] == ("shot_noise", "fog")


def test_the_published_orders_are_ten_different_ones_of_the_reported_domains():
    assert list(ORDERS) == [f"order-{number}" for number in range(10)]
    assert len(set(ORDERS.values())) == 10
    assert all(sorted(order) == sorted(CORRUPTIONS) for order in ORDERS.values())


def test_rounds_are_those_of_streams_that_have_them():
    made = config(stream="recurring")
    assert (made.rounds, made.samples_per_domain) == (10, 89)
    assert config(stream="recurring-same").samples_per_domain == 899
    assert config(stream="recurring", rounds=4).samples_per_domain == 224
    assert config(rounds=4) == config()
    assert made.num_samples == len(made.order()) == 15 * 10 * 89
    fewer = config(stream="recurring-same", rounds=3)
    assert fewer.fingerprint() != config(stream="recurring-same").fingerprint()
    assert fewer.protocol()["rounds"] == 3
    assert "rounds" not in config().protocol()


def test_a_stream_over_severities_has_no_severity_of_its_own():
    assert config(stream="gradual", severity=2).cell_id() == config(stream="gradual").cell_id()
    assert config(stream="gradual").severity == 5
    assert config(stream="gradual", domains=["fog"]).protocol()["domains"] == [f"fog@{s}" for s in range(1, 6)]
    assert config(stream="gradual", samples_per_domain=3).num_samples == 15 * 9 * 3


def photographs(**values):
    return config(**{"benchmark": "imagenet-c", "backbone": "vit_base_patch16_224.augreg_in21k_ft_in1k", **values})


def test_crops_belong_to_the_benchmark_and_to_the_protocol():
    made, other = photographs(), photographs(crop="resize-center")
    assert (made.crop, photographs(benchmark="imagenet-c-5k").crop) == ("center", "resize-center")
    assert made.protocol()["crop"] == "center 224"
    assert made.fingerprint() != other.fingerprint()
    assert made.cell_id() != other.cell_id()
    small = config(benchmark="cifar10-c", backbone="cifar10_vit_base_patch16_384")
    assert small.protocol()["crop"] == "upsample 384"


def test_normalisation_sets_protocols_of_the_same_weights_apart():
    plain = photographs(backbone="vit_base_patch16_224.augreg_in21k_ft_in1k-unnormalised")
    assert plain.protocol()["weights"] == photographs().protocol()["weights"]
    assert plain.fingerprint() != photographs().fingerprint()


def test_published_lists_are_taken_in_their_order():
    listed = photographs(benchmark="imagenet-c-5k", stream="continual")
    assert listed.order().index[:5000].tolist() == list(range(5000))
    assert photographs(stream="continual").order().index[:9].tolist() != list(range(9))


def test_orders_of_other_seeds_can_be_asked_for():
    assert config(seed=3).order().order_hash() == config().order(seed=3).order_hash() != config().order().order_hash()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sevrity": 3}, "unknown key 'sevrity', did you mean 'severity'"),
        ({"severity": 6}, r"severity 6 is not one of \[1, 2, 3, 4, 5\]"),
        ({"backbone": "digits-vit"}, "unknown backbone 'digits-vit'.*Did you mean 'digits-vit-mae'"),
        (
            {"backbone": "resnet50", "benchmark": "imagenet-c"},
            "backbone 'resnet50' names an architecture, .* tag. Allowed: resnet50.a1_in1k, resnet50.tv_in1k. See",
        ),
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
        ({"domains": "order-10"}, "unknown domain of digits-c 'order-10'. Did you mean 'order-"),
        ({"crop": "middle"}, "crop = 'middle' is not allowed: input should be 'none', 'center'"),
        ({"crop": "center"}, "unknown crop of digits-c 'center'.*Allowed: none"),
        ({"stream": "recurring", "rounds": 0}, "rounds = 0 is not allowed"),
        ({"stream": "recurring", "rounds": 900}, "rounds = 900, but each domain of digits-c has 899 images: give at m"),
        (
            {"stream": "recurring", "samples_per_domain": 90},
            r"samples_per_domain = 90, but each domain of digits-c has 899 images, and 10 rounds of 'recurring' share "
            r"them: give at most 89, fewer rounds, or stream: recurring-same",
        ),
        (
            {"stream": "gradual", "domains": ["fog", "clean"]},
            "'gradual' raises the severity of each domain, 'clean' has",
        ),
        (
            {"benchmark": "imagenet-c"},
            "'digits-vit-supervised' predicts the classes of 'digits', the benchmark 'imagenet-c' has those of 'imagen",
        ),
        (
            {"benchmark": "cifar10-c", "backbone": "cifar10_vit_base_patch16_384", "data_seed": 1},
            "data_seed = 1, but the images of cifar10-c are downloaded: leave it out",
        ),
        (
            {"method": "imse", "backbone": "convnext_base.fb_in22k_ft_in1k", "benchmark": "imagenet-c"},
            r"imse takes vision transformers .*, and the backbone 'convnext_base.fb_in22k_ft_in1k' is none: choose ano",
        ),
    ],
    ids=str,
)
def test_mistakes_are_named_with_what_is_allowed(values, message):
    with pytest.raises(InputError, match=message):
        config(**values)


def test_the_id_under_any_seed_is_the_hash_of_the_whole_identity():
    made = config(seed=3)
    ids = made.cell_ids()
    assert [ids(seed) for seed in (0, 3, 2**31)] == [config(seed=seed).cell_id() for seed in (0, 3, 2**31)]
    unused = {"preset", "weights", *FILES} | {name for name in OPTIONAL_FIELDS if getattr(made, name) is None}
    unused |= set() if made.diagnostics else {"diagnostics_every"}
    identity = {name: value for name, value in vars(made).items() if name not in unused} | {
        "method_version": made.method_spec.version,
        "benchmark_version": benchmark_spec(made.benchmark).version,
        "weights": made.weights_tag(),
    }
    assert made.cell_id() == f"tent-{canonical_hash(identity)}"
