"""Finds methods by folder, and puts them around networks. Imports no torch before a method is built."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tta_core.data.spec import Task
from tta_core.errors import InputError, named_row, shown
from tta_core.frozen import Count, Frozen, Seed, validated
from tta_core.methods.spec import MethodSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tta_core.methods.base import Method
    from tta_core.methods.context import Artefact, LabelledBatch

SHARED = "common"
"""The folder that holds what methods share; any other is a method."""


@cache
def methods(task: Task = "classification") -> Mapping[str, MethodSpec]:
    """All methods of a task by name, sorted: the `SPEC` in the `spec.py` of every folder beside this file but `common`.

    Of segmentation those with a `pixel_spec.py` beside it, which has `PIXELS`.

    Raises:
        InputError: if a folder has no `spec.py`, or its method is named otherwise.
    """
    found: dict[str, MethodSpec] = {}
    for folder in method_folders(Path(__file__).parent):
        spec: MethodSpec = importlib.import_module(f"tta_core.methods.{folder}.spec").SPEC
        if spec.name.replace("-", "_") != folder:
            raise InputError(
                f"the method in tta_core/methods/{folder} calls itself {spec.name!r}: name one like the other, with an "
                "underscore in the folder where the name has a hyphen"
            )
        if task == "segmentation":
            if not (Path(__file__).parent / folder / "pixel_spec.py").is_file():
                continue
            spec = importlib.import_module(f"tta_core.methods.{folder}.pixel_spec").PIXELS
        found[spec.name] = spec
    return MappingProxyType(dict(sorted(found.items())))


def method_folders(root: Path) -> list[str]:
    """The names of the folders below `root` that hold a method, sorted.

    Hidden folders are no methods, nor is one without files other than byte code: Git leaves it behind when it changes
    to a branch without that method.

    Raises:
        InputError: if any other folder has no `spec.py`.
    """
    names = []
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name in (SHARED, "__pycache__") or folder.name.startswith("."):
            continue
        if (folder / "spec.py").is_file():
            names.append(folder.name)
        elif any(file.is_file() and file.suffix != ".pyc" for file in folder.rglob("*")):
            raise InputError(
                f"the folder tta_core/methods/{folder.name} has no spec.py, so it is no method: give it one with a "
                f"SPEC, put what methods share into {SHARED}, or remove the folder"
            )
    return names


def method_spec(name: str, task: Task = "classification") -> MethodSpec:
    """Returns the description of a method for a task.

    Raises:
        InputError: if there is no such method, with the closest match; or it does not do that task.
    """
    spec = named_row("method", methods(), name)
    if task == "classification":
        return spec
    if name not in methods(task):
        raise InputError(
            f"{name} does not do {task}: {spec.not_for_pixels or 'it has no version for pixels'}. Methods that do: "
            f"{', '.join(methods(task))}"
        )
    return methods(task)[name]


def method_class(name: str, task: Task = "classification") -> type[Method[Any]]:
    """Imports (with torch) and returns the class that implements a method for a task."""
    spec = method_spec(name, task)
    module_name = "method" if task == "classification" else "pixels"
    module = importlib.import_module(f"tta_core.methods.{name.replace('-', '_')}.{module_name}")
    implementation: type[Method[Any]] = getattr(module, spec.implementation)
    return implementation


class _Arguments(Frozen):
    """The arguments of `build_method` that are plain values."""

    num_classes: Count
    seed: Seed
    batch_size: Count | None
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)


def _tensors_by_name(value: object) -> bool:
    from torch import Tensor

    return isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values())


def build_method(
    name: str,
    network: nn.Module,
    *,
    num_classes: int,
    preset: str = "recommended",
    seed: int = 0,
    batch_size: int | None = None,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
    source_images: Iterable[Tensor] | None = None,
    labelled_source: Iterable[LabelledBatch] | None = None,
    held_out: Iterable[LabelledBatch] | None = None,
    artefact: Artefact | None = None,
    initial: Mapping[str, Tensor] | None = None,
    task: Task = "classification",
    output_size: tuple[int, int] | None = None,
    base_scale: float = 1.0,
    **settings: Any,
) -> Method[Any]:
    """Puts a method around a network. The network is edited in place and belongs to the method afterwards.

    Args:
        name: method, as in `tta-grid list methods`.
        network: a timm network with its weights loaded, on its device, in its precision: float32 or wider where it is
            trained. Gradients that it has are dropped; weight norm and other parametrizations become plain weights.
        num_classes: number of its logits; margins are multiples of ln(num_classes).
        preset: named settings to start from.
        seed: seed of the method's own random numbers.
        batch_size: images in a full batch of the stream, for methods that treat short ones differently.
        mean: per-channel mean that was subtracted from pixels in [0, 1].
        std: per-channel standard deviation that they were divided by afterwards.
        source_images: batches of clean source images, normalised like the stream, for methods whose spec needs them; of
            pairs with labels the images are taken.
        labelled_source: likewise, batches of training images of the source with their labels.
        held_out: likewise, batches of images under corruptions that are not reported, with their labels.
        artefact: what the method would make of these before the stream (`Method.make_artefact`), made elsewhere.
        initial: values of parameters by their qualified name in the edited network, in place of the method's own
            initial values: routers, experts or adapters that were made elsewhere.
        task: what the network predicts; of segmentation a `tta_core.backbones.segformer.SegFormer`.
        output_size: height and width of the maps of classes that are scored; None for those of the images.
        base_scale: side of the images that the network gets at ratio 1, as a part of that of the given ones.
        **settings: settings that differ from the preset.

    Raises:
        InputError: for an unknown method, preset or setting, a value that is not allowed, batches that are none, or a
            network that is compiled, cannot be trained, has another number of logits, or lacks the layers that the
            method adapts.
    """
    from torch import nn

    from tta_core.methods.context import Context
    from tta_core.methods.given import GivenBatches

    spec = method_spec(name, task)
    if not isinstance(network, nn.Module):
        raise InputError(f"network = {shown(network)} is no network: give a torch.nn.Module with its weights loaded")
    plain = {"num_classes": num_classes, "seed": seed, "batch_size": batch_size, "mean": mean, "std": std}
    validated(_Arguments, plain, where="build_method")
    for argument, tensors in (("initial", initial), ("artefact", artefact)):
        if tensors is not None and not _tensors_by_name(tensors):
            raise InputError(f"{argument} = {tensors!r}: give tensors by name, or leave it out")
    resolved = spec.resolve(preset, settings)

    def checked(argument: str, batches: Iterable[Any] | None) -> GivenBatches | None:
        labelled, maps = argument != "source_images", task == "segmentation"
        if batches is None:
            return None
        return GivenBatches(batches, argument, network, num_classes, labelled=labelled, maps=maps)

    context = Context(
        num_classes,
        seed,
        batch_size,
        mean,
        std,
        output_size=output_size,
        base_scale=base_scale,
        source_images=checked("source_images", source_images),
        labelled_source=checked("labelled_source", labelled_source),
        held_out=checked("held_out", held_out),
        artefact=artefact,
    )
    if artefact is None:
        context.require(name, spec.needs_of(resolved))
    return method_class(name, task)(network, resolved, context, initial)
