"""What a network's classifier reads: the features before the last linear map, beside the logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tta_core.backbones.classifier import find_classifier
from tta_core.errors import InputError


class PenultimateForward:
    """Predicts a batch and hands out what entered the classifier on the way.

    Attributes:
        network: the network; nothing in it is changed.
        classifier: its last layer, as timm's `get_classifier` names it.
    """

    def __init__(self, network: nn.Module, method: str) -> None:
        """Finds the classifier.

        Raises:
            InputError: if the network does not say which it is; `method` is the one that wants it.
        """
        self.network = network
        found = find_classifier(network)
        if found is None or isinstance(found, nn.Identity):
            raise InputError(
                f"{method} reads the features before the classifier, and this network ({type(network).__name__}) does "
                "not name its classifier: choose a network of timm with a head, or give it a method get_classifier"
            )
        self.classifier = found

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(batch, dim)` and logits `(batch, classes)`."""
        read: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            read.append(inputs[0])

        handle = self.classifier.register_forward_pre_hook(keep)
        try:
            logits: Tensor = self.network(images)
        finally:
            handle.remove()
        assert len(read) == 1, "a classifier is called once in a forward"
        return read[0].flatten(1), logits
