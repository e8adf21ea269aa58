import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

from tests.states import equal
from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.foa import method as foa_module
from tta_core.methods.foa.evolution import EvolutionStrategy
from tta_core.methods.registry import method_spec

ROOT = Path(__file__).resolve().parents[3]
DIM, DEPTH = 48, 3


@pytest.fixture
def build(tiny_vit, images):
    def make(dtype=torch.float64, changes=None, **settings):
        source = [images(16, 100).to(dtype), images(9, 101).to(dtype)]
        given = {"source_images": source, "population_size": 5, "seed": 1} | settings
        return build_method("foa", tiny_vit(**(changes or {})).to(dtype), num_classes=10, **given)

    return make


def slow_features(network, images, prompts):
    """What hooks see of a forward with prompts, and its logits, without the code under test."""
    seen = []
    norms = [block.norm1 for block in network.blocks[1:]] + [network.norm]
    handles = [norm.register_forward_hook(lambda _m, _i, out: seen.append(out[:, 0].detach())) for norm in norms]
    tokens = network._pos_embed(network.patch_embed(images))
    if prompts is not None:
        tokens = torch.cat([tokens[:, :1], prompts.expand(len(images), -1, -1), tokens[:, 1:]], dim=1)
    with torch.no_grad():
        logits = network.head(network.norm(network.blocks(tokens))[:, 0])
    for handle in handles:
        handle.remove()
    return torch.cat(seen, dim=1), logits


def slow_fitness(network, images, prompts, method):
    features, logits = slow_features(network, images, prompts)
    p = softmax(logits, dim=-1)
    entropy = -(p * p.log()).sum()
    distance = (features.mean(0) - method.artefact["mean"]).square().sum()
    if len(images) > 1:
        distance = distance + (features.std(0) - method.artefact["std"]).square().sum()
    return entropy, distance, features[:, -DIM:]


# The evolution strategy.


def bowl(vectors):
    return np.array([((vector - 1) ** 2 * np.linspace(1, 30, len(vector))).sum() for vector in vectors])


def generation(strategy, best):
    vectors = [*strategy.ask(), best]
    values = bowl(vectors)
    strategy.tell(vectors, values)
    return vectors[int(values.argmin())].copy(), values.min()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def internals(value, path="", seen=None):
    """All numbers and arrays that an object holds, at any depth, by where they are."""
    seen = set() if seen is None else seen
    if isinstance(value, bool | int | float | np.number):
        return {path: repr(float(value))}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {path: value.tobytes()}
    found = {}
    if id(value) not in seen and type(value).__module__.startswith(("cma", "builtins")):
        seen.add(id(value))
        inside = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        for name, part in inside.items():
            found |= internals(part, f"{path}.{name}", seen)
    return found


FORGOTTEN = (
    *(".best", ".fit", ".timer", "_stop", ".inputargs", ".more_to_write", "_tell2_args", ".mean_old_old"),
    *(".number_of", ".hsiglist", ".logger", "solutions", ".archive", "_random"),
)
"""What cma remembers for stopping, printing and plotting only."""


@pytest.mark.parametrize(("dimension", "population", "generations"), [(6, 4, 40), (30, 27, 16), (144, 27, 8)])
def test_a_strategy_goes_on_from_tensors_bit_for_bit(dimension, population, generations):
    whole = EvolutionStrategy(dimension, population, 1.0, 2020)
    best, states, bests = np.full(dimension, 0.1), [], []
    for _ in range(generations):
        states.append(through_a_file(whole.state_dict()))
        bests.append(best)
        best, _ = generation(whole, best)
    decompositions = {int(state["counts"][-1]) for state in states}
    assert len(decompositions) > 2  # The decomposition is put off: most states lie between two.
    for start in (0, 1, generations // 2, generations // 2 + 1):
        resumed = EvolutionStrategy(dimension, population, 1.0, 7)
        resumed.load_state_dict(states[start])
        best = bests[start]
        for later in range(start, generations):
            assert equal(resumed.state_dict(), states[later])
            best, _ = generation(resumed, best)
        assert resumed.ask()[0].tobytes() == whole_again(states[-1], bests[-1], dimension, population)


def whole_again(state, best, dimension, population):
    strategy = EvolutionStrategy(dimension, population, 1.0, 3)
    strategy.load_state_dict(state)
    generation(strategy, best)
    return strategy.ask()[0].tobytes()


def test_nothing_that_matters_is_left_out_of_the_state():
    whole = EvolutionStrategy(12, 8, 0.7, 5)
    best = np.zeros(12)
    for _ in range(25):
        best, _ = generation(whole, best)
    resumed = EvolutionStrategy(12, 8, 0.7, 6)
    resumed.load_state_dict(whole.state_dict())
    other = best.copy()
    for _ in range(2):  # Once, and what is made anew in each generation is the same again.
        best, _ = generation(whole, best)
        other, _ = generation(resumed, other)
    one, two = internals(whole._strategy), internals(resumed._strategy)
    differing = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    assert {".sigma", ".mean", ".sm.C", ".adapt_sigma.ps"} <= one.keys()
    assert not {name for name in differing if not any(part in name for part in FORGOTTEN)}


def test_a_strategy_leaves_the_global_generator_and_the_disk_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.random.seed(4)
    before = np.random.get_state()[1].copy()
    strategy, best = EvolutionStrategy(5, 6, 1.0, 1), np.zeros(5)
    values = []
    for _ in range(40):
        best, value = generation(strategy, best)
        values.append(value)
    assert values[-1] < values[0] / 10
    assert np.array_equal(np.random.get_state()[1], before)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_the_same_seed_draws_the_same_and_another_does_not():
    draws = [EvolutionStrategy(4, 6, 1.0, seed).ask()[0] for seed in (3, 3, 4)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_a_value_that_is_not_finite_counts_as_worst():
    one, other = EvolutionStrategy(4, 6, 1.0, 3), EvolutionStrategy(4, 6, 1.0, 3)
    one.tell(one.ask(), np.array([1, np.nan, 2, np.inf, 3, 4]))
    other.tell(other.ask(), np.array([1.0, 4, 2, 4, 3, 4]))
    assert torch.equal(one.state_dict()["C"], other.state_dict()["C"])
    one.tell(one.ask(), np.full(6, np.nan))
    assert math.isfinite(one.sigma)


def test_a_state_of_another_version_or_dimension_is_refused():
    strategy = EvolutionStrategy(4, 6, 1.0, 3)
    with pytest.raises(InputError, match=r"the state is of cma 3\.2\.1, and .* is installed: install that version"):
        strategy.load_state_dict(strategy.state_dict() | {"version": [3, 2, 1]})
    with pytest.raises(InputError, match="in 5 dimensions, this one has 4"):
        strategy.load_state_dict(EvolutionStrategy(5, 6, 1.0, 3).state_dict())


# The method.


@pytest.mark.parametrize("batch", [16, 1])
def test_steps_follow_the_formulas(batch, build, tiny_vit, images):
    method = build(cmaes_seed=11, fitness_lambda=0.7, history_momentum=0.3, activation_shift=0.5, num_prompts=2)
    network = tiny_vit().double()
    strategy = EvolutionStrategy(2 * DIM, 5, 1.0, 11)
    best, history = method.prompts.flatten().numpy().copy(), None
    for step in range(4):
        given = images(batch, step).double()
        vectors = [*strategy.ask(), best]
        found = [slow_fitness(network, given, torch.tensor(v).view(2, DIM), method) for v in vectors]
        fitness = torch.stack([entropy + 0.7 * distance * batch / 64 for entropy, distance, _ in found])
        chosen = int(fitness.argmin())
        features = found[chosen][2]
        if history is not None:
            features = features + 0.5 * (method.artefact["mean"][-DIM:] - history)
        assert torch.allclose(method(given), network.head(features))
        assert torch.allclose(method.fitness, fitness)
        assert method.record["candidate"] == chosen
        assert torch.allclose(method.record["loss"], fitness[chosen])
        assert torch.allclose(method.record["entropy"], found[chosen][0] / batch)
        assert torch.allclose(method.record["discrepancy"], found[chosen][1])
        assert method.record["selected"] == batch
        strategy.tell(vectors, fitness.numpy())
        assert method.record["step_size"] == pytest.approx(strategy.sigma)
        best = vectors[chosen]
        assert np.array_equal(method.prompts.flatten().numpy(), best)
        mean = torch.stack([last.mean(0) for _, _, last in found]).mean(0)
        history = mean if history is None else 0.7 * history + 0.3 * mean
        assert torch.allclose(method.history, history)


def test_prediction_takes_the_last_best_prompts_and_the_present_shift(build, tiny_vit, images):
    method, network = build(), tiny_vit().double()
    given = images(4, 9).double()
    assert torch.allclose(method.predict(given), slow_features(network, given, method.prompts)[1])
    method(images().double())
    before = method.evolution.state_dict()
    features = slow_features(network, given, method.prompts)[0][:, -DIM:]
    expected = network.head(features + method.artefact["mean"][-DIM:] - method.history)
    assert torch.allclose(method.predict(given), expected)
    assert equal(method.evolution.state_dict(), before)


@pytest.mark.parametrize("tokens", [1, 60, 100000])
def test_how_many_candidates_are_tried_together_does_not_matter(tokens, build, images, monkeypatch):
    expected = build()
    logits = [expected(images(seed=seed).double()) for seed in range(3)]
    monkeypatch.setattr(foa_module, "TOKENS_AT_ONCE", {"cpu": tokens, "cuda": tokens})
    other = build()
    for seed in range(3):
        assert torch.allclose(other(images(seed=seed).double()), logits[seed])


def test_a_step_opens_with_the_batch_as_it_came(build, images):
    sizes = []
    method = build()
    method.network.blocks[0].register_forward_hook(lambda _m, inputs, _o: sizes.append(inputs[0].shape[:2]))
    embedded = []
    method.network.patch_embed.register_forward_hook(lambda *_: embedded.append(1))
    method(images().double())
    assert sizes[0] == (16, 17 + 3)
    assert sum(size[0] for size in sizes) == 6 * 16
    assert len(embedded) == 1  # All candidates share it.


def test_prompts_start_small_and_follow_the_seed(build):
    prompts = build().prompts
    bound = math.sqrt(6 / (3 * 8 * 8 + DIM))
    assert prompts.shape == (3, DIM)
    assert 0.9 * bound < prompts.abs().max() <= bound
    assert torch.equal(build().prompts, prompts)
    assert not torch.equal(build(seed=2).prompts, prompts)


def test_the_published_seed_is_the_same_for_all_cells(build, images):
    populations = [
        build(seed=seed, cmaes_seed=given).evolution.ask()[0]
        for seed, given in ((1, None), (2, None), (1, 2020), (2, 2020))
    ]
    assert not np.array_equal(populations[0], populations[1])
    assert np.array_equal(populations[2], populations[3])
    assert method_spec("foa").presets["official"]["cmaes_seed"] == 2020


def test_shifting_alone_moves_features_towards_the_source(build, tiny_vit, images):
    method, network = build(preset="shift"), tiny_vit().double()
    history = None
    for step in range(3):
        given = images(8, step).double()
        features, logits = slow_features(network, given, None)
        features = features[:, -DIM:]
        if history is not None:
            logits = network.head(features + method.artefact["mean"][-DIM:] - history)
        assert torch.allclose(method(given), logits)
        mean = features.mean(0)
        history = mean if history is None else 0.9 * history + 0.1 * mean
    assert "loss" not in method.record
    assert (method.record["selected"], method.record["candidate"], method.record["step_size"]) == (0, -1, 0)
    assert torch.allclose(
        method.predict(given), network.head(features + method.artefact["mean"][-DIM:] - method.history)
    )


def test_back_propagation_trains_the_norms_on_means_over_features(build, tiny_vit, images):
    method, network = build(preset="bp", momentum=0.0, lr=0.01), tiny_vit().double()
    given = images(8).double()
    norms = {name for name, _ in network.named_parameters() if "norm" in name}
    assert method.trainable_parameters().keys() == norms
    features, logits = foa_module.class_token_features(network, foa_module.embed(network, given))
    entropy = foa_module.softmax_entropy(logits).mean()
    loss = (
        entropy
        + 30 * (features.std(0) - method.artefact["std"]).square().mean()
        + 30 * (features.mean(0) - method.artefact["mean"]).square().mean()
    )
    loss.backward()
    assert torch.allclose(method(given), logits)
    assert torch.allclose(method.record["loss"], loss)
    assert method.record["selected"] == 8
    for name, parameter in network.named_parameters():
        if name in norms:
            assert torch.allclose(method.trainable_parameters()[name], parameter - 0.01 * parameter.grad)
    shifted = method(given)
    own = foa_module.class_token_features(method.network, foa_module.embed(method.network, given))[1]
    assert shifted.isfinite().all()
    assert not torch.allclose(shifted, own)


@pytest.mark.parametrize("variant", ["foa", "shift", "bp"])
def test_without_a_shift_the_classifier_reads_features_as_they_are(variant, build, images):
    method = build(variant=variant, activation_shift=0.0, momentum=0.0, lr=1e-12)
    for seed in range(2):
        given = images(seed=seed).double()
        assert torch.allclose(method(given), method.predict(given))


@pytest.mark.parametrize(("variant", "needed"), [("foa", False), ("bp", False), ("shift", True)])
def test_source_images_are_wanted_only_for_a_comparison(variant, needed, build, images):
    spec = method_spec("foa")
    assert bool(spec.needs_of(spec.resolve("recommended", {"variant": variant, "activation_shift": 0.2}))) is True
    assert not spec.needs_of(spec.resolve("recommended", {"variant": "shift", "activation_shift": 0}))
    settings = {"variant": variant, "fitness_lambda": 0, "activation_shift": 0}
    assert not spec.needs_of(spec.resolve("recommended", settings))
    method = build(source_images=None, **settings)
    for size in (16, 1):
        assert method(images(size).double()).isfinite().all()
    assert method.record["discrepancy"] == 0
    if needed:
        with pytest.raises(InputError, match="foa with these settings needs source images"):
            build(source_images=None, variant=variant)


def test_scores_follow_the_variant():
    spec = method_spec("foa")
    scores = {name: spec.scores_of(spec.resolve("recommended", {"variant": name})) for name in ("foa", "shift", "bp")}
    assert scores == {"foa": "post-update", "shift": "pre-update", "bp": "pre-update"}


@pytest.mark.parametrize("variant", ["foa", "shift", "bp"])
def test_each_variant_resumes_bit_for_bit(variant, build, images):
    batches = [images(size, seed).double() for seed, size in enumerate((16, 16, 5, 1, 16, 16))]
    whole, first = build(variant=variant), build(variant=variant)
    expected = [whole(batch) for batch in batches]
    for batch in batches[:3]:
        first(batch)
    resumed = build(variant=variant, seed=5)
    resumed.load_state_dict(through_a_file(first.state_dict()))
    assert all(torch.equal(resumed(batch), logits) for batch, logits in zip(batches[3:], expected[3:], strict=True))
    resumed.reset()
    first.reset()
    assert not resumed.has_history


def test_networks_that_average_their_patches_leave_the_prompts_out(build, tiny_vit, images):
    changes = {"global_pool": "avg"}
    method = build(changes=changes)
    network, given = tiny_vit(**changes).double(), images(4).double()
    tokens = network._pos_embed(network.patch_embed(given))
    tokens = torch.cat([tokens[:, :1], method.prompts.expand(4, -1, -1), tokens[:, 1:]], dim=1)
    expected = network.head(network.fc_norm(network.norm(network.blocks(tokens))[:, 4:].mean(dim=1)))
    assert torch.allclose(method.predict(given), expected)
    assert method(given).isfinite().all()


def test_networks_without_a_class_token_are_refused(build):
    with pytest.raises(InputError, match="foa reads the class token"):
        build(changes={"class_token": False, "global_pool": "avg"})
