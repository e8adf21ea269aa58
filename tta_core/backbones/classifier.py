"""The classifier of a network, and how classes are taken from it: what is left scores only those of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tta_core.backbones.text_head import TextPrototypeHead
from tta_core.errors import InputError


def find_classifier(network: nn.Module) -> nn.Module | None:
    """The module that makes the logits of a network, as timm's `get_classifier` names it; None if nothing names it.

    A network of timm without a head names an `nn.Identity`.
    """
    get_classifier = getattr(network, "get_classifier", None)
    found = get_classifier() if callable(get_classifier) else None
    return found if isinstance(found, nn.Module) else None


def count_logits(network: nn.Module) -> int | None:
    """Number of logits of a network, by its classifier; None if that does not say."""
    layer = find_classifier(network)
    if isinstance(layer, TextPrototypeHead):
        return len(layer.prototypes)
    if isinstance(layer, nn.Linear | nn.Conv2d):
        return len(layer.weight)
    return None


@torch.no_grad()
def keep_classes(network: nn.Module, classes: Sequence[int]) -> nn.Module:
    """Leaves a network only some of its logits, in place, by cutting the rows of its classifier.

    Entropies, margins and predictions of any method are then over these classes, as if there were no others.

    Args:
        network: a network whose classifier is a linear layer, a convolution, or a head with one text vector for each
            class.
        classes: numbers of the classes to keep, in the order of the logits that are left; empty leaves it as it is.

    Raises:
        InputError: if the network has no such classifier, or fewer classes.
    """
    if not classes:
        return network
    layer = find_classifier(network)
    if not isinstance(layer, nn.Linear | nn.Conv2d | TextPrototypeHead):
        raise InputError(
            f"label_space = 'masked' cuts the classifier of a network, and {type(network).__name__} has "
            f"{type(layer).__name__} in its place, no linear layer: give label_space: full"
        )
    vectors = layer.prototypes if isinstance(layer, TextPrototypeHead) else layer.weight
    if max(classes) >= vectors.shape[0]:
        raise InputError(
            f"label_space = 'masked' keeps class {max(classes)}, and {type(network).__name__} has "
            f"{vectors.shape[0]}: give a backbone of the benchmark's classes"
        )
    rows = torch.tensor(classes, device=vectors.device)
    vars(network)["num_classes"] = len(classes)
    if isinstance(layer, TextPrototypeHead):
        layer.prototypes = vectors[rows]
        return network
    layer.weight = nn.Parameter(layer.weight[rows], requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[rows], requires_grad=layer.bias.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(classes)
    else:
        layer.out_channels = len(classes)
    return network
