"""Back-propagation through the selected samples alone."""

import pytest
import torch

from tta_core.methods.common.selective import BREAK_EVEN, REMEMBERED, SelectiveForward


def gradients(network, forward, images, index):
    logits = forward(images)
    forward.selected(images, logits, index).square().mean().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return logits, found


def test_both_ways_give_the_same_logits_and_gradients(tiny_vit, images):
    network, index = tiny_vit().double(), torch.tensor([1, 4, 5])
    forward = SelectiveForward(network)
    whole, expected = gradients(network, forward, images().double(), index)
    assert forward.share == 3 / 16
    again, found = gradients(network, forward, images().double(), index)
    assert whole.requires_grad
    assert not again.requires_grad
    torch.testing.assert_close(again, whole.detach())
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def test_the_way_follows_the_share_of_the_last_batches(tiny_vit, images):
    forward = SelectiveForward(tiny_vit())
    assert forward.keeps_graph
    counts = [8, 10, 4, 16, 16, 16, 16, 16, 0, 0, 0]
    running = 0.0
    for number, count in enumerate(counts, start=1):
        forward.selected(images(), forward(images()), torch.arange(count))
        running += (count / 16 - running) / min(number, REMEMBERED)
        assert forward.share == pytest.approx(running)
        assert forward.keeps_graph == (running >= BREAK_EVEN)
    assert running < BREAK_EVEN


def test_one_batch_out_of_line_changes_nothing(tiny_vit, images):
    forward = SelectiveForward(tiny_vit())
    for count in (6, 6, 6, 12):
        forward.selected(images(), forward(images()), torch.arange(count))
    assert not forward.keeps_graph


def test_nothing_is_computed_for_an_empty_selection(tiny_vit, images, monkeypatch):
    network = tiny_vit()
    forward = SelectiveForward(network)
    forward.share = 0.0
    logits = forward(images())
    monkeypatch.setattr(network, "forward", lambda *_: pytest.fail("a forward of nothing"))
    assert forward.selected(images(), logits, torch.arange(0)).shape == (0, 10)


def test_batch_statistics_need_the_whole_batch(tiny_convnet, images):
    forward = SelectiveForward(tiny_convnet())
    forward.selected(images(), forward(images()), torch.arange(1))
    assert forward.keeps_graph


def test_the_share_is_part_of_the_state(tiny_vit, images):
    forward, other = SelectiveForward(tiny_vit()), SelectiveForward(tiny_vit())
    for count in (3, 5):
        forward.selected(images(), forward(images()), torch.arange(count))
    other.load_state_dict(forward.state_dict())
    assert (other.share, other.batches) == (forward.share, 2) == (4 / 16, 2)
    assert not other.keeps_graph
