"""What a caller hands to `build_method`: the network and the batches beyond the stream, checked before they are used.

What cannot work is refused in one sentence. What only looks different is made plain: gradients of before are dropped,
reparametrised weights become weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tta_core.backbones.classifier import count_logits
from tta_core.data.files.label_maps import IGNORED
from tta_core.errors import InputError
from tta_core.methods.common.losses import HALF_PRECISIONS

COMPILED = (
    "methods edit the network, and what was compiled would go on without the edits: give the module as it was before "
    "(of torch.compile: its `_orig_mod`)"
)


def admitted(network: nn.Module, num_classes: int) -> nn.Module:
    """Returns the network with nothing in it that belongs to its past: in eval mode, frozen, without gradients.

    Weights that are computed in each forward (weight norm, spectral norm, parametrizations) become plain ones.

    Args:
        network: the network, edited in place.
        num_classes: number of logits that it is said to have.

    Raises:
        InputError: for a network that methods cannot edit or train, or one with another number of logits.
    """
    for name, module in network.named_modules():
        _check_editable(name or "the network", module)
        _fold(module)
    tensors = [*network.named_parameters(), *network.named_buffers()]
    # A network of shapes alone has parameters to count. One that lacks some values was not loaded whole.
    shapes_only = all(tensor.is_meta for _, tensor in tensors)
    for name, tensor in tensors:
        if nn.parameter.is_lazy(tensor) or (tensor.is_meta and not shapes_only):
            raise InputError(f"{name} has no values yet: load the weights first")
        _check_tensor(name, tensor)
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise InputError(
                    f"{name or 'the network'} keeps the tensor {attribute!r}, which was computed from its parameters "
                    "(as torch.nn.utils.prune does): make it a parameter first, such as with prune.remove"
                )
    found = count_logits(network)
    if found is None:
        _check_first_logits(network, num_classes)
    elif found != num_classes:
        raise _other_logits(found, num_classes, network)
    for parameter in network.parameters():
        parameter.grad = None
    return network.eval().requires_grad_(False)


def check_trained(trained: dict[str, nn.Parameter], network: nn.Module) -> None:
    """Refuses to train numbers of half precision, in which most steps of an optimizer are rounded away.

    Raises:
        InputError: if there are any.
    """
    for name, parameter in trained.items():
        if parameter.dtype in HALF_PRECISIONS:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise InputError(
                f"{name} of this {type(network).__name__} is in {kind}, in which steps of training are rounded away: "
                "give network.float(), and call the method under torch.autocast for matrix products in half precision"
            )


def check_images(images: Tensor, network: nn.Module) -> None:
    """Refuses a batch of a shape, type or device that the network does not take.

    Raises:
        InputError: if it is one. Numbers are not looked at, which would wait for the device.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[0] == 0:
        given = f"of shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"of type {type(images).__name__}"
        raise InputError(f"images {given}: give (batch, channels, height, width) with at least one image")
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return
    if images.device != parameter.device:
        raise InputError(f"images on {images.device}, but the network is on {parameter.device}: move one to the other")
    mixed = torch.is_autocast_enabled(images.device.type)
    if not images.is_floating_point() or (not mixed and all(images.dtype != p.dtype for p in network.parameters())):
        raise InputError(
            f"images of type {images.dtype}, but the network computes in {parameter.dtype}: give normalised images of "
            "that type"
        )


class GivenBatches:
    """Batches beyond the stream, each checked when it is read.

    Attributes:
        batches: what was given.
        argument: the argument that it was given as.
        labelled: whether pairs of images and labels are wanted; otherwise images, and of pairs these are taken.
        maps: whether labels are maps of classes.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        argument: str,
        network: nn.Module,
        num_classes: int,
        *,
        labelled: bool,
        maps: bool = False,
    ) -> None:
        """Takes what was given.

        Raises:
            InputError: if it holds no batches.
        """
        if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
            raise InputError(f"{argument} is of type {type(batches).__name__}: give a list of batches or a DataLoader")
        self.batches, self.argument, self.labelled, self.maps = batches, argument, labelled, maps
        self._network, self._classes = network, num_classes

    def __iter__(self) -> Iterator[Any]:
        """Yields images, or pairs of images and labels."""
        number = -1
        for number, batch in enumerate(self.batches):
            yield self._checked(batch, f"{self.argument}: batch {number}")
        if number < 0:
            raise InputError(
                f"{self.argument} holds no batches, or no more of them: give a list or a DataLoader, since a generator "
                "is read only once"
            )

    def _checked(self, batch: Any, where: str) -> Any:
        pair = isinstance(batch, tuple | list) and len(batch) == 2
        if self.labelled and not pair:
            raise InputError(f"{where} is of type {type(batch).__name__}: give pairs (images, labels)")
        images = batch[0] if pair else batch
        try:
            check_images(images, self._network)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not torch.isfinite(images).all():
            raise InputError(f"{where}: images have values that are infinite or not a number: give finite ones")
        if not self.labelled:
            return images
        labels = batch[1]
        if self.maps:
            return images, self._checked_maps(labels, images, where)
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise InputError(f"{where}: give labels as an int64 tensor with one number for each of the images")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self._classes:
            raise InputError(f"{where}: labels from {lowest} to {highest}, classes from 0 to {self._classes - 1}")
        return images, labels

    def _checked_maps(self, labels: Any, images: Tensor, where: str) -> Tensor:
        if not isinstance(labels, Tensor) or labels.dtype != torch.uint8 or labels.shape[:1] != images.shape[:1]:
            raise InputError(f"{where}: give labels as a uint8 tensor (batch, height, width), one map for each image")
        numbers = labels[labels != IGNORED]
        if labels.ndim != 3 or (len(numbers) and int(numbers.max()) >= self._classes):
            raise InputError(
                f"{where}: labels of shape {tuple(labels.shape)} up to {int(labels.max())}: give maps (batch, height, "
                f"width) of classes from 0 to {self._classes - 1}, and {IGNORED} where there is none"
            )
        return labels


def _check_first_logits(network: nn.Module, num_classes: int) -> None:
    """Looks at the first logits of a network whose classifier nothing names."""

    def check(module: nn.Module, _: Any, logits: Any) -> None:
        handle.remove()
        if not isinstance(logits, Tensor) or logits.ndim < 2:
            raise InputError(f"{type(module).__name__} returns no logits (batch, classes): give a network that does")
        if logits.shape[1] != num_classes:
            raise _other_logits(logits.shape[1], num_classes, module)

    handle = network.register_forward_hook(check)


def _other_logits(found: int, num_classes: int, network: nn.Module) -> InputError:
    # Margins are multiples of ln(classes): with a wrong one all samples are selected, or none.
    return InputError(
        f"num_classes = {num_classes}, but {type(network).__name__} has {found} logits: give num_classes={found}, or a "
        "network with another head"
    )


def _check_editable(name: str, module: nn.Module) -> None:
    if isinstance(module, OptimizedModule) or module._compiled_call_impl is not None:
        raise InputError(f"{name} went through torch.compile: {COMPILED}")
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(f"{name} is a script of torch.jit: {COMPILED}")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise InputError(f"{name} is a {type(module).__name__}: give the network in it, its `module`")


def _fold(module: nn.Module) -> None:
    """Makes plain parameters of weights that are computed from others in each forward."""
    if parametrize.is_parametrized(module):
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.is_inference():
        raise InputError(f"{name} was made under torch.inference_mode and cannot be trained: load the network outside")
    if tensor.is_complex() or (isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()):
        raise InputError(f"{name} is of type {tensor.dtype}: methods adapt networks of floating point numbers")
    if isinstance(tensor, nn.Parameter) and not tensor.is_meta and not torch.isfinite(tensor).all():
        raise InputError(
            f"{name} has values that are infinite or not a number: the training that made them diverged; load an "
            "earlier checkpoint"
        )
