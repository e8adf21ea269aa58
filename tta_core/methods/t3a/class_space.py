"""The space in which a classifier compares features with its classes: where T3A's prototypes are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.backbones.text_head import LARGEST_SCALE, TextPrototypeHead
from tta_core.errors import InputError


class ClassSpace(NamedTuple):
    """The space in which a classifier compares features with one vector for each class.

    Attributes:
        project: takes what enters the classifier, `(batch, features)`, there: `(batch, dim)`.
        vectors: the classes' vectors `(classes, dim)`.
        logits: what the classifier says to these vectors themselves, `(classes, classes)`.
    """

    project: Callable[[Tensor], Tensor]
    vectors: Tensor
    logits: Tensor


def class_space(classifier: nn.Module, method: str) -> ClassSpace:
    """Finds the space: of a linear layer its input, of a cosine head that of the text vectors.

    Raises:
        InputError: if the classifier is of another kind; `method` is the one that wants it.
    """
    with torch.no_grad():
        if isinstance(classifier, TextPrototypeHead):
            vectors = functional.normalize(classifier.prototypes, dim=-1)
            return ClassSpace(
                classifier.projection,
                vectors,
                classifier.log_scale.clamp(max=LARGEST_SCALE).exp() * vectors @ vectors.T,
            )
        if isinstance(classifier, nn.Linear) or (
            isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1) and classifier.groups == 1
        ):
            vectors = classifier.weight.flatten(1).clone()
            bias = 0 if classifier.bias is None else classifier.bias
            return ClassSpace(lambda features: features, vectors, vectors @ vectors.T + bias)
    raise InputError(
        f"{method} takes the rows of a linear classifier for prototypes of the classes, and this network's classifier "
        f"is a {type(classifier).__name__}: choose a network whose last layer is linear"
    )
