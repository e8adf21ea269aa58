"""Changes of domain, the bank and retrieval in IMSE (imse §1.7, §1.9 and §8, tests 3, 5 and 6)."""

import io

import pytest
import torch

from tests.states import equal
from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.transformer import embed
from tta_core.methods.imse.bank import SpectralBank
from tta_core.methods.imse.descriptor import Descriptor, average, blend, describe, describe_patches, distance
from tta_core.methods.imse.domains import source_descriptor
from tta_core.methods.imse.spec import IMSESettings

OFFSETS = {"A": 2.0, "B": -2.0, "C": 6.0}
"""What is added to the normalised images of each domain; the source has 0."""


@pytest.fixture
def build(tiny_vit, images):
    """Builds IMSE with source images."""

    def make(**changes):
        given = {"num_classes": 10, "batch_size": 16, "source_images": [images(16, 100 + n) for n in range(3)]}
        return build_method("imse", tiny_vit(), **(given | changes))

    return make


@pytest.fixture
def run(images):
    """Feeds a stream such as "A A B" to a method; a number behind a letter is the batch size. Returns the records."""

    def feed(method, stream, start=0):
        records = []
        for seed, word in enumerate(stream.split(), start=start):
            method(images(int(word[1:] or 16), seed) + OFFSETS[word[0]])
            records.append({name: float(value) for name, value in method.record.items()})
        return records

    return feed


def column(records, name):
    return [record[name] for record in records]


def code_of(method):
    return torch.cat([sigma.detach() for sigma in method.trained])


def without_step(method):
    """Makes the next step leave the code as it was retrieved."""
    method.optimizer.param_groups[0]["lr"] = 0.0
    return method


def descriptor(*pairs):
    means, variances = zip(*pairs, strict=True)
    return Descriptor(torch.tensor(means, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64))


def store(bank, domain, code):
    return bank.store(domain, code, torch.zeros(0), bank.nearest(domain).tolist())


def test_distances_of_a_hand_computed_pair():
    one, other = descriptor((0.0, 1.0)), descriptor((1.0, 4.0))
    assert distance(one, other, "kl", 0.0) == pytest.approx((1 + 1) / 8 + (4 + 1) / 2 - 1)
    assert distance(one, other, "mean", 0.0) == 1
    assert distance(one, other, "variance", 0.0) == 9
    assert distance(one, other, "mean_variance", 0.0) == 10


@pytest.mark.parametrize("kind", ["kl", "mean", "variance", "mean_variance"])
def test_distances_are_symmetric_and_zero_for_equal_descriptors(kind):
    one, other = descriptor((0.3, 1.0), (2.0, 0.1)), descriptor((1.0, 4.0), (-1.0, 0.0))
    assert distance(one, other, kind, 1e-8) == distance(other, one, kind, 1e-8) > 0
    assert distance(other, other, kind, 1e-8) == 0


def test_descriptors_take_patch_tokens_over_images_and_places(build, images):
    method = build()
    tokens = embed(method.transformer, images())[:, 1:].reshape(-1, 48)
    found = describe_patches(method.transformer, method._embed(images()))
    assert torch.allclose(found.mean, tokens.mean(dim=0), atol=1e-6)
    assert torch.allclose(found.variance, tokens.var(dim=0), rtol=1e-5)


def test_the_average_over_batches_is_that_of_all_tokens():
    tokens = torch.randn(50, 7, 3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 5.0])
    pooled, whole = average((describe(b), len(b)) for b in tokens.split([20, 20, 10])), describe(tokens)
    assert torch.allclose(pooled.mean, whole.mean)
    assert torch.allclose(pooled.variance, whole.variance, rtol=1e-2)


def test_the_source_is_pooled_or_followed_batch_by_batch():
    batches = list(torch.arange(14.0, dtype=torch.float64).view(14, 1).split(4))

    def seen(batch):
        return Descriptor(batch.mean(dim=0), batch.var(dim=0))

    def found(**settings):
        return source_descriptor(batches, seen, IMSESettings(**settings)).mean.item()

    assert found() == pytest.approx(6.5)
    assert found(source_samples=6) == pytest.approx(2.5)
    assert found(source_descriptor="ema") == pytest.approx(0.8 * (0.8 * 1.5 + 0.2 * 5.5) + 0.2 * 9.5)
    with pytest.raises(InputError, match="without a single batch"):
        source_descriptor([], seen, IMSESettings())


def test_both_changes_of_a_returning_domain_are_found_and_its_code_comes_back(build, run):
    method = build()
    records = run(method, "A A B B")
    assert column(records, "shift") == [0, 0, 1, 0]
    assert column(records, "stored") == [-1, -1, 1, -1]
    assert column(records, "bank_size") == [1, 1, 2, 2]
    stored = method.bank.codes[1].clone()
    assert not torch.equal(stored, code_of(method))
    (record,) = run(without_step(method), "A", start=4)
    assert (record["shift"], record["stored"], record["retrieved"], record["bank_size"]) == (1, 2, 1, 3)
    assert torch.equal(code_of(method), stored)
    assert method.last_retrieval.tolist() == [0, 1, 0]
    assert int(method.last_distances.argmin()) == 1
    run(method, "A", start=5)
    assert method.last_retrieval is None


def test_the_stored_descriptor_is_the_running_one_without_the_batch_that_ended_it(build, run, images):
    method = build()
    run(method, "A A B")
    seen = [describe_patches(method.transformer, method._embed(images(16, seed) + OFFSETS["A"])) for seed in range(2)]
    expected = blend(*seen, 0.8)
    assert torch.allclose(method.bank.descriptors.mean[1], expected.mean)
    assert torch.allclose(method.bank.descriptors.variance[1], expected.variance)


def test_a_short_batch_is_never_taken_for_another_domain_but_by_the_release(build, run):
    for preset, shifts in (("recommended", [0, 0, 0, 0]), ("official", [0, 0, 1, 0])):
        method = build(preset=preset)
        records = run(method, "A A B5 A")
        assert column(records, "shift") == shifts
        assert records[2]["shift_distance"] > 0.05


def test_without_a_nominal_size_the_largest_batch_is_full(build, run):
    records = run(build(batch_size=None), "A5 B5 B16 A5 A16")
    assert column(records, "shift") == [0, 1, 0, 0, 1]


def test_streams_of_single_images_have_full_batches(build, run):
    assert column(run(build(batch_size=1, shift_threshold=3.0), "A1 A1 C1 C1"), "shift") == [0, 0, 1, 0]


def test_no_retrieval_looks_for_nothing(build, run):
    method = build(retrieval="none", source_images=None)
    records = run(method, "A B")
    assert column(records, "shift") == column(records, "bank_size") == [0, 0]
    assert method.bank is None
    assert method.parts() == {}


def test_continual_goes_on_with_the_current_code(build, run):
    method = build(retrieval="continual")
    run(method, "A A")
    before = code_of(method)
    (record,) = run(without_step(method), "B", start=2)
    assert (record["shift"], record["retrieved"]) == (1, 1)
    assert torch.equal(code_of(method), before)


def test_mean_retrieves_the_mean_of_all_codes(build, run):
    method = build(retrieval="mean")
    run(method, "A A")
    expected = (method.bank.codes[0] + code_of(method)) / 2
    run(without_step(method), "B", start=2)
    assert torch.allclose(code_of(method), expected)


@pytest.fixture
def bank():
    """Makes a bank of three entries."""

    def make(**settings):
        source = descriptor((0.0, 1.0))
        made = SpectralBank(IMSESettings(**settings), source, torch.tensor([1.0, 2.0]), torch.zeros(0))
        store(made, descriptor((1.0, 1.0)), torch.tensor([3.0, -1.0]))
        store(made, descriptor((3.0, 1.0)), torch.tensor([0.0, 7.0]))
        return made

    return make


def test_mix_lies_between_the_nearest_code_and_the_mean(bank):
    batch = descriptor((1.2, 1.0))
    nearest = bank(retrieval="top1").retrieve(batch, 2)
    mean = bank(retrieval="mean").retrieve(batch, 2)
    assert nearest.entry == 1
    assert torch.equal(nearest.code, torch.tensor([3.0, -1.0]))
    assert torch.allclose(mean.code, torch.tensor([4 / 3, 8 / 3]))
    assert torch.equal(bank(retrieval="mix", temperature=1e-4).retrieve(batch, 2).code, nearest.code)
    assert torch.allclose(bank(retrieval="mix", temperature=1e8).retrieve(batch, 2).code, mean.code)
    weights = bank(retrieval="mix", temperature=0.5).retrieve(batch, 2).weights
    assert torch.allclose(weights, (-nearest.distances / 0.5).softmax(dim=0))


def test_an_entry_within_the_threshold_is_replaced_but_never_the_source(bank):
    new = torch.tensor([8.0, 8.0])
    for settings, entry, entries in (({}, 1, 3), ({"bank_merge": False}, 3, 4), ({"bank_cap": 2}, 1, 3)):
        made = bank(**settings)
        assert store(made, descriptor((1.1, 1.0)), new) == entry
        assert len(made) == entries
        assert torch.equal(made.codes[entry], new)
        assert made.descriptors.mean[entry].item() == pytest.approx(1.05 if entries == 3 else 1.1)
    made = bank()
    assert store(made, descriptor((0.0, 1.0)), new) == 3
    assert made.codes[0].tolist() == [1, 2]


def test_a_full_bank_takes_a_far_domain_into_the_nearest_entry(bank):
    made = bank(bank_cap=2, bank_merge=False)
    assert store(made, descriptor((20.0, 1.0)), torch.tensor([8.0, 8.0])) == 2
    assert len(made) == 3


def test_returning_domains_share_an_entry_but_in_the_release(build, run):
    for preset, entries in (("recommended", 3), ("official", 5)):
        records = run(build(preset=preset), "A A B B A A B B A A")
        assert column(records, "shift") == [0, 0, 1, 0] + [1, 0] * 3
        assert records[-1]["bank_size"] == entries


def test_nothing_is_retrieved_before_enough_domains_are_stored(build, run):
    records = run(build(num_seen_domains=2), "A A B B A")
    assert column(records, "shift") == [0, 0, 1, 0, 1]
    assert column(records, "retrieved") == [-1, -1, -1, -1, 1]


@pytest.mark.parametrize(("optimizer_state", "steps"), [("reset", 1), ("load", 3), ("continue", 5)])
def test_the_optimizer_starts_anew_or_goes_on_from_the_entry_or_from_the_last_step(optimizer_state, steps, build, run):
    method = build(optimizer_state=optimizer_state)
    # Two steps in A, two in B, and one in A again, whose entry was stored after two steps.
    run(method, "A A B B A")
    assert {int(state["step"]) for state in method.optimizer.state.values()} == {steps}


def test_an_entry_keeps_its_moments_while_the_optimizer_goes_on(build, run):
    method = build(optimizer_state="load")
    run(method, "A A B")
    kept = method.bank.memories[1].clone()
    run(method, "B B", start=3)
    assert torch.equal(method.bank.memories[1], kept)


def test_a_state_saved_between_two_changes_continues_bit_for_bit(build, run):
    uninterrupted, interrupted, resumed = (build(optimizer_state="load", retrieval="mix") for _ in range(3))
    run(uninterrupted, "A A B B A C C")
    run(interrupted, "A A B B")
    file = io.BytesIO()
    torch.save(interrupted.state_dict(), file)
    run(interrupted, "C A")
    file.seek(0)
    run(resumed, "C C A")  # A bank of another size.
    resumed.load_state_dict(torch.load(file, weights_only=True))
    run(resumed, "A C C", start=4)
    assert torch.equal(code_of(resumed), code_of(uninterrupted))
    assert equal(resumed.state_dict()["parts"], uninterrupted.state_dict()["parts"])
    resumed.reset()
    assert len(resumed.bank) == 1
    assert resumed.tracker.current is None
