"""Domain tokens, noise predictors and the similarity of noise, by hand on small networks."""

import copy
import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tta_core.errors import InputError
from tta_core.methods.common.transformer import embed, predict
from tta_core.methods.dpal.layers import NoisePredictor, lift, noise_similarity


def lifted(network, init="zero_output", seed=0):
    return lift(network, init, torch.Generator().manual_seed(seed))


def disturb(blocks):
    """Moves every added number away from where it starts."""
    torch.manual_seed(1)
    for parameter in (*blocks.domain_tokens(), *(p for q in blocks.predictors() for p in q.parameters())):
        nn.init.normal_(parameter, std=0.3)


def test_the_forward_by_hand(tiny_vit, images):
    """Token in front, predictor behind, noise out of the class token, a new token for the next block."""
    network = tiny_vit().double()
    plain = copy.deepcopy(network)
    blocks = lifted(network)
    disturb(blocks)
    tokens = embed(plain, images(4).double())
    x = torch.cat([blocks.domain_tokens()[0].expand(4, 1, 48), tokens], dim=1)
    noises = []
    for number, block in enumerate(plain.blocks):
        x[:, 0] = blocks.domain_tokens()[number]
        x = block(x).clone()
        first, second = blocks.predictors()[number].hidden, blocks.predictors()[number].output
        hidden = nn.functional.gelu(x[:, 0] @ first.weight.T + first.bias)
        noise = nn.functional.gelu(hidden @ second.weight.T + second.bias)
        x[:, 1] -= noise
        noises.append(noise)
    expected = plain.head(plain.norm(x)[:, 1])
    torch.testing.assert_close(network(images(4).double()), expected)
    torch.testing.assert_close(blocks.take_noises(), noises)
    torch.testing.assert_close(predict(network, embed(network, images(4).double())), expected)


@pytest.mark.parametrize("init", ["zero", "zero_output"])
def test_nothing_is_taken_out_at_first(init, tiny_vit, images):
    """GELU(0) = 0: what differs from the source is what attention makes of the new token."""
    blocks = lifted(tiny_vit(), init)
    with torch.no_grad():
        blocks(embed(tiny_vit(), images()))
    noises = blocks.take_noises()
    assert len(noises) == 3
    assert all(torch.equal(noise, torch.zeros(16, 48)) for noise in noises)
    assert blocks.take_noises() == []


def test_initial_values(tiny_vit):
    network = tiny_vit()
    blocks = lifted(network)
    bound = math.sqrt(6 / (3 * 8 * 8 + 48))
    tokens = torch.stack(blocks.domain_tokens())
    assert tokens.shape == (3, 48)
    assert 0.9 * bound < tokens.abs().max() <= bound
    assert tokens.unique().numel() == 3 * 48
    for predictor in blocks.predictors():
        assert predictor.hidden.weight.std() == pytest.approx(1 / math.sqrt(3 * 48), rel=0.1)
        assert not predictor.output.weight.any()
        assert not predictor.output.bias.any()
    assert not any(p.any() for q in lifted(tiny_vit(), "zero").predictors() for p in q.parameters())
    assert not any(parameter.requires_grad for name, parameter in network.named_parameters() if "noise" in name)


def test_initial_values_follow_the_generator_alone(tiny_vit):
    """Precision, the kind of predictor and torch's own generator have no say, nor is the latter advanced."""
    drawn = {}
    for name, seed, dtype, init in (
        ("one", 5, torch.float32, "zero"),
        ("same", 5, torch.float64, "zero_output"),
        ("other", 6, torch.float32, "zero"),
    ):
        network = tiny_vit().to(dtype)
        torch.manual_seed(100 + len(drawn))
        before = torch.get_rng_state()
        drawn[name] = torch.stack(lifted(network, init, seed).domain_tokens()).float()
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn["one"], drawn["same"])
    assert not torch.equal(drawn["one"], drawn["other"])


@pytest.mark.parametrize(("init", "learns"), [("zero", ["output.bias"]), ("zero_output", None)])
def test_what_can_learn(init, learns, images):
    """From zeros alone, nothing but the last bias ever gets a gradient: the noise is the same for all inputs."""
    predictor = NoisePredictor(6, init, torch.Generator().manual_seed(0), torch.zeros(()))
    optimizer = torch.optim.SGD(predictor.parameters(), lr=0.5)
    start = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    torch.manual_seed(0)
    tokens, target = torch.randn(8, 6), torch.randn(8, 6)
    for _ in range(3):
        (predictor(tokens) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = [name for name, p in predictor.named_parameters() if not torch.equal(p, start[name])]
    assert moved == (learns or list(start))
    assert (predictor(tokens).std(dim=0).max() > 1e-3) == (learns is None)


def test_similarity_is_the_mean_over_all_pairs_with_the_diagonal():
    torch.manual_seed(0)
    noises = [torch.randn(5, 7), torch.randn(5, 7)]
    expected = [
        torch.stack([torch.cosine_similarity(a, b, dim=0) for a in noise for b in noise]).mean() for noise in noises
    ]
    torch.testing.assert_close(noise_similarity(noises), torch.stack(expected).mean())
    assert float(noise_similarity([torch.ones(4, 3)])) == pytest.approx(1)
    assert float(noise_similarity([torch.eye(4)])) == pytest.approx(1 / 4)
    assert float(noise_similarity([torch.randn(1, 3)])) == pytest.approx(1)


def test_no_noise_has_no_similarity_and_no_gradient():
    noise = torch.zeros(4, 3, requires_grad=True)
    similarity = noise_similarity([noise])
    similarity.backward()
    assert float(similarity.detach()) == 0
    assert torch.equal(noise.grad, torch.zeros(4, 3))


def test_blocks_keep_their_names(tiny_vit):
    network, plain = tiny_vit(), tiny_vit()
    lifted(network)
    state = network.state_dict()
    assert plain.state_dict().keys() < state.keys()
    added = set(state) - set(plain.state_dict())
    parts = ["domain_token", *(f"noise_predictor.{n}.{p}" for n in ("hidden", "output") for p in ("weight", "bias"))]
    assert added == {f"blocks.{number}.{part}" for number in range(3) for part in parts}
    assert isinstance(network.blocks, nn.Sequential)
    assert len(network.blocks) == 3


@pytest.mark.parametrize("changes", [{"global_pool": "avg"}, {"reg_tokens": 2}, {"pre_norm": True}])
def test_other_transformers_with_a_class_token(changes, tiny_vit, images):
    """The domain token is gone before the network reads out, so neither pooling nor registers see it."""
    network = tiny_vit(**changes)
    blocks = lifted(network)
    tokens = embed(network, images(2))
    assert blocks(tokens).shape == tokens.shape
    assert network(images(2)).shape == (2, 10)


def test_a_network_without_a_class_token_is_refused():
    network = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=3, class_token=False, global_pool="avg"
    )
    with pytest.raises(InputError, match="takes noise out of the class token, and this vision transformer has none"):
        lifted(network)
