"""What ViDA does before the stream: trains its adapters, and nothing else, to classify the source."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.methods.common.losses import widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.context import PREPARATION_SEED, LabelledBatch
from tta_core.methods.vida.layers import adapter_parameters, add_low_rank
from tta_core.methods.vida.pixel_spec import PixelViDASettings
from tta_core.methods.vida.spec import ViDASettings

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Network, images and labels -> what the adapters descend, no dimensions."""


def classified(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to the labels `(batch,)` of images."""
    return functional.cross_entropy(widened(network(images)), labels)


def warmed_up_adapters(
    network: nn.Module,
    batches: Iterable[LabelledBatch],
    settings: ViDASettings | PixelViDASettings,
    loss: Loss = classified,
) -> dict[str, Tensor]:
    """Trains adapters on labelled images with cross-entropy (continual §4.4: the release ships such adapters).

    Args:
        network: the source network; it is left as it is.
        batches: labelled source images, the same at each pass.
        settings: ranks, and how long and how fast to train.
        loss: what is descended.

    Returns:
        The adapters' tensors by qualified name in the edited network.
    """
    # The copy has modules of its own and shares the parameters, none of which is trained.
    shared = {id(parameter): parameter for parameter in network.parameters()}
    edited = copy.deepcopy(network, memo=shared).eval()
    generator = torch.Generator().manual_seed(PREPARATION_SEED)
    parameters = adapter_parameters(
        add_low_rank(edited, settings.rank_low, settings.rank_high, generator, method="vida")
    )
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = make_optimizer(
        OptimizerSettings(optimizer=settings.warm_up_optimizer, lr=settings.warm_up_lr, nesterov=True),
        list(parameters.values()),
    )
    with torch.enable_grad():
        for images, labels in _limited(batches, settings.warm_up_epochs, settings.warm_up_steps):
            loss(edited, images, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in parameters.items()}


def _limited(batches: Iterable[LabelledBatch], epochs: int, steps: int) -> Iterator[LabelledBatch]:
    """The batches of so many passes, and not more than so many in all."""
    taken = 0
    for _ in range(epochs):
        for batch in batches:
            if taken == steps:
                return
            yield batch
            taken += 1
