"""What every method in the registry must keep, on a small network."""

import io

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.registry import methods
from tta_core.methods.spec import Choice

METHODS = list(methods())
EVERY_PRESET = [(name, preset) for name, spec in methods().items() for preset in spec.preset_names()]
NEEDY = [name for name, spec in methods().items() if spec.needs]


def snapshot(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stream(images, sizes=(16, 16, 5, 1)):
    return [images(size, seed) for seed, size in enumerate(sizes)]


@pytest.fixture
def build(network_of, beyond):
    """Builds a method around the small network with all that a runner hands over."""

    def make(name, dtype=torch.float32, **changes):
        given = {"num_classes": 10, "batch_size": 16, **beyond(dtype), **methods()[name].quick}
        settings = methods()[name].learns_from_noise if changes.get("preset") == "digits-c" else {}
        return build_method(name, network_of(name).to(dtype), **(given | settings | changes))

    return make


def test_the_registry_holds_these_methods():
    assert [
        *("becotta", "bn-adapt", "cotta", "deyo", "dpal", "eata", "eta", "foa", "imse", "lame", "memo", "mgtta"),
        *("moase", "moasepp", "moetta", "roid", "rotta", "sar", "source", "t3a", "tent", "vida"),
    ] == METHODS


@pytest.mark.parametrize(("name", "preset"), EVERY_PRESET)
def test_every_preset_runs_on_full_short_and_single_batches(name, preset, build, images):
    method = build(name, preset=preset)
    for batch in stream(images):
        logits = method(batch)
        assert logits.shape == (len(batch), 10)
        assert logits.isfinite().all()
        assert not logits.requires_grad
        assert 0 <= int(method.record["selected"]) <= len(batch)
    assert all(tensor.isfinite().all() for tensor in method.trainable_parameters().values())


@pytest.mark.parametrize("name", NEEDY)
def test_what_is_needed_and_missing_is_asked_for(name, build):
    with pytest.raises(InputError, match=f"{name} with these settings needs .*: give .*, or the artefact"):
        build(name, source_images=None, labelled_source=None, held_out=None)


@pytest.mark.parametrize("name", [name for name in NEEDY if methods()[name].preparation])
def test_what_was_prepared_elsewhere_stands_in_for_what_it_is_made_of(name, build, images):
    made = build(name)
    handed = build(name, source_images=None, labelled_source=None, held_out=None, artefact=made.artefact)
    assert made.artefact
    for batch in stream(images):
        assert torch.equal(made(batch), handed(batch))


@pytest.mark.parametrize("name", NEEDY)
def test_the_declared_settings_decide_what_is_prepared(name, build):
    spec = methods()[name]
    assert spec.preparation is None or set(spec.preparation.settings) <= set(spec.settings.model_fields)
    # What the seed or the batch size changed would not be found again under the artefact's key.
    one, other = build(name), build(name, seed=3, batch_size=4)
    assert one.artefact.keys() == other.artefact.keys()
    assert all(torch.equal(one.artefact[part], other.artefact[part]) for part in one.artefact)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_changes_the_declared_parameters_and_no_others(name, build, images):
    method = build(name, preset="digits-c")
    before = snapshot(method.network)
    for batch in stream(images):
        method(batch)
    changed = {n for n, tensor in method.network.named_parameters() if not torch.equal(tensor, before[n])}
    assert changed <= set(method.trainable_parameters())
    assert bool(changed) == (methods()[name].trains and not methods()[name].episodic)


@pytest.mark.parametrize("name", METHODS)
def test_reset_restores_the_source_bit_for_bit(name, build, images):
    method = build(name, preset="digits-c")
    before = snapshot(method.network)
    first = [method(batch) for batch in stream(images)]
    method.reset()
    assert same(snapshot(method.network), before)
    again = [method(batch) for batch in stream(images)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_a_state_saved_in_mid_stream_continues_as_if_nothing_happened(name, build, images):
    batches = stream(images, (16, 16, 16, 5, 1, 16))
    uninterrupted = build(name, preset="digits-c")
    expected = [uninterrupted(batch) for batch in batches]
    interrupted = build(name, preset="digits-c")
    for batch in batches[:3]:
        interrupted(batch)
    file = io.BytesIO()
    torch.save(interrupted.state_dict(), file)
    interrupted(batches[0])  # What happens after the save must not leak into it.
    file.seek(0)
    # Another seed: what is not in the state would show.
    resumed = build(name, preset="digits-c", seed=7)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for batch, logits in zip(batches[3:], expected[3:], strict=True):
        assert torch.equal(resumed(batch), logits)
    assert same(snapshot(resumed.network), snapshot(uninterrupted.network))
    assert resumed.diagnostics() == uninterrupted.diagnostics()


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name, build, images):
    runs = [build(name, preset="digits-c", seed=3) for _ in range(2)]
    for batch in stream(images):
        assert torch.equal(runs[0](batch), runs[1](batch))


@pytest.mark.parametrize("name", [name for name, spec in methods().items() if spec.starts_at_source])
def test_the_first_batch_gets_source_logits(name, tiny_vit, build, images):
    source = tiny_vit().double()(images().double())
    assert torch.allclose(build(name, torch.float64)(images().double()), source, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_double_precision_agrees_with_single(name, build, images):
    single = build(name)
    double = build(name, torch.float64)
    tolerance = 1e-3 * methods()[name].amplifies_rounding
    for batch in stream(images):
        logits = double(batch.double())
        assert logits.dtype == torch.float64
        assert torch.allclose(single(batch).double(), logits, atol=tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_autocast_stays_finite_and_adapts_in_float32(name, build, images, monkeypatch):
    method = build(name, preset="digits-c")
    backward = torch.Tensor.backward

    def outside_of_autocast(loss, *arguments, **options):
        assert not torch.is_autocast_enabled("cpu")
        backward(loss, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "backward", outside_of_autocast)
    for batch in stream(images):
        with torch.autocast("cpu", torch.bfloat16):
            assert method(batch).isfinite().all()
    for tensor in method.trainable_parameters().values():
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_steps_work_where_the_caller_turned_gradients_off(name, build, images):
    one, other = (build(name, preset="digits-c") for _ in range(2))
    with torch.no_grad():
        one(images())
        without = one(images(seed=1))
    other(images())
    assert torch.equal(without, other(images(seed=1)))


@pytest.mark.parametrize("name", METHODS)
def test_diagnostics_have_one_form(name, build, images):
    method = build(name)
    method(images())
    for layers in method.diagnostics().values():
        for layer, values in layers.items():
            assert isinstance(layer, str)
            assert all(isinstance(value, float) for value in values)


@pytest.mark.parametrize("name", METHODS)
def test_records_hold_what_the_spec_declares(name, build, images):
    method = build(name)
    method(images())
    assert set(method.record) - {"loss", "selected"} == set(methods()[name].scalars)
    assert all(tensor.ndim == 0 and not tensor.requires_grad for tensor in method.record.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_search_may_find_every_preset(name):
    spec = methods()[name]
    for preset in spec.preset_names():
        settings = spec.resolve(preset, {})
        for setting, space in spec.search.items():
            value = getattr(settings, setting)
            assert value in space.values if isinstance(space, Choice) else space.low <= value <= space.high


def test_unknown_names_and_values_say_what_is_allowed(tiny_vit):
    with pytest.raises(InputError, match=r"unknown method 'tennt'\. Did you mean 'tent'\? Allowed: .*, t3a, tent"):
        build_method("tennt", tiny_vit(), num_classes=10)
    with pytest.raises(InputError, match="unknown key 'num_expert', did you mean 'num_experts'"):
        build_method("moetta", tiny_vit(), num_classes=10, num_expert=3)
    with pytest.raises(InputError, match=r"lambda_balance = -1 is not allowed: .*greater than or equal to 0"):
        build_method("moetta", tiny_vit(), num_classes=10, lambda_balance=-1)
    with pytest.raises(InputError, match=r"unknown preset of tent 'offical'.*'official'"):
        build_method("tent", tiny_vit(), num_classes=10, preset="offical")


@pytest.mark.parametrize("name", ["tent", "moetta"])
def test_a_network_without_norms_is_refused(name):
    with pytest.raises(InputError, match=r"norm|LayerNorm"):
        build_method(name, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), num_classes=3)


@pytest.mark.parametrize("shape", [(0, 3, 32, 32), (3, 32, 32)])
def test_images_of_a_wrong_shape_are_refused(shape, tiny_vit):
    with pytest.raises(InputError, match="give \\(batch, channels, height, width\\)"):
        build_method("tent", tiny_vit(), num_classes=10)(torch.zeros(shape))


def test_a_state_of_another_method_is_refused(tiny_vit):
    tent = build_method("tent", tiny_vit(), num_classes=10)
    moetta = build_method("moetta", tiny_vit(), num_classes=10)
    with pytest.raises(InputError, match="does not fit this method"):
        moetta.load_state_dict(tent.state_dict())
