"""SegFormer: a pyramid of transformer stages under a head of linear layers (Xie et al., NeurIPS 2021).

Written from the paper and from the names and shapes of the published weights, which it takes under both of their
namings. Tokens stay on their grid, `(batch, height, width, channels)`, so a block takes and returns one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.errors import named_row

EPSILON, INNER_EPSILON = 1e-6, 1e-5
"""Of the norms of blocks and stages; and of those in patch embeddings, reductions and the head."""


@dataclass(frozen=True)
class SegFormerShape:
    """What tells one SegFormer from another, by stage where there are four numbers.

    Attributes:
        widths: channels of the tokens.
        depths: blocks.
        head_width: channels that the head brings each stage to.
        heads: of the attention.
        reductions: side of the squares of tokens that keys and values are made of.
        kernels, strides: of the patch embeddings, in pixels or tokens.
        ratio: hidden channels of the MLPs for each channel.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    head_width: int
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    kernels: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    ratio: int = 4


_WIDE = (64, 128, 320, 512)

SHAPES: Mapping[str, SegFormerShape] = MappingProxyType(
    {
        "segformer-b0": SegFormerShape((32, 64, 160, 256), (2, 2, 2, 2), 256),
        "segformer-b1": SegFormerShape(_WIDE, (2, 2, 2, 2), 256),
        "segformer-b2": SegFormerShape(_WIDE, (3, 4, 6, 3), 768),
        "segformer-b3": SegFormerShape(_WIDE, (3, 4, 18, 3), 768),
        "segformer-b4": SegFormerShape(_WIDE, (3, 8, 27, 3), 768),
        "segformer-b5": SegFormerShape(_WIDE, (3, 6, 40, 3), 768),
    }
)
"""The published sizes."""


def build_segformer(name: str, num_classes: int) -> SegFormer:
    """Builds a SegFormer of a published size with fresh weights.

    Raises:
        InputError: if there is no such size.
    """
    return SegFormer(named_row("size of SegFormer", SHAPES, name), num_classes)


class Attention(nn.Module):
    """Self-attention in which squares of tokens share a key and a value."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduction = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width, eps=INNER_EPSILON) if reduction > 1 else None

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, height, width, channels)` -> the same shape."""
        batch, height, width, channels = tokens.shape
        queries = self.q(tokens).view(batch, height * width, self.heads, -1).transpose(1, 2)
        if self.reduction is not None and self.norm is not None:
            tokens = self.norm(self.reduction(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        pairs = self.kv(tokens).reshape(batch, -1, 2, self.heads, channels // self.heads)
        keys, values = pairs.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        found: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, height, width, channels))
        return found


class MixMlp(nn.Module):
    """Two linear layers with a convolution of each channel between them, which tells tokens where they are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, height, width, channels)` -> the same shape."""
        hidden = self.depthwise(self.fc1(tokens).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        found: Tensor = self.fc2(self.act(hidden))
        return found


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a shortcut.

    Attributes:
        width: channels of the tokens.
    """

    def __init__(self, width: int, heads: int, reduction: int, ratio: int) -> None:
        super().__init__()
        self.width = width
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = MixMlp(width, ratio * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, height, width, channels)` -> the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        found: Tensor = tokens + self.mlp(self.norm2(tokens))
        return found


class PatchEmbed(nn.Module):
    """A convolution over overlapping patches, and a norm."""

    def __init__(self, before: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, width, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width, eps=INNER_EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, channels, height, width)` -> `(batch, height', width', channels')`."""
        found: Tensor = self.norm(self.proj(maps).permute(0, 2, 3, 1))
        return found


class Stage(nn.Module):
    """Blocks at one resolution."""

    def __init__(self, shape: SegFormerShape, number: int) -> None:
        super().__init__()
        width = shape.widths[number]
        before = shape.widths[number - 1] if number else 3
        self.patch_embed = PatchEmbed(before, width, shape.kernels[number], shape.strides[number])
        self.blocks = nn.Sequential(
            *(
                Block(width, shape.heads[number], shape.reductions[number], shape.ratio)
                for _ in range(shape.depths[number])
            )
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, channels, height, width)` -> `(batch, channels', height', width')`."""
        found: Tensor = self.norm(self.blocks(self.patch_embed(maps))).permute(0, 3, 1, 2)
        return found


class Head(nn.Module):
    """Brings all stages to one width and to the grid of the first, and mixes them."""

    def __init__(self, shape: SegFormerShape, num_classes: int) -> None:
        super().__init__()
        width = shape.head_width
        self.linears = nn.ModuleList(nn.Linear(each, width) for each in shape.widths)
        self.fuse = nn.Conv2d(len(shape.widths) * width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=INNER_EPSILON)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Maps of all stages, the finest first -> logits `(batch, classes, height, width)` on its grid."""
        grid = stages[0].shape[-2:]
        # The mixing layer takes all stages, the deepest first. It is linear: each stage goes through its
        # part of it while it is small, and the sum is the same.
        parts = self.fuse.weight.chunk(len(stages), dim=1)
        mixed: Tensor | None = None
        for linear, maps, part in zip(self.linears, stages, reversed(parts), strict=True):
            projected = functional.conv2d(linear(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), part)
            if mixed is None:
                mixed = projected
            else:
                mixed = mixed + functional.interpolate(projected, size=grid, mode="bilinear", align_corners=False)
        found: Tensor = self.classifier(self.act(self.bn(mixed)))
        return found


class SegFormer(nn.Module):
    """A SegFormer without stochastic depth and dropout, which no method here uses.

    Attributes:
        stages: from the finest to the coarsest.
        head: makes logits of them.
        num_classes: number of logits at each place.
    """

    def __init__(self, shape: SegFormerShape, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stages = nn.ModuleList(Stage(shape, number) for number in range(len(shape.widths)))
        self.head = Head(shape, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(batch, 3, height, width)` -> logits `(batch, classes, height / 4, width / 4)`."""
        maps, stages = images, []
        for stage in self.stages:
            maps = stage(maps)
            stages.append(maps)
        found: Tensor = self.head(stages)
        return found


_NVLABS = (
    (r"backbone\.patch_embed(\d)\.(proj|norm)\.", r"stages.{0}.patch_embed.\2."),
    (r"backbone\.block(\d)\.(\d+)\.attn\.sr\.", r"stages.{0}.blocks.\2.attn.reduction."),
    (r"backbone\.block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.", r"stages.{0}.blocks.\2.mlp.depthwise."),
    (r"backbone\.block(\d)\.(\d+)\.", r"stages.{0}.blocks.\2."),
    (r"backbone\.norm(\d)\.", r"stages.{0}.norm."),
    (r"decode_head\.linear_c(\d)\.proj\.", r"head.linears.{0}."),
    (r"decode_head\.linear_fuse\.conv\.", r"head.fuse."),
    (r"decode_head\.linear_fuse\.bn\.", r"head.bn."),
    (r"decode_head\.linear_pred\.", r"head.classifier."),
)
"""Beginnings of the names in files of NVlabs, which count stages from 1, and ours."""

_HUB = (
    (r"segformer\.encoder\.patch_embeddings\.(\d)\.proj\.", r"stages.{0}.patch_embed.proj."),
    (r"segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.", r"stages.{0}.patch_embed.norm."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.layer_norm_([12])\.", r"stages.{0}.blocks.\2.norm\3."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.query\.", r"stages.{0}.blocks.\2.attn.q."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.(key|value)\.", r"stages.{0}.blocks.\2.attn.\3."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.sr\.", r"stages.{0}.blocks.\2.attn.reduction."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.layer_norm\.", r"stages.{0}.blocks.\2.attn.norm."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.output\.dense\.", r"stages.{0}.blocks.\2.attn.proj."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.mlp\.dense([12])\.", r"stages.{0}.blocks.\2.mlp.fc\3."),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.", r"stages.{0}.blocks.\2.mlp.depthwise."),
    (r"segformer\.encoder\.layer_norm\.(\d)\.", r"stages.{0}.norm."),
    (r"decode_head\.linear_c\.(\d)\.proj\.", r"head.linears.{0}."),
    (r"decode_head\.linear_fuse\.", r"head.fuse."),
    (r"decode_head\.batch_norm\.", r"head.bn."),
    (r"decode_head\.classifier\.", r"head.classifier."),
)
"""Likewise in copies on the Hugging Face hub, which count from 0 and have keys and values apart."""

_UNUSED = "decode_head.conv_seg."
"""A classifier in files of NVlabs that no prediction goes through."""


def under_our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives the tensors of a published file, of NVlabs or of the hub, our names; what is neither stays as it is."""
    hub = any(name.startswith("segformer.encoder.") for name in weights)
    rules, first = (_HUB, 0) if hub else (_NVLABS, 1)
    renamed = {_renamed(name, rules, first): tensor for name, tensor in weights.items() if not name.startswith(_UNUSED)}
    for name in [name for name in renamed if ".attn.key." in name]:
        other = name.replace(".attn.key.", ".attn.value.")
        if other in renamed:
            both = [renamed.pop(name), renamed.pop(other)]
            renamed[name.replace(".attn.key.", ".attn.kv.")] = torch.cat(both)
    return renamed


def _renamed(name: str, rules: tuple[tuple[str, str], ...], first: int) -> str:
    for theirs, ours in rules:
        if match := re.match(theirs, name):
            stage = int(match.group(1)) - first if match.lastindex else 0
            return match.expand(ours).replace("{0}", str(stage)) + name[match.end() :]
    return name
