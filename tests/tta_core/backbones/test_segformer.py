"""SegFormer: sizes, and both kinds of published files."""

import pytest
import torch

from tta_core.backbones import networks
from tta_core.backbones.own_weights import OwnWeights
from tta_core.backbones.segformer import EPSILON, INNER_EPSILON, SegFormer, SegFormerShape, build_segformer
from tta_core.backbones.table import backbone_spec
from tta_core.errors import InputError

TINY = SegFormerShape((8, 16, 24, 32), (1, 1, 2, 1), 16, heads=(1, 2, 3, 4), ratio=2)

PARTS = {
    "patch_embed.proj": ("backbone.patch_embed{1}.proj", "segformer.encoder.patch_embeddings.{0}.proj"),
    "patch_embed.norm": ("backbone.patch_embed{1}.norm", "segformer.encoder.patch_embeddings.{0}.layer_norm"),
    "attn.q": ("backbone.block{1}.{n}.attn.q", "segformer.encoder.block.{0}.{n}.attention.self.query"),
    "attn.proj": ("backbone.block{1}.{n}.attn.proj", "segformer.encoder.block.{0}.{n}.attention.output.dense"),
    "attn.reduction": ("backbone.block{1}.{n}.attn.sr", "segformer.encoder.block.{0}.{n}.attention.self.sr"),
    "attn.norm": ("backbone.block{1}.{n}.attn.norm", "segformer.encoder.block.{0}.{n}.attention.self.layer_norm"),
    "norm1": ("backbone.block{1}.{n}.norm1", "segformer.encoder.block.{0}.{n}.layer_norm_1"),
    "norm2": ("backbone.block{1}.{n}.norm2", "segformer.encoder.block.{0}.{n}.layer_norm_2"),
    "mlp.fc1": ("backbone.block{1}.{n}.mlp.fc1", "segformer.encoder.block.{0}.{n}.mlp.dense1"),
    "mlp.depthwise": (
        "backbone.block{1}.{n}.mlp.dwconv.dwconv",
        "segformer.encoder.block.{0}.{n}.mlp.dwconv.dwconv",
    ),
    "mlp.fc2": ("backbone.block{1}.{n}.mlp.fc2", "segformer.encoder.block.{0}.{n}.mlp.dense2"),
    "norm": ("backbone.norm{1}", "segformer.encoder.layer_norm.{0}"),
}
HEAD = {
    "fuse": ("linear_fuse.conv", "linear_fuse"),
    "bn": ("linear_fuse.bn", "batch_norm"),
    "classifier": ("linear_pred", "classifier"),
}


def published(network, kind):
    """The tensors of a network under NVlabs' names (kind 0) or the hub's (kind 1)."""
    found = {}
    for name, value in network.state_dict().items():
        owner, _, own = name.rpartition(".")
        words = owner.split(".")
        if words[0] == "head":
            if words[1] == "linears":
                stage = int(words[2])
                theirs = (f"linear_c{stage + 1}.proj", f"linear_c.{stage}.proj")[kind]
            else:
                theirs = HEAD[words[1]][kind]
            found[f"decode_head.{theirs}.{own}"] = value
            continue
        stage = int(words[1])
        block = int(words[3]) if words[2] == "blocks" else 0
        part = ".".join(words[4:] if words[2] == "blocks" else words[2:])

        def place(text, stage=stage, block=block):
            return text.replace("{0}", str(stage)).replace("{1}", str(stage + 1)).replace("{n}", str(block))

        if part == "attn.kv":
            if kind == 0:
                found[place("backbone.block{1}.{n}.attn.kv.") + own] = value
            else:
                for half, which in zip(value.chunk(2), ("key", "value"), strict=True):
                    found[place("segformer.encoder.block.{0}.{n}.attention.self.") + f"{which}.{own}"] = half.clone()
        else:
            found[place(PARTS[part][kind]) + f".{own}"] = value
    return found


@pytest.mark.parametrize(
    ("name", "parameters", "norms"), [("segformer-b0", 3_719_027, 7_680), ("segformer-b5", 84_607_955, 94_336)]
)
def test_numbers_of_parameters(name, parameters, norms):
    with torch.device("meta"):
        network = build_segformer(name, 19)
    assert sum(p.numel() for p in network.parameters()) == parameters
    kinds = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
    assert sum(p.numel() for m in network.modules() if isinstance(m, kinds) for p in m.parameters()) == norms


def test_epsilons_and_the_size_of_logits():
    network = SegFormer(TINY, 6).eval()
    assert network.stages[0].blocks[0].norm1.eps == network.stages[0].norm.eps == EPSILON
    assert network.stages[0].patch_embed.norm.eps == network.stages[0].blocks[0].attn.norm.eps == INNER_EPSILON
    assert network.head.bn.eps == INNER_EPSILON
    # Sizes that are not square, and no multiple of 32.
    assert network(torch.zeros(2, 3, 44, 76)).shape == (2, 6, 11, 19)


@pytest.mark.parametrize("kind", [0, 1], ids=["nvlabs", "hub"])
def test_published_files_load(kind, tmp_path, monkeypatch):
    torch.manual_seed(kind)
    source = SegFormer(TINY, 19).eval()
    weights = published(source, kind)
    if kind == 0:
        weights |= {
            "decode_head.conv_seg.weight": torch.zeros(19, 8, 1, 1),
            "decode_head.conv_seg.bias": torch.zeros(19),
        }
    file = tmp_path / "segformer.pth"
    torch.save(
        {"state_dict": weights, "meta": {"CLASSES": ["road"], "PALETTE": [[1, 2, 3]]}} if kind == 0 else weights, file
    )
    monkeypatch.setattr(networks, "build_segformer", lambda name, classes: SegFormer(TINY, classes))
    spec = backbone_spec("segformer-b0")
    loaded = networks.load_backbone(spec, OwnWeights(file=str(file)))
    images = torch.randn(1, 3, 32, 64)
    assert torch.equal(loaded(images), source(images))


def test_a_file_of_another_size_is_refused(tmp_path):
    file = tmp_path / "segformer.pth"
    torch.save({"state_dict": published(SegFormer(TINY, 19), 0)}, file)
    with pytest.raises(InputError, match="do not fit segformer-b0"):
        networks.load_backbone(backbone_spec("segformer-b0"), OwnWeights(file=str(file)))
