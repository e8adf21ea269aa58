"""Reading modules in the first forward of a step."""

import torch
from torch import nn

from tta_core.diagnostics.capture import FirstForward


def test_only_the_first_forward_after_arming_is_read():
    layer = nn.Linear(2, 2)
    first = FirstForward({"layer": layer}, lambda name, module, x: (name, module, float(x.sum())))
    layer(torch.ones(1, 2))
    assert first.kept == {}
    first.arm()
    layer(torch.ones(1, 2))
    layer(torch.zeros(1, 2))
    assert first.kept == {"layer": ("layer", layer, 2.0)}
    first.disarm()
    first.arm()
    assert first.kept == {}
    layer(torch.zeros(1, 2))
    first.disarm()
    layer(torch.ones(1, 2))
    assert first.kept == {"layer": ("layer", layer, 0.0)}


def test_what_is_read_is_not_part_of_the_graph():
    layer = nn.Linear(2, 2)
    first = FirstForward({"layer": layer}, lambda name, module, x: x * module.weight.sum())
    first.arm()
    out = layer(torch.ones(1, 2, requires_grad=True))
    assert out.requires_grad
    assert not first.kept["layer"].requires_grad
