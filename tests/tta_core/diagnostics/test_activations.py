"""Hidden activations of sparse experts."""

import numpy as np
import pytest
import torch
from torch import nn

from tta_core.diagnostics.activations import EDGES, bin_shares


def test_every_value_falls_into_one_bin():
    hidden = torch.tensor([0.0, 0.0, 5e-5, 1e-4, 2e-4, 5.0, 99.0, 1e3])
    above = torch.stack([(hidden > edge).sum() for edge in (0.0, *EDGES)]).double()
    shares = bin_shares(above, len(hidden))
    assert len(shares) == len(EDGES) + 2
    assert shares.sum() == pytest.approx(1)
    filled = {item: round(float(share) * 8) for item, share in enumerate(shares) if share}
    # Zeros; up to 1e-4; 1e-4 to 10**-3.5; 10**0.5 to 10; 10**1.5 to 100; above 100.
    assert filled == {0: 2, 1: 2, 2: 1, 11: 1, 13: 1, 14: 1}


def test_borders_are_two_a_decade():
    assert np.log10(EDGES) == pytest.approx(np.arange(-4, 2.5, 0.5))


class Adapter(nn.Module):
    """Stands in for sparse experts: hidden activations are 0 for dark images and the pixels' brightness otherwise."""

    def __init__(self):
        super().__init__()
        self.inspect = False
        self.inspection = self.routing = None
        self.inspected = []

    def forward(self, x):
        self.inspected.append(self.inspect)
        level = x.mean(dim=(1, 2, 3))
        self.routing = torch.stack([(level > 0).float(), (level <= 0).float()], dim=1)
        if self.inspect:
            hidden = level.clamp(min=0)[:, None, None, None].expand(-1, 5, 2, 3)
            self.inspection = {
                "hidden": hidden,
                "kept_energy": torch.tensor([0.5, 0.002]),
                "gate_mean": torch.tensor([0.25, 0.75]),
            }
        return x


class Network(nn.Module):
    """One adapter and a head."""

    def __init__(self):
        super().__init__()
        self.adapter = Adapter()
        self.head = nn.Linear(3, 10)

    def forward(self, x):
        return self.head(self.adapter(x).mean(dim=(2, 3)))


def test_what_adapters_show_is_gathered_by_domain(make_scene, watch):
    """Fog is dark, snow is near the middle, frost is bright; steps 0-2, 3-5 and 6-8."""
    scene = make_scene("source", network=Network)
    adapter = scene.method.network.adapter
    adapter.inspected.clear()
    watched = watch(scene, ("activations",), every=4)
    # Measuring steps 0, 4, 8 and the middle steps 1, 4, 7 of the segments.
    assert [step for step, inspected in enumerate(adapter.inspected) if inspected] == [0, 1, 4, 7, 8]
    assert not adapter.inspect
    assert adapter.inspection is None
    histogram = watched.values("hidden_histogram", by=("layer", "domain", "item"))
    for domain in ("fog", "snow", "frost"):
        shares = [histogram["adapter", domain, item] for item in range(len(EDGES) + 2)]
        assert sum(shares) == pytest.approx(1)
        assert shares[0] == watched.values("hidden_zero_share", by=("layer", "domain"))["adapter", domain]
    assert histogram["adapter", "fog", 0] == 1
    assert histogram["adapter", "frost", 0] == 0
    weights = watched.values("router_weight", by=("domain", "item"))
    assert weights["fog", 1] == weights["frost", 0] == 1
    assert weights["snow", 0] + weights["snow", 1] == 1
    energy = watched.values("kept_energy", by=("step", "item"))
    assert {step for step, _ in energy} == {0, 1, 4, 7, 8}
    assert (energy[4, 0], energy[4, 1]) == pytest.approx((0.5, 0.002))
    assert watched.values("kept_energy_alarm", by=("layer",)) == {("adapter",): 1}
    assert watched.values("gate_mean", by=("item",)) == pytest.approx({(0,): 0.25, (1,): 0.75})


def test_moase_is_watched(make_scene, watch):
    scene = make_scene("moase", preset="digits-c")
    watched = watch(scene, ("activations", "routing"), every=4)
    zeros = watched.values("hidden_zero_share", by=("layer", "domain"))
    assert set(zeros) == {(f"blocks.{block}.adapter", d) for block in range(3) for d in scene.order.domains}
    assert all(0.1 < share < 0.9 for share in zeros.values()), "about half of what ReLU passes is 0"
    weights = watched.values("router_weight", by=("layer", "domain", "item"))
    experts = scene.method.settings.num_experts
    for layer, domain in zeros:
        assert sum(weights[layer, domain, expert] for expert in range(experts)) == pytest.approx(1)
    table = watched.values("routing", by=("layer", "domain", "item"))
    assert sum(table["blocks.0.adapter", "fog", expert] for expert in range(experts)) == pytest.approx(20, rel=1e-5)
    energy = watched.values("kept_energy", by=("layer", "step", "item"))
    assert all(0 < value <= 1 for value in energy.values())
    # The second half of the experts keeps the largest activations.
    assert min(value for (_, _, item), value in energy.items() if item >= experts // 2) > 0.5


def test_the_release_of_moase_sets_off_the_alarm(make_scene, watch):
    scene = make_scene("moase", preset="official-r48")
    watched = watch(scene, ("activations",), every=4)
    assert set(watched.values("kept_energy_alarm", by=("layer",)).values()) == {1}
