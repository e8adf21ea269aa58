import hashlib

import pytest
import safetensors.torch
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.feature_statistics import (
    FeatureStatistics,
    class_token_features,
    discrepancy,
    source_statistics,
)
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.common.transformer import embed
from tta_core.methods.mgtta import training
from tta_core.methods.mgtta.checkpoint import PREFIX, PUBLISHED, meta_from
from tta_core.methods.mgtta.learned_optimizer import LearnedOptimizer, initial_meta
from tta_core.methods.registry import method_spec

QUICK = {"training_epochs": 3, "training_images": 8, "selection_images": 8, "selection_batch": 4}


@pytest.fixture
def given(images):
    """What a runner hands over."""
    labels = torch.arange(20) % 10
    return {
        "source_images": [images(16, 100), images(16, 101)],
        "held_out": [(images(12, 102), labels[:12]), (images(8, 103), labels[12:])],
    }


@pytest.fixture
def meta():
    return initial_meta(torch.Generator().manual_seed(0), torch.empty(0))


@pytest.fixture
def mgtta(tiny_vit, given, meta):
    """Builds the method with an untrained optimizer, or with one that is trained if `trained`."""

    def make(trained=False, network=None, dtype=torch.float32, **settings):
        network = (network or tiny_vit()).to(dtype)
        if trained:
            return build_method("mgtta", network, num_classes=10, **given, **(QUICK | settings))
        statistics = source_statistics(network, [batch.to(dtype) for batch in given["source_images"]])
        artefact = {"source_std": statistics.std, "source_mean": statistics.mean}
        artefact |= {PREFIX + name: value for name, value in meta._asdict().items()}
        return build_method("mgtta", network, num_classes=10, artefact=artefact, **settings)

    return make


def published(meta, hidden=8):
    """The same parameters under their published names and in the published shapes."""
    shaped = {"rate_offset": (1,), "rate_weight": (1, 1, 2), "rate_bias": (1, 1), "start_matrix": (1, hidden, hidden)}
    shaped |= {"start_bias": (1, 1, hidden), "inner_scale": (1, hidden), "inner_bias": (1, hidden)}
    shaped |= {"output": (1, hidden)}
    return {
        f"net.seq_modeling_block.{PUBLISHED[name]}": value.reshape(shaped.get(name, value.shape)).contiguous()
        for name, value in meta._asdict().items()
    }


def test_a_step_is_the_learned_optimizer_on_entropy_and_discrepancy(mgtta, tiny_vit, images, meta):
    method = mgtta(dtype=torch.float64, lr=1e-2, lambda_discrepancy=0.7, divisor=32.0)
    network = tiny_vit().double().requires_grad_(False)
    norms = [network.get_parameter(name).requires_grad_() for name in method.trainable_parameters()]
    assert len(norms) == 2 * (2 * 3 + 1)
    optimizer = LearnedOptimizer(meta.to(norms[0]), sum(p.numel() for p in norms), (0.9, 0.99), 0)
    for seed in range(3):
        logits = method(images(seed=seed).double())
        features, expected = class_token_features(network, embed(network, images(seed=seed).double()))
        distance = discrepancy(features, method.source)
        loss = softmax_entropy(expected).mean() + 0.7 / 32 * distance
        assert torch.allclose(logits, expected)
        assert method.record["loss"].item() == pytest.approx(loss.item())
        assert method.record["discrepancy"].item() == pytest.approx(distance.item())
        assert int(method.record["selected"]) == 16
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, norms)])
        update = optimizer.update(gradient).split([p.numel() for p in norms])
        with torch.no_grad():
            for parameter, part in zip(norms, update, strict=True):
                parameter -= 1e-2 * part
    for (name, ours), theirs in zip(method.trainable_parameters().items(), norms, strict=True):
        assert torch.allclose(ours, theirs), name


def test_one_image_is_compared_by_its_mean_alone(mgtta, images):
    method = mgtta()
    method(images(1))
    features, _ = class_token_features(method.transformer, embed(method.transformer, images(1)))
    assert method.record["discrepancy"].isfinite()
    assert features.shape[0] == 1
    assert method.record["loss"].isfinite()
    assert all(parameter.isfinite().all() for parameter in method.trainable_parameters().values())


def test_no_scalar_moves_further_than_the_learning_rate(mgtta, images):
    method = mgtta(lr=1e-2)
    before = {name: p.detach().clone() for name, p in method.trainable_parameters().items()}
    method(images())
    moved = torch.cat([(p - before[name]).detach().abs() for name, p in method.trainable_parameters().items()])
    assert 0 < moved.max() <= 1e-2 * (1 + 1e-5)
    assert torch.allclose(moved, 1e-2 * method.last_update.abs(), atol=1e-6)


def test_what_the_loss_does_not_depend_on_stays(mgtta, tiny_vit, images):
    network = tiny_vit()
    network.unused = torch.nn.LayerNorm(48)
    method = mgtta(network=network, lr=1e-2)
    method(images())
    method(images(seed=1))
    assert "unused.weight" in method.trainable_parameters()
    assert torch.equal(network.unused.weight, torch.ones(48))


def test_a_norm_before_the_blocks_learns_too(mgtta, tiny_vit, images):
    network = tiny_vit(pre_norm=True)
    method = mgtta(network=network, lr=1e-2)
    before = network.norm_pre.weight.detach().clone()
    method(images())
    assert not torch.equal(network.norm_pre.weight, before)


def test_training_is_repeatable_and_leaves_the_network_as_it_is(tiny_vit, given):
    # As the runner does: nothing is frozen yet.
    network = tiny_vit()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settings = method_spec("mgtta").resolve("recommended", QUICK)
    statistics = source_statistics(network, given["source_images"])
    one, other = (training.train(network, statistics, given["held_out"], settings) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    frozen = training.train(tiny_vit().requires_grad_(False), statistics, given["held_out"], settings)
    assert all(torch.equal(a, b) for a, b in zip(one, frozen, strict=True))


def test_training_changes_every_part_and_lowers_the_loss(mgtta, given):
    start = mgtta(trained=True, training_epochs=1, meta_lr=1e-12, epoch_choice="last", lr=1e-2)
    trained = mgtta(trained=True, training_epochs=10, epoch_choice="last", lr=1e-2)
    for name, value in trained.artefact.items():
        if name.startswith(PREFIX):
            assert not torch.equal(value, start.artefact[name]), name
    losses = {}
    for name, method in (("start", start), ("trained", trained)):
        for _ in range(6):
            method(given["held_out"][0][0])
        losses[name] = method.record["loss"].item()
    assert losses["trained"] < losses["start"]


def test_the_first_meta_step_follows_the_next_batchs_gradient(tiny_vit, given):
    settings = method_spec("mgtta").resolve("recommended", QUICK | {"inner_lr": 1e-2})
    network = tiny_vit().double().requires_grad_(False)
    statistics = FeatureStatistics(*(torch.zeros(144).double() for _ in range(2)))
    rehearsal = training.Rehearsal(network, statistics, settings)
    meta = initial_meta(torch.Generator().manual_seed(0), rehearsal.before[0])
    first, second = (given["held_out"][number][0][:4].double() for number in (0, 1))

    def loss_after(parameters):
        """The second batch's loss after one update from the first."""
        optimizer = rehearsal.start(parameters)
        optimizer.move(optimizer.gradient(rehearsal.objective(first).loss), settings.inner_lr)
        return rehearsal.objective(second).loss.item()

    leaves = type(meta)(*(parameter.clone().requires_grad_() for parameter in meta))
    recorded = torch.optim.SGD(list(leaves), lr=0.0)
    recorded.zero_grad = lambda: None
    training._train_epoch(rehearsal, leaves, recorded, [first, second])
    shift = 1e-5
    up = meta.output.clone()
    up[3] += shift
    numeric = (loss_after(meta._replace(output=up)) - loss_after(meta)) / shift
    assert leaves.output.grad[3].item() == pytest.approx(numeric, rel=1e-2)


def test_the_epoch_with_most_correct_predictions_is_kept(mgtta, monkeypatch):
    correct = iter([3, 5, 5, 1])
    monkeypatch.setattr(training, "_adapted_correctly", lambda *_: torch.tensor(next(correct)))
    chosen = mgtta(trained=True, training_epochs=4)
    second = mgtta(trained=True, training_epochs=2, epoch_choice="last")
    assert torch.equal(chosen.artefact["mgg.output"], second.artefact["mgg.output"])


def test_further_images_judge_and_the_training_ones_if_there_are_no_others(given, mgtta, monkeypatch):
    judged = []
    monkeypatch.setattr(training, "_adapted_correctly", lambda *a: judged.append((a[2], a[3])) or torch.tensor(0))
    mgtta(trained=True, training_epochs=1, selection_images=6)
    pool, labels = torch.cat([b for b, _ in given["held_out"]]), torch.cat([b for _, b in given["held_out"]])
    assert torch.equal(judged[0][0], pool[8:14])
    assert torch.equal(judged[0][1], labels[8:14])
    mgtta(trained=True, training_epochs=1, training_images=128)
    assert torch.equal(judged[1][0], pool)


def test_labels_only_choose_the_epoch(mgtta, given):
    one = mgtta(trained=True, epoch_choice="last")
    given["held_out"] = [(batch, labels * 0) for batch, labels in given["held_out"]]
    other = mgtta(trained=True, epoch_choice="last")
    assert all(torch.equal(one.artefact[name], other.artefact[name]) for name in one.artefact)


def test_what_is_needed_depends_on_the_settings():
    spec = method_spec("mgtta")

    def needs(**settings):
        return spec.needs_of(spec.resolve("recommended", settings))

    assert needs() == ("source images", "held-out corruptions", "labels of held-out corruptions")
    assert needs(epoch_choice="last") == ("source images", "held-out corruptions")
    assert needs(mgg_file="any") == ("source images",)


def test_too_few_images_are_refused(tiny_vit, given, images):
    given["held_out"] = [(images(2), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(InputError, match="of which it needs two, and was given 2 held-out images"):
        build_method("mgtta", tiny_vit(), num_classes=10, **given)
    given["held_out"] = []
    with pytest.raises(InputError, match="held_out holds no batches"):
        build_method("mgtta", tiny_vit(), num_classes=10, **given)
    with pytest.raises(InputError, match="training_images = 4 make a single step of training_batch = 4"):
        build_method("mgtta", tiny_vit(), num_classes=10, training_images=4, training_batch=4, **given)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("names", ["published", "ours"])
def test_a_file_stands_in_for_the_training(suffix, names, tiny_vit, given, meta, mgtta, images, tmp_path, monkeypatch):
    file = tmp_path / f"mgg{suffix}"
    tensors = published(meta) if names == "published" else {PREFIX + n: v for n, v in meta._asdict().items()}
    if suffix == ".pth":
        torch.save({"state_dict": tensors}, file)
    else:
        safetensors.torch.save_file(tensors, file)
    given = {"source_images": given["source_images"], "num_classes": 10}
    method = build_method("mgtta", tiny_vit(), mgg_file=str(file), **given)
    assert set(method.artefact) == {"source_std", "source_mean"}
    expected = mgtta()
    for seed in range(2):
        assert torch.equal(method(images(seed=seed)), expected(images(seed=seed)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    build_method("mgtta", tiny_vit(), mgg_file=str(file), mgg_sha256=digest, **given)
    with pytest.raises(InputError, match="sha256"):
        build_method("mgtta", tiny_vit(), mgg_file=str(file), mgg_sha256="0" * 64, **given)
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(tmp_path))
    build_method("mgtta", tiny_vit(), mgg_file=file.name, **given)


def test_files_that_hold_something_else_are_refused(tiny_vit, given, meta, tmp_path):
    def build(file):
        build_method("mgtta", tiny_vit(), num_classes=10, source_images=given["source_images"], mgg_file=str(file))

    with pytest.raises(InputError, match=r"mgg_file = .*: there is no file"):
        build(tmp_path / "none.safetensors")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        build(tmp_path / "text.pth")
    safetensors.torch.save_file({"head.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"holds no learned optimizer of MGTTA: 'mgg\.query' is missing, and 12 more"):
        build(tmp_path / "other.safetensors")
    wrong = published(meta) | {"net.seq_modeling_block.W1": torch.zeros(2, 8, 8)}
    safetensors.torch.save_file(wrong, tmp_path / "heads.safetensors")
    with pytest.raises(InputError, match=r"'W1' has shape \(2, 8, 8\), .* single head"):
        build(tmp_path / "heads.safetensors")


def test_published_and_own_names_mean_the_same(meta):
    read = meta_from(published(meta), "here")
    assert all(torch.equal(a, b) for a, b in zip(read, meta, strict=True))


def test_presets_differ_as_published():
    spec = method_spec("mgtta")
    settings = {name: spec.resolve(name, {}) for name in spec.preset_names()}
    assert (settings["official"].lr, settings["official"].correction) == (1e-3, "t+1")
    assert (settings["moetta"].lr, settings["moetta"].correction) == (3e-4, "t+1")
    assert settings["imagenet-r"].lambda_discrepancy == 0.2
    assert (settings["paper"].lr, settings["paper"].correction) == (1e-3, "t")
    assert settings["recommended"].lr == 3e-4
    assert {(s.betas, s.divisor) for s in settings.values()} == {((0.9, 0.99), 64.0)}


def test_networks_without_a_class_token_are_refused(tiny_vit, given):
    with pytest.raises(InputError, match="mgtta reads the class token"):
        build_method("mgtta", tiny_vit(class_token=False, global_pool="avg"), num_classes=10, **given)
    with pytest.raises(InputError, match="vision transformer"):
        build_method("mgtta", torch.nn.Linear(2, 2), num_classes=10, **given)
