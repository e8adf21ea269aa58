"""Runs one cell in this process: the one function that the grid calls."""

from __future__ import annotations

import gc
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from tta_core.backbones.classifier import keep_classes
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.table import backbone_spec
from tta_core.data.opened import DomainImages, unproven_labels
from tta_core.device import device_name
from tta_core.diagnostics.collapse import CollapseGuard
from tta_core.diagnostics.make import make_observers
from tta_core.diagnostics.observer import Measurement, Observer, Output, Picture, Scene
from tta_core.errors import DIVERGED, InputError, unknown_name
from tta_core.methods.base import Diagnostics, Method
from tta_core.methods.common.surgery import count_parameters
from tta_core.methods.context import Context
from tta_core.methods.layer_counts import layers_values
from tta_core.methods.registry import method_class
from tta_core.methods.spec import HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES, SOURCE_IMAGES
from tta_core.run.checkpoint import Checkpoints
from tta_core.run.config import RunConfig
from tta_core.run.cost import CostMeter
from tta_core.run.images import check_enough, fewer_images, load_domains, map_size, normalisation
from tta_core.run.loop import Columns, CorruptImages, run_stream
from tta_core.run.preparation import artefact_key, kept_artefact
from tta_core.run.supplies import HeldOutImages, LabelledSource, SourceImages
from tta_core.streams.batches import Normalise
from tta_core.streams.order import StreamOrder
from tta_core.tasks.base import Metric, Scores, all_finite
from tta_core.tasks.table import TASKS

RECORDED_PACKAGES = ("numpy", "timm", "torch")


class CollapseError(RuntimeError):
    """The method left the network with values that are not finite, so its numbers mean nothing."""


@dataclass(frozen=True)
class RunResult:
    """Everything that one cell yields.

    Attributes:
        config: the resolved configuration.
        cell: its id.
        metric: what the score is.
        scores: what the whole stream is worth.
        domain_scores: what each domain is worth.
        samples: columns `(samples,)`, see `analysis.schema.SAMPLES`.
        batches: columns `(batches,)`, see `analysis.schema.BATCHES`, and the method's own scalars.
        diagnostics: quantity -> layer -> values, over the whole stream.
        measurements: what the observers measured.
        stream_order: hash of the order of the samples.
        seconds: wall time of the online loop in s, without loading and without what observers do off the clock.
        images_per_second: samples divided by seconds.
        peak_memory_mib: see `tta_core.run.cost.CostMeter`.
        trainable_parameters: numbers that the method updates.
        layers: by kind how many layers were found, taken (trained or replaced) and left as they are.
        artefact: hash of what the method prepared before the stream, see `tta_core.run.preparation`; empty if nothing.
        device: the device that ran the cell.
        versions: Python and packages.
        started_at: UTC.
        skipped: images of the stream that were left out because they cannot be decoded; they are in no number here.
        notes: what to know of the images that were read, such as that nothing proves the order of their classes.
        outputs: what the observer `outputs` kept of the probabilities; empty without it.
        pictures: what the observer `pictures` shows; empty without it.
    """

    config: RunConfig
    cell: str
    metric: Metric
    scores: Scores
    domain_scores: dict[str, Scores]
    samples: Columns
    batches: Columns
    diagnostics: Diagnostics
    measurements: list[Measurement]
    stream_order: str
    seconds: float
    images_per_second: float
    peak_memory_mib: float
    trainable_parameters: int
    layers: dict[str, dict[str, int]]
    artefact: str
    device: str
    versions: dict[str, str]
    started_at: datetime
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def score(self) -> float:
        """The task's own metric over the stream, in [0, 1]."""
        return self.scores.score

    @property
    def accuracy(self) -> float:
        """Share of samples, or of pixels, that are right."""
        return self.scores.accuracy

    @property
    def accuracy5(self) -> float | None:
        """Top-5 accuracy over the stream; None of segmentation."""
        return self.scores.accuracy5

    @property
    def domain_accuracy(self) -> dict[str, float]:
        """The accuracy by domain."""
        return {name: scores.accuracy for name, scores in self.domain_scores.items()}

    @property
    def n_samples(self) -> int:
        """Samples in the stream, also those whose images were skipped."""
        return len(self.samples["position"]) + len(self.skipped)


def run(
    config: RunConfig | Mapping[str, Any],
    *,
    device: str = "auto",
    checkpoint_file: str | Path | None = None,
    checkpoint_every: int = 0,
    checkpoint_saved: Callable[[], object] | None = None,
    corrupt_images: CorruptImages = "error",
    usual: Columns | None = None,
) -> RunResult:
    """Runs one cell: builds the method around its backbone and feeds it the stream.

    Args:
        config: a configuration, or the values to build one from.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU if there is one.
        checkpoint_file: where the run saves itself in mid-stream. If it holds a checkpoint of this cell, the run goes
            on from there, and ends with the same bits as if it had never been interrupted. Whoever keeps the result
            safe removes it then: `tta_core.run.checkpoint.discard`.
        checkpoint_every: batches from one checkpoint to the next; 0 for none.
        checkpoint_saved: called after each of them.
        corrupt_images: what happens to images of the stream that cannot be decoded: `error`, or `skip` to leave them
            out, named in the result. What methods prepare themselves from, and what is only measured on, must be whole
            in any case: it is the same for all cells.
        usual: `position` and `prediction` of the source on this stream, of segmentation `predicted`: the run ends where
            its own predictions become of few classes beside these.

    Raises:
        InputError: for values that are not allowed, a device that is not there, weights that do not fit.
        CollapseError: if parameters or predictions become infinite or not a number.
        CollapsedError: if `usual` is given, and its predictions become of few classes.
    """
    if not isinstance(config, RunConfig):
        config = RunConfig.from_values(config)
    if corrupt_images not in get_args(CorruptImages):
        raise unknown_name("value of corrupt_images", corrupt_images, get_args(CorruptImages))
    if isinstance(checkpoint_every, bool) or not isinstance(checkpoint_every, int) or checkpoint_every < 0:
        raise InputError(f"checkpoint_every = {checkpoint_every!r}: give a number of batches, 0 for no checkpoints")
    started_at = datetime.now(UTC)
    target = choose_device(device)
    torch.manual_seed(config.seed)
    order = config.order()
    domains = load_domains(config, order.domains)
    check_enough(config, order, domains)
    task = TASKS[config.task]
    unproven = [name for name, domain in zip(order.domains, domains, strict=True) if not domain.proven]
    normalise = normalisation(config, target)
    method, artefact = _build(config, normalise, target, domains)
    parameters = method.trainable_parameters()
    meter = CostMeter(target)
    scene = _scene(config, method, order, normalise, meter)
    observers = make_observers(config.diagnostics, scene)
    cell = identity = config.cell_id()
    if usual is not None:
        observers.append(_guard(config, scene, usual))
        identity = f"{cell} guarded"
    checkpoints = None
    if checkpoint_file:
        checkpoints = Checkpoints(Path(checkpoint_file), checkpoint_every, identity=identity, saved=checkpoint_saved)
    gc.collect()  # Workers are reused: what the last cell left should not count as this one's.
    meter.start()
    record = run_stream(
        method,
        domains,
        order,
        batch_size=config.batch_size,
        normalise=normalise,
        precision=config.precision,
        observers=observers,
        measure_every=config.diagnostics_every,
        checkpoints=checkpoints,
        meter=meter,
        corrupt_images=corrupt_images,
        task=task,
    )
    meter.stop()
    # Where domains reset the method, the parameters at the end say nothing of the domains before.
    if not (all_finite(parameters) and np.isfinite(record.samples["entropy"]).all()):
        if not parameters:
            raise CollapseError(
                f"{config.backbone} predicts what is infinite or not a number, and {config.method} trains nothing: "
                "its weights are damaged or of another network, or the images are"
            )
        raise CollapseError(
            f"{config.method} {DIVERGED}parameters or predictions are infinite or not a number; lower the learning "
            f"rate (settings: {json.dumps(config.settings)})"
        )
    return RunResult(
        config=config,
        cell=cell,
        metric=task.metric,
        scores=task.scores(record.samples),
        domain_scores=task.scores_by_domain(record.samples),
        samples={name: values for name, values in record.samples.items() if name != "in_top5"},
        batches=record.batches,
        diagnostics=record.diagnostics,
        measurements=record.measurements,
        stream_order=order.order_hash(),
        seconds=meter.seconds,
        images_per_second=len(order) / meter.seconds,
        peak_memory_mib=meter.peak_memory_mib,
        trainable_parameters=count_parameters(list(parameters.values())),
        layers=layers_values(method.layer_counts),
        artefact=artefact,
        device=device_name(target),
        versions=_versions(),
        started_at=started_at,
        skipped=record.skipped,
        notes=(*([unproven_labels(unproven)] if unproven else []), *fewer_images(config, order, domains)),
        outputs=record.outputs,
        pictures=record.pictures,
    )


@cache
def _versions() -> dict[str, str]:
    """Finding them reads files, which takes as long as half a short loop."""
    return {"python": platform.python_version()} | {name: version(name) for name in RECORDED_PACKAGES}


def _source_network(config: RunConfig, target: torch.device) -> nn.Module:
    """The network before any method changes it, with the logits of the cell's label space."""
    network = load_backbone(backbone_spec(config.backbone), config.own_weights)
    return keep_classes(network, config.classes).to(target).requires_grad_(False)


def _build(
    config: RunConfig, normalise: Normalise, target: torch.device, domains: Sequence[DomainImages]
) -> tuple[Method[Any], str]:
    """Builds the method; also returns the hash of what it prepared, empty if it prepared nothing."""
    backbone, spec = backbone_spec(config.backbone), config.method_spec
    network = _source_network(config, target)
    needs = config.needs()
    context = Context(
        num_classes=config.num_classes,
        seed=config.seed,
        batch_size=config.batch_size,
        mean=backbone.mean,
        std=backbone.std,
        source_images=SourceImages(config, normalise) if SOURCE_IMAGES in needs else None,
        labelled_source=LabelledSource(config, normalise) if LABELLED_SOURCE_IMAGES in needs else None,
        held_out=HeldOutImages(config, normalise) if HELD_OUT_IMAGES in needs else None,
        output_size=map_size(config, domains),
        base_scale=0.5 if config.crop == "half" else 1.0,
    )
    settings, implementation, name = config.method_settings(), method_class(config.method, config.task), ""
    if needs and spec.preparation is not None:
        key = artefact_key(config, network, target)
        artefact, name = kept_artefact(key, lambda: implementation.make_artefact(network, settings, context), target)
        context = replace(context, artefact=artefact)
    return implementation(network, settings, context), name


def _guard(config: RunConfig, scene: Scene, usual: Columns) -> Observer:
    what, empty = ("predicted", 0) if config.task == "segmentation" else ("prediction", -1)
    source = np.full((len(scene.order), *usual[what].shape[1:]), empty, usual[what].dtype)
    source[usual["position"]] = usual[what]
    return CollapseGuard(scene, source, recovers=config.method_spec.recovers)


def _scene(config: RunConfig, method: Method[Any], order: StreamOrder, normalise: Normalise, meter: CostMeter) -> Scene:
    return Scene(
        method=method,
        order=order,
        batch_size=config.batch_size,
        normalise=normalise,
        open_domain=lambda name: load_domains(config, [name])[0],
        open_source=lambda: _source_network(config, normalise.mean.device),
        precision=config.precision,
        off_clock=meter.paused,
        outcomes=TASKS[config.task].outcomes,
    )


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is a GPU if there is one.

    Raises:
        InputError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}): give auto, cpu, cuda or cuda:N") from None
    return device
