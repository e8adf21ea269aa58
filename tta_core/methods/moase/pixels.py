"""MoASE, for segmentation: experts beside every MLP of a SegFormer, in CoTTA's released step for pixels.

The paper's code for segmentation was not released. Taken over from classification: the experts, which read the residual
stream after attention, and the distance of student and teacher. Taken from the paper: rates and moments. Assumed: where
the experts stand in a SegFormer, their rank, and that the rest is CoTTA's step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from tta_core.backbones.segformer import Block
from tta_core.methods.common.pixel_teacher import PixelTeacher
from tta_core.methods.common.surgery import replace_modules
from tta_core.methods.moase.pixel_spec import PixelMoASESettings
from tta_core.methods.moase.sparsity import SparseExperts
from tta_core.methods.moase.student import SparseStudent, expert_options


class SparseBlock(nn.Module):
    """A block of a SegFormer with experts beside its MLP; its layers keep their names."""

    norm1: nn.Module
    attn: nn.Module
    norm2: nn.Module
    mlp: nn.Module

    def __init__(self, block: Block, adapter: SparseExperts) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.adapter = adapter

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, height, width, channels)` -> the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        onto = tokens + self.mlp(self.norm2(tokens))
        added: Tensor = self.adapter(tokens.flatten(1, 2), onto=onto.flatten(1, 2))
        return added.view_as(tokens)


class PixelMoASE(PixelTeacher, SparseStudent[PixelMoASESettings]):  # type: ignore[misc]
    """One step per batch on the teacher's classes plus the distance of the experts to the teacher's."""

    def added_experts(self) -> dict[str, SparseExperts]:
        """Puts experts of the stage's rank beside the MLP of every block."""
        settings = cast(PixelMoASESettings, self.settings)

        def adapted(block: nn.Module) -> SparseBlock:
            assert isinstance(block, Block)
            weight = block.mlp.fc1.weight
            options = replace(expert_options(settings), bottleneck=settings.rank(block.width))
            dtype = torch.promote_types(weight.dtype, torch.float32)
            return SparseBlock(block, SparseExperts(block.width, options, self.generator, weight.device, dtype))

        names = [name for name, module in self.network.named_modules() if isinstance(module, Block)]
        replace_modules(self.network, names, adapted, "block of SegFormer")
        return {f"{name}.adapter": self.network.get_submodule(f"{name}.adapter") for name in names}  # type: ignore[misc]

    def further_loss(self, images: Tensor) -> Tensor:
        """Half the distance, or its square, of each expert's tensors to the teacher's, weighted."""
        settings = cast(PixelMoASESettings, self.settings)
        self.proximal_loss = settings.hp_weight / 2 * self.distance_to_teacher(settings.hp_power)
        return self.proximal_loss

    def further_record(self) -> dict[str, Tensor]:
        """The distance."""
        return {"proximal_loss": self.proximal_loss.detach()}
