"""Small networks with random weights."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tta_core.registry import method_spec

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


class TinyConvNet(torch.nn.Sequential):
    """Two convolutions with BatchNorm, an average over the pixels, a head."""

    def __init__(self, num_classes: int = 10):
        super().__init__(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(32, num_classes),
        )

    @property
    def head(self) -> torch.nn.Module:
        """The classifier."""
        return self[-1]


@pytest.fixture
def tiny_convnet():
    """Makes the same small network with BatchNorm each time, with running statistics of its own."""

    def make(seed: int = 0) -> torch.nn.Module:
        torch.manual_seed(seed)
        network = TinyConvNet()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, std=0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        torch.nn.init.normal_(network[-1].weight, std=1.0)
        return network.eval()

    return make


@pytest.fixture
def images():
    """Makes normalised random images."""

    def make(batch: int = 16, seed: int = 0) -> torch.Tensor:
        return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def network_of(tiny_vit, tiny_convnet):
    """Makes the small network that a method takes."""
    return lambda name: (tiny_convnet if method_spec(name).network == "batch-norm" else tiny_vit)()


@pytest.fixture
def beyond(images):
    """What a runner hands over to a method beyond the stream, as arguments of `build_method`."""

    def make(dtype: torch.dtype = torch.float32) -> dict[str, list]:
        source = [images(16, 100 + number).to(dtype) for number in range(3)]
        labels = torch.arange(8) % 10
        return {
            "source_images": source,
            "labelled_source": [(source[0][:8], labels)],
            "held_out": [(source[1][:8], labels)],
        }

    return make
