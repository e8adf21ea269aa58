"""Small networks with random weights."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 10}


@pytest.fixture
def tiny_vit():
    """Makes the same small vision transformer each time; keyword arguments change its shape."""

    def make(seed: int = 0, **changes) -> VisionTransformer:
        torch.manual_seed(seed)
        network = VisionTransformer(**{**TINY, **changes})
        # The default head is so small that all predictions are near uniform and nothing is ever filtered.
        torch.nn.init.normal_(network.head.weight, std=0.3)
        return network.eval()

    return make


@pytest.fixture
def images():
    """Makes normalised random images."""

    def make(batch: int = 16, seed: int = 0) -> torch.Tensor:
        return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

    return make
