"""The networks of the embedded backbones: a vision transformer with three heads, a residual network with BatchNorm."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from tta_core.backbones.text_head import TextPrototypeHead
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.errors import unknown_name

PRETRAININGS: tuple[str, ...] = ("supervised", "mae", "text-prototype")
"""Pretrainings of the vision transformer."""

RESNET = "resnet-supervised"
NETWORKS: tuple[str, ...] = (*PRETRAININGS, RESNET)
"""Names of all embedded networks, in the backbone table after `embedded:`."""

CLASS_NAMES = BENCHMARKS["digits-c"].class_names
MEAN = STD = (0.5, 0.5, 0.5)
"""Normalisation of inputs in [0, 1], the same for all."""

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
TEXT_DIM = 64


def build_digits_network(name: str) -> nn.Module:
    """Builds the network of a name in `NETWORKS`, with fresh weights from torch's global generator.

    Raises:
        InputError: if there is no such network.
    """
    if name not in NETWORKS:
        raise unknown_name("network of the embedded backbone", name, NETWORKS)
    return build_digits_resnet() if name == RESNET else build_digits_vit(name)


def build_digits_resnet() -> ResNet:
    """Builds timm's ResNet with one basic block in each of four stages, for images of 32 pixels (173 k parameters).

    There is no pooling after the first convolution, so the last stage still has four pixels: enough for batch
    statistics of a single image.
    """
    network = ResNet(BasicBlock, layers=(1, 1, 1, 1), channels=(16, 32, 64, 64), num_classes=len(CLASS_NAMES))
    network.maxpool = nn.Identity()
    return network


def build_digits_vit(pretraining: str) -> VisionTransformer:
    """Builds the network that a pretraining needs, with fresh weights from torch's global generator.

    All take images `(batch, 3, 32, 32)` normalised by `MEAN` and `STD` and return logits `(batch, 10)`. They differ in
    where the norms are: `norm` before the head and the class token (supervised), `fc_norm` on the mean of the patch
    tokens (mae), `norm_pre` before the blocks and a cosine head (text-prototype).

    Args:
        pretraining: a name in `PRETRAININGS`.

    Raises:
        InputError: if there is no such pretraining.
    """
    if pretraining not in PRETRAININGS:
        raise unknown_name("pretraining of the embedded backbone", pretraining, PRETRAININGS)
    network = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=2,
        num_classes=len(CLASS_NAMES),
        global_pool="avg" if pretraining == "mae" else "token",
        pre_norm=pretraining == "text-prototype",
        weight_init="jax",
    )
    if pretraining == "text-prototype":
        # Hashes of the letters: fixed by the names alone, but with no language in them. This is not CLIP.
        network.head = TextPrototypeHead(network.num_features, text_prototypes(CLASS_NAMES, TEXT_DIM))
    return network


def weights_file(name: str, folder: Path = WEIGHTS_FOLDER) -> Path:
    """Path of the weights of an embedded network; the shipped ones unless `folder` says otherwise.

    Raises:
        InputError: if there is no such network.
    """
    if name not in NETWORKS:
        raise unknown_name("network of the embedded backbone", name, NETWORKS)
    return folder / f"digits_{'' if name == RESNET else 'vit_'}{name.replace('-', '_')}.safetensors"


def text_prototypes(names: Sequence[str], dim: int) -> Tensor:
    """Hashes names into unit vectors by their letters: every run of one to three letters adds +1 or -1 somewhere.

    Args:
        names: class names.
        dim: length of the vectors.

    Returns:
        `(names, dim)`, each of length 1.
    """
    vectors = torch.zeros(len(names), dim)
    for row, name in enumerate(names):
        marked = f"<{name}>"
        for length in (1, 2, 3):
            for start in range(len(marked) - length + 1):
                digest = zlib.crc32(marked[start : start + length].encode())
                vectors[row, (digest >> 1) % dim] += 1.0 if digest & 1 else -1.0
    return functional.normalize(vectors, dim=-1)
