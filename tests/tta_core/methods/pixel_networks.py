"""A network for tests of segmentation."""

import torch

from tta_core.backbones.segformer import SegFormer, SegFormerShape

TINY = SegFormerShape((8, 12, 16, 24), (1, 1, 1, 1), 8, heads=(1, 2, 2, 3), reductions=(2, 2, 1, 1), ratio=2)


def tiny_network(seed=0, classes=5):
    """A tiny SegFormer with random weights; its logits are far enough apart to tell classes."""
    torch.manual_seed(seed)
    network = SegFormer(TINY, classes).eval()
    with torch.no_grad():
        network.head.classifier.weight.mul_(20)
    return network
