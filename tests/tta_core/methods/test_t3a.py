import pytest
import torch
from torch.nn.functional import normalize

from tta_core import build_method
from tta_core.backbones.embedded.network import build_digits_vit
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.t3a.supports import AllSupports, DwindlingSupports, FilteredSupports


class SlowSupports:
    """Lists of (entropy, arrival, vector), sorted as the paper says."""

    def __init__(self, unit, entropy, limit, labels=None, drops_last=False):
        self.limit, self.drops_last = limit, drops_last
        self.lists = [[] for _ in unit]
        for k, label in enumerate(range(len(unit)) if labels is None else labels):
            self.lists[int(label)].append((float(entropy[k]), k - len(unit), unit[k]))
        self.arrivals = 0

    def add(self, unit, entropy, labels):
        for vector, value, label in zip(unit, entropy, labels, strict=True):
            self.arrivals += 1
            self.lists[int(label)].append((float(value), self.arrivals, vector))
        if self.limit > 0:
            self.lists = [sorted(each, key=lambda entry: entry[:2])[: self.limit] for each in self.lists]
        elif self.drops_last:
            self.lists = [sorted(each, key=lambda entry: entry[:2])[:-1] for each in self.lists]

    def means(self):
        some = next(vector for each in self.lists for _, _, vector in each)
        nothing = torch.zeros_like(some)
        return torch.stack(
            [torch.stack([vector for _, _, vector in each]).mean(dim=0) if each else nothing for each in self.lists]
        )

    def counts(self):
        return [len(each) for each in self.lists]


def drawn(count, dim, seed):
    return normalize(
        torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


@pytest.fixture
def build(tiny_vit):
    def make(dtype=torch.float32, **settings):
        return build_method("t3a", tiny_vit().to(dtype), num_classes=10, **settings)

    return make


@pytest.mark.parametrize("limit", [1, 3, -1, "drops last"])
@pytest.mark.parametrize("classes", [4, 40])  # More samples than classes, and fewer.
@pytest.mark.parametrize("row_class", ["own", "predicted"])
def test_supports_agree_with_sorted_lists(limit, classes, row_class):
    unit, entropy = drawn(classes, 5, 0), torch.rand(classes, generator=torch.Generator().manual_seed(0)).double()
    rows = torch.arange(classes)
    if row_class == "predicted":
        rows = rows // 2  # Some classes have no row.
    drops_last = limit == "drops last"
    slow = SlowSupports(unit, entropy, -1 if drops_last else limit, rows, drops_last)
    kinds = {"drops last": DwindlingSupports, -1: AllSupports}
    fast = kinds[limit](unit) if limit in kinds else FilteredSupports(unit, limit)
    fast.add(unit, entropy, rows)
    for step, size in enumerate((16, 1, 7, 16)):
        generator = torch.Generator().manual_seed(step + 1)
        batch = drawn(size, 5, 10 + step)
        labels = torch.randint(classes, (size,), generator=generator)
        # Few values, so that many are equal.
        values = torch.randint(4, (size,), generator=generator).double() / 4
        slow.add(batch, values, labels)
        fast.add(batch, values, labels)
        assert fast.counts().tolist() == slow.counts()
        assert torch.allclose(fast.prototypes(scaled=False), slow.means())
        assert torch.allclose(fast.prototypes(scaled=True), normalize(slow.means(), dim=-1))


def test_the_filter_by_hand():
    unit = torch.eye(2, dtype=torch.float64)
    supports = FilteredSupports(unit, 2)
    supports.add(unit, torch.tensor([0.5, 0.1]).double(), torch.tensor([0, 1]))
    north, south = torch.tensor([0.0, 1.0]).double(), torch.tensor([0.0, -1.0]).double()
    supports.add(torch.stack([north, south]), torch.tensor([0.4, 0.2]).double(), torch.tensor([0, 0]))
    # Class 0 had (1, 0) of entropy 0.5, got two that are more certain and keeps these; class 1 is as it was.
    assert supports.prototypes(scaled=False).tolist() == [[0, 0], [0, 1]]
    supports.add(north[None], torch.tensor([0.3]).double(), torch.tensor([0]))
    assert supports.entropies[0].tolist() == pytest.approx([0.2, 0.3])
    assert supports.counts().tolist() == [2, 1]


def test_a_mean_of_nothing_left_is_not_scaled_to_nan():
    supports = AllSupports(torch.eye(2))
    supports.add(torch.eye(2), torch.zeros(2), torch.tensor([0, 1]))
    supports.add(-torch.eye(2), torch.zeros(2), torch.tensor([0, 1]))
    assert supports.prototypes(scaled=True).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("settings", "limit"), [({}, 20), ({"filter_k": 2}, 2), ({"filter_k": -1}, -1)])
@pytest.mark.parametrize("unit_prototypes", [True, False])
def test_the_method_follows_the_formula(settings, limit, unit_prototypes, build, tiny_vit, images):
    method = build(torch.float64, unit_prototypes=unit_prototypes, **settings)
    network = tiny_vit().double()
    weight = network.head.weight.detach()
    with torch.no_grad():
        slow = SlowSupports(normalize(weight, dim=-1), softmax_entropy(network.head(weight)), limit)
    for seed, size in enumerate((16, 5, 1)):
        batch = images(size, seed).double()
        with torch.no_grad():
            z = network.forward_head(network.forward_features(batch), pre_logits=True)
            logits = network(batch)
        slow.add(normalize(z, dim=-1), softmax_entropy(logits), logits.argmax(dim=-1))
        means = normalize(slow.means(), dim=-1) if unit_prototypes else slow.means()
        expected = z @ means.T
        assert torch.allclose(method(batch), expected)
        assert method.record["supports"] == sum(slow.counts())
        assert method.record["changed"] == (expected.argmax(dim=-1) != logits.argmax(dim=-1)).sum()
        assert torch.allclose(method.predict(batch), expected)  # The supports stay as they are.


def test_without_a_batch_the_prototypes_are_the_rows_of_the_classifier(build, tiny_vit, images):
    network = tiny_vit()
    z = network.forward_head(network.forward_features(images()), pre_logits=True)
    expected = z @ normalize(network.head.weight, dim=-1).T
    assert torch.allclose(build().predict(images()), expected, atol=1e-5)


def test_what_is_kept_does_not_grow(build, images):
    method = build(filter_k=3)
    sizes = {name: tensor.shape for name, tensor in method.supports.state_dict().items()}
    for seed in range(8):
        method(images(16, seed))
    assert {name: tensor.shape for name, tensor in method.supports.state_dict().items()} == sizes
    assert method.record["supports"] <= 30
    everything = build(filter_k=-1)
    for seed in range(8):
        everything(images(16, seed))
    assert everything.record["supports"] == 10 + 8 * 16


def test_the_paper_scores_plain_means(build, images):
    assert build(preset="paper").settings.unit_prototypes is False
    assert build(preset="official").settings.unit_prototypes is True
    plain, scaled = build(filter_k=-1, unit_prototypes=False), build(filter_k=-1)
    assert not torch.allclose(plain(images()), scaled(images()))


def test_a_cosine_head_is_compared_in_the_space_of_its_text_vectors(images):
    torch.manual_seed(0)
    network = build_digits_vit("text-prototype").eval()
    with torch.no_grad():
        z = network.head.projection(network.forward_head(network.forward_features(images(4)), pre_logits=True))
    method = build_method("t3a", network, num_classes=10)
    assert torch.allclose(method.predict(images(4)), z @ normalize(network.head.prototypes, dim=-1).T, atol=1e-5)
    assert method(images(4)).isfinite().all()


def test_the_published_presets_take_the_predicted_class_of_rows(build):
    for preset, filter_k, drops_last in (
        ("official", 20, False),
        ("foa", 20, False),
        ("official-unfiltered", -1, True),
    ):
        settings = build(preset=preset).settings
        assert (settings.row_class, settings.filter_k, settings.drops_last) == ("predicted", filter_k, drops_last)


def test_no_supports_and_other_classifiers_are_refused(build, tiny_vit):
    with pytest.raises(InputError, match="filter_k = 0 is not allowed: 0 supports make no prototype"):
        build(filter_k=0)
    network = tiny_vit()
    network.head = torch.nn.Sequential(torch.nn.Linear(48, 10))
    with pytest.raises(InputError, match="t3a takes the rows of a linear classifier"):
        build_method("t3a", network, num_classes=10)
