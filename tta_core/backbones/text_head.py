"""The classifier of networks that compare images with texts: scaled cosines with one vector for each class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_SCALE = math.log(100.0)
"""Upper limit of the logarithm of the learned scale, as in CLIP."""


class TextPrototypeHead(nn.Module):
    """Logits are scaled cosines between the projected image feature and one fixed text vector for each class."""

    prototypes: Tensor

    def __init__(self, features: int, prototypes: Tensor) -> None:
        """Takes the width of the image features and the unit vectors `(classes, text_dim)`."""
        super().__init__()
        self.projection = nn.Linear(features, prototypes.shape[1], bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.register_buffer("prototypes", prototypes)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features `(batch, features)` to logits `(batch, classes)`."""
        image = functional.normalize(self.projection(features), dim=-1)
        text = functional.normalize(self.prototypes, dim=-1)
        return self.log_scale.clamp(max=LARGEST_SCALE).exp() * image @ text.T
