"""What is kept, against torch.topk one selection at a time."""

import itertools

import pytest
import torch

from tta_core.methods.moase import selection
from tta_core.methods.moase.selection import Rules, half, where_positive

RATIOS = torch.tensor([[0.25, 0.6], [0.4, 0.9]], dtype=torch.float64)


@pytest.fixture
def hidden():
    """ReLU of Gaussians, `(batch 2, tokens 5, experts 2, channels 7)`: about half of the values are 0."""
    return torch.randn(2, 5, 2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).relu()


def kept(values, ratio, rule, scope):
    rules = Rules.of([rule] * values.shape[2], values.device, values.dtype)
    return where_positive(values, selection.kept(values, ratio, rules, scope))


def kept_of_one(values, ratio, rule):
    """The same for one selection `(n,)`."""
    if rule == "smallest_active":
        active = (values > 0).nonzero().flatten()
        count = min(max(1, int(ratio * len(active))), len(active))
        chosen = active[values[active].topk(count, largest=False).indices]
    else:
        chosen = values.topk(int(len(values) * ratio), largest=rule == "largest").indices
    result = torch.zeros_like(values)
    result[chosen] = values[chosen]
    return result


def one_by_one(values, ratio, rule, scope):
    result = torch.zeros_like(values)
    batch, tokens, experts, channels = values.shape
    for image, expert in itertools.product(range(batch), range(experts)):
        part, out, share = values[image, :, expert], result[image, :, expert], float(ratio[image % len(ratio), expert])
        if scope == "sample":
            out.copy_(kept_of_one(part.flatten(), share, rule).view_as(part))
        for token in range(tokens if scope == "token_channel" else 0):
            out[token] = kept_of_one(part[token], share, rule)
        for channel in range(channels if scope == "channel_token" else 0):
            out[:, channel] = kept_of_one(part[:, channel], share, rule)
    return result


@pytest.mark.parametrize("ratio", [RATIOS, RATIOS[:1]], ids=["by sample", "by batch"])
@pytest.mark.parametrize("scope", ["token_channel", "sample", "channel_token"])
@pytest.mark.parametrize("rule", ["largest", "smallest_k", "smallest_active"])
def test_the_same_is_kept_as_by_topk(rule, scope, ratio, hidden):
    found = kept(hidden, ratio, rule, scope)
    assert torch.equal(found, one_by_one(hidden, ratio, rule, scope))
    # After ReLU the smallest few are zeros in some scopes.
    assert found.any() or rule == "smallest_k"


@pytest.mark.parametrize("rule", ["largest", "smallest_k"])
def test_none_and_all_can_be_kept(rule, hidden):
    signed = hidden - 0.5
    assert not kept(signed, torch.zeros(1, 2, dtype=torch.float64), rule, "token_channel").any()
    assert torch.equal(kept(signed, torch.ones(1, 2, dtype=torch.float64), rule, "token_channel"), signed)


def test_one_active_value_is_kept_at_least(hidden):
    found = kept(hidden, torch.zeros(1, 2, dtype=torch.float64), "smallest_active", "token_channel")
    assert torch.equal((found > 0).sum(dim=-1), (hidden > 0).any(dim=-1).long())


@pytest.mark.parametrize("scope", ["token_channel", "sample", "channel_token"])
@pytest.mark.parametrize(
    "rules", [("smallest_active", "largest"), ("smallest_k", "largest"), ("largest", "smallest_k")]
)
def test_experts_of_different_rules_select_at_once_as_alone(rules, scope, hidden):
    together = selection.kept(hidden, RATIOS, Rules.of(rules, hidden.device, hidden.dtype), scope)
    found = where_positive(hidden, together)
    for expert, rule in enumerate(rules):
        this = slice(expert, expert + 1)
        assert torch.equal(found[:, :, this], kept(hidden[:, :, this], RATIOS[:, this], rule, scope))


@pytest.mark.parametrize("pieces", [True, False], ids=["on a CPU", "as on a device"])
@pytest.mark.parametrize("scope", ["token_channel", "sample", "channel_token"])
@pytest.mark.parametrize(("which", "rule"), [("lowest", "smallest_k"), ("highest", "largest")])
def test_half_of_the_values_are_kept(which, rule, scope, pieces, hidden, monkeypatch):
    monkeypatch.setattr(selection, "works_in_pieces", lambda device: pieces)
    tokens = (hidden - 0.5)[:, :, 0]
    expected = kept(tokens.unsqueeze(2), torch.tensor([[0.5]], dtype=torch.float64), rule, scope).squeeze(2)
    assert torch.equal(half(tokens, which, scope), expected)


def test_only_kept_values_have_a_gradient():
    values = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    where_positive(values, torch.tensor([0.5, 0.0, -1.0])).sum().backward()
    assert values.grad.tolist() == [1, 0, 0]
