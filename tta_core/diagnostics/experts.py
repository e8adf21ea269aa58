"""Expert similarity over time and depth: do the experts grow apart (moetta §7.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene
from tta_core.methods.base import Method
from tta_core.methods.moetta.moe_norm import MoELayerNorm

PARTS = ("weight", "bias")


class Experts(Observer):
    """Mean cosine between the additive experts of each layer, of weights and of biases, at measuring steps."""

    remembers = ("_steps", "_similarities")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._layers = _layers(scene.method)
        self._steps: list[int] = []
        self._similarities: list[Tensor] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether the network has layers with experts."""
        return bool(_layers(method))

    @torch.no_grad()
    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Keeps the similarities `(layers, 2)` at measuring steps."""
        if moment.measuring:
            experts = [layer.get_parameter(f"experts_{part}") for layer in self._layers.values() for part in PARTS]
            similarities = torch.stack([mean_cosine(vectors) for vectors in experts])
            self._steps.append(moment.step)
            self._similarities.append(similarities.view(-1, len(PARTS)))

    def measurements(self) -> list[Measurement]:
        """`expert_similarity_weight` and `expert_similarity_bias` by step and layer."""
        return [
            Measurement(f"expert_similarity_{part}", value, step=step, layer=layer)
            for step, similarities in zip(self._steps, self._similarities, strict=True)
            for layer, values in zip(self._layers, similarities.tolist(), strict=True)
            for part, value in zip(PARTS, values, strict=True)
        ]


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean cosine over the pairs of vectors `(vectors, dim)`, the strict lower triangle of their cosine matrix.

    Vectors that are zero, such as experts that no update has reached, have no direction and are left out; NaN where
    fewer than two remain.
    """
    wide = vectors.double()
    lengths = wide.norm(dim=-1, keepdim=True)
    units = torch.where(lengths > 0, wide / lengths, 0)
    count = (lengths > 0).sum()
    # The sum of all entries of the cosine matrix is the squared length of the sum of the unit vectors.
    off_diagonal = units.sum(dim=0).square().sum() - count
    return off_diagonal / (count * (count - 1))


def _layers(method: Method[Any]) -> dict[str, MoELayerNorm]:
    return {name: module for name, module in method.network.named_modules() if isinstance(module, MoELayerNorm)}
