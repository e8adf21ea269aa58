"""Whether the forward of every method is one graph for `torch.compile`, as its spec says."""

import pytest
import torch
from torch import nn

from tta_core import build_method
from tta_core.bench.compilation import graph_breaks
from tta_core.bench.table import as_text
from tta_core.methods.registry import methods


def edited(network):
    """Whether a forward runs code of ours; else it is that of the source."""
    return any(type(each).__module__.startswith("tta_core") or each._forward_hooks for each in network.modules())


ASKED = [name for name, spec in methods().items() if spec.network != "batch-norm" and name != "moasepp"]
"""MoASE++ has the layers of MoASE."""


@pytest.mark.parametrize("name", ASKED)
def test_the_forward_is_one_graph_unless_the_spec_says_why_not(name, tiny_vit):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labelled = [(images, torch.arange(4))]
    beyond = {"source_images": [images], "labelled_source": labelled, "held_out": labelled}
    spec = methods()[name]
    changes = spec.quick | ({"diversity_blocks": 1} if name == "imse" else {})
    method = build_method(name, tiny_vit(depth=1), num_classes=10, batch_size=4, **beyond, **changes)
    if name != "source" and not any(map(edited, method.networks().values())):
        assert spec.not_one_graph == ""
        return
    method(images)
    assert bool(graph_breaks(method, images)) == bool(spec.not_one_graph)


def test_a_read_in_the_forward_breaks_the_graph(tiny_vit):
    class Reading(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum().item() > 0 else x - 1

    network = tiny_vit(depth=1)
    network.blocks.append(Reading())
    images = torch.zeros(1, 3, 32, 32)
    breaks = graph_breaks(build_method("source", network, num_classes=10), images)
    assert sum(breaks.values()) >= 1
    assert all("\n" not in why for why in breaks)


def test_the_table_says_why_graphs_break(monkeypatch):
    from tests.tta_core.bench.test_bench import request
    from tta_core.bench.measure import run_bench

    monkeypatch.setattr("tta_core.bench.measure.graph_breaks", lambda method, images: {"too odd": 3})
    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", self._call_impl))
    found = run_bench(request("becotta", compiled=True, repeats=1))
    assert found.rows[0].graph_breaks == {"too odd": 3}
    text = as_text(found)
    assert "becotta:recommended: each gate draws its noise on the CPU" in text
    assert "3 x too odd" in text
