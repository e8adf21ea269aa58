"""Frozen weights are cast once, and what is computed with them is the same."""

import copy
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tta_core import build_method
from tta_core.methods.half_weights import HalfWeights


class CastWeights(TorchDispatchMode):
    """Counts the casts of matrices to half precision, by shape."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.counts = shapes, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::_to_copy" and result.dtype == torch.bfloat16 and result.shape in self.shapes:
            self.counts[result.shape] += 1
        return result


def weights(network):
    return {layer.weight.shape for layer in network.modules() if type(layer) in (torch.nn.Linear, torch.nn.Conv2d)}


@pytest.mark.parametrize(("name", "cast"), [("tent", False), ("moetta", False), ("cotta", True)])
def test_only_weights_that_move_are_cast_in_a_step(name, cast, tiny_vit, images):
    method = build_method(name, tiny_vit(), num_classes=10)
    seen = []
    for seed in range(2):
        with torch.autocast("cpu", torch.bfloat16), CastWeights(weights(tiny_vit())) as found:
            method(images(4, seed))
        seen.append(bool(found.counts))
    assert seen == [True, cast]


def test_logits_and_steps_are_those_of_autocast_bit_for_bit(tiny_vit, images, monkeypatch):
    outcomes = []
    for lends in (True, False):
        if not lends:
            monkeypatch.setattr(HalfWeights, "lent", lambda self, device: torch.enable_grad())
        method = build_method("tent", tiny_vit(), num_classes=10, lr=0.01)
        with torch.autocast("cpu", torch.bfloat16):
            outcomes.append([method(images(4, seed)) for seed in range(3)])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


def test_the_weights_themselves_are_back_after_a_step_and_after_an_error(tiny_vit, images):
    method = build_method("tent", tiny_vit(), num_classes=10)
    before = dict(method.network.named_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        method(images(4))
        method.step = lambda images: 1 / 0
        with pytest.raises(ZeroDivisionError):
            method(images(4))
    after = dict(method.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def test_a_weight_that_somebody_writes_to_is_cast_again(tiny_vit, images):
    method = build_method("source", tiny_vit(), num_classes=10)
    plain = copy.deepcopy(method.network)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        first = method(images(4))
        for network in (method.network, plain):
            network.blocks[0].mlp.fc1.weight.mul_(3)
        second = method(images(4))
        assert torch.equal(second, plain(images(4)))
    assert not torch.equal(first, second)
