"""EATA: ETA, and a penalty that holds weights and biases of the normalisation layers near those of the source.

Paper: Niu et al., ICML 2022 (mixed §2.3). Deviations: those of ETA. As released, the Fisher information is made of
gradients of batch means, not of single samples.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.errors import InputError
from tta_core.methods.common.losses import widened
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.context import Artefact, Context
from tta_core.methods.eata.spec import EATASettings
from tta_core.methods.eta.method import ETA


class EATA(ETA[EATASettings]):
    """One step per batch on the weighted entropy of the selected samples plus the penalty.

    Attributes:
        fisher: Fisher information of the trained scalars, one behind the other `(scalars,)`; None without a penalty.
        anchor: their values of the source `(scalars,)`.
    """

    fisher: Tensor | None = None

    @classmethod
    def make_artefact(cls, network: nn.Module, settings: EATASettings, context: Context) -> Artefact:
        """Measures the diagonal Fisher information by the parameters' names; nothing without a penalty."""
        if settings.fisher_alpha == 0:
            return {}
        assert context.source_images is not None, "asked for by the spec"
        own = copy.deepcopy(network).eval().requires_grad_(False)
        thaw_norms(own, "eata")
        return fisher_information(own, _first(context.source_images, settings.fisher_samples))

    def begin(self) -> None:
        """Lines up the Fisher information with the trained parameters, at the values where the penalty is zero."""
        super().begin()
        if self.settings.fisher_alpha == 0:
            return
        parameters = self.trainable_parameters()
        if parameters.keys() != self.artefact.keys():
            differing = min(parameters.keys() ^ self.artefact.keys())
            raise InputError(
                f"the artefact handed to eata does not fit this network ({differing} is in one of them only): make it "
                "from this network, or leave it out"
            )
        self.fisher = _in_a_row(self.artefact[name] for name in parameters)
        self.anchor = _in_a_row(parameters.values()).detach()

    def penalty(self) -> Tensor | None:
        """`fisher_alpha` times the squared distances from the source, each times its Fisher information, in nat."""
        if self.fisher is None:
            return None
        distances = _in_a_row(self.trainable_parameters().values()) - self.anchor
        penalty = self.settings.fisher_alpha * (self.fisher * distances.square()).sum()
        self.last_penalty = penalty.detach()
        return penalty

    def _learn(self, logits: Tensor) -> dict[str, Tensor]:
        self.last_penalty = self.average.new_zeros(())
        record = super()._learn(logits)
        return record | {"penalty": self.last_penalty}


def fisher_information(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Mean over batches of the squared gradient of the mean cross-entropy to the network's own predictions.

    Args:
        network: a network whose parameters in question require gradients.
        batches: images `(batch, channels, height, width)`.

    Returns:
        A tensor like the parameter for each that requires gradients, by name; zeros where no gradient arrives.

    Raises:
        InputError: if there are no batches.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    count = 0
    for images in batches:
        with torch.enable_grad():
            logits = widened(network(images))
            loss = functional.cross_entropy(logits, logits.argmax(dim=-1))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.square()
        count += 1
    if count == 0:
        raise InputError("eata was given source images without a single batch: give at least one")
    return {name: total / count for name, total in sums.items()}


def _first(batches: Iterable[Tensor], number: int) -> Iterator[Tensor]:
    """The first images of all batches, in the batches that they come in."""
    missing = number
    for images in batches:
        yield images[:missing]
        missing -= len(images)
        if missing <= 0:
            return


def _in_a_row(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
