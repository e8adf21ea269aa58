"""One resolved configuration (a cell), its id and its fingerprint. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from tta_core.backbones.own_weights import OwnWeights, resolve_own_weights
from tta_core.backbones.spec import NETWORK_KINDS
from tta_core.backbones.table import BACKBONES, backbone_spec
from tta_core.data.benchmarks import BENCHMARKS, benchmark_spec, benchmark_tag
from tta_core.data.domains import split_severity
from tta_core.data.label_space import kept_classes
from tta_core.data.opened import ImageRequest
from tta_core.data.spec import BenchmarkSpec, Crop, CropName, LabelSpace, Task
from tta_core.diagnostics.names import resolve_observers
from tta_core.errors import InputError, unknown_name
from tta_core.frozen import Count, Seed, validated
from tta_core.methods.registry import method_spec
from tta_core.methods.spec import HELD_OUT_IMAGES, MethodSpec
from tta_core.streams.choice import DEFAULT_BENCHMARK, OPTIONAL_FIELDS, StreamChoice
from tta_core.streams.choice_files import FILES
from tta_core.streams.order import StreamOrder, stream_spec
from tta_core.streams.subsets import Subset

DEFAULT_BACKBONE = "digits-vit-supervised"


class RunConfig(StreamChoice):
    """Everything that can change the result of a cell, resolved and checked when it is built.

    The fields of its stream are those of `StreamChoice`.

    Attributes:
        method: test-time adaptation method.
        preset: named settings to start from; after resolution only a label.
        settings: the method's settings; what is not given comes from the preset, then from the defaults.
        backbone: network and weights.
        weights: weights of the user's own: backbone -> a file, or the fields of `OwnWeights` in `tta_core.backbones`;
            resolved to the entry of the cell's backbone with its checksum, None for the weights of the backbone's row.
        crop: how images are brought to the network's size; resolved, by default the benchmark's first.
        batch_size: images in a full batch.
        seed: seed of the stream order and of the method.
        label_space: which logits there are, in a benchmark that has only some of the backbone's classes: `full` or
            `masked`.
        precision: `fp32`, or `bf16` for autocast of matrix products.
        diagnostics: what is measured beside the outcomes: `auto` (what costs next to nothing), `none`, `all`, or a list
            of observers; resolved to the list. Those that do not apply to the method measure nothing.
        diagnostics_every: steps from one measurement to the next.
    """

    method: str
    preset: str = "recommended"
    settings: dict[str, Any] = Field(default_factory=dict)
    backbone: str = DEFAULT_BACKBONE
    weights: dict[str, OwnWeights] | None = None
    crop: CropName = "none"
    batch_size: Count = 64
    seed: Seed = 0
    label_space: LabelSpace = "full"
    precision: Literal["fp32", "bf16"] = "fp32"
    diagnostics: tuple[str, ...] = ()
    diagnostics_every: Count = 50

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RunConfig:
        """Builds a configuration from plain values, as read from YAML.

        Raises:
            InputError: with one message for everything that is wrong.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"cell = {values!r}: give its fields by name, such as {{'method': 'tent'}}")
        return validated(cls, dict(values), where="cell")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        """Fills in what follows from other fields, so that equal runs have equal configurations."""
        if not isinstance(values, Mapping) or "method" not in values:
            return values
        given = dict(values)
        benchmark = benchmark_spec(given.get("benchmark", DEFAULT_BENCHMARK))
        spec = method_spec(given["method"], benchmark.task)
        settings = given.get("settings", {})
        if not isinstance(settings, Mapping):
            raise InputError(f"settings = {settings!r} is not a mapping of setting to value")
        resolved = spec.resolve(given.get("preset", "recommended"), dict(settings))
        backbone = backbone_spec(given.get("backbone", DEFAULT_BACKBONE))
        return given | {
            "settings": resolved.model_dump(mode="json"),
            "weights": resolve_own_weights(given.get("weights"), backbone, BACKBONES),
            "crop": benchmark.crops[0] if given.get("crop") is None else given["crop"],
            "diagnostics": resolve_observers(given.get("diagnostics", "auto"), benchmark.task),
        }

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        benchmark = benchmark_spec(self.benchmark)
        if self.crop not in benchmark.crops:
            raise unknown_name(f"crop of {self.benchmark}", self.crop, benchmark.crops)
        if self.crop == "backbone" and backbone_spec(self.backbone).own_crop() is None:
            others = " or ".join(name for name in benchmark.crops if name != "backbone")
            raise InputError(f"crop = 'backbone', but {self.backbone} has no crop of its own: give crop: {others}")
        _check_label_space(self, benchmark)
        if HELD_OUT_IMAGES in self.needs() and not benchmark.held_out_domains:
            raise InputError(
                f"{self.method} needs {HELD_OUT_IMAGES}, and {self.benchmark} holds none out: choose another "
                "benchmark, or settings that need none"
            )
        backbone = backbone_spec(self.backbone)
        if backbone.task != benchmark.task:
            fitting = [name for name, row in BACKBONES.items() if row.classes == benchmark.classes]
            raise InputError(
                f"backbone {self.backbone!r} does {backbone.task}, the benchmark {self.benchmark!r} wants "
                f"{benchmark.task}: choose {' or '.join(fitting[:3])}"
            )
        method = self.method_spec
        if not method.takes(backbone_spec(self.backbone).kinds):
            fitting = [name for name, row in BACKBONES.items() if method.takes(row.kinds)]
            raise InputError(
                f"{self.method} takes {NETWORK_KINDS[method.network]}, and the backbone {self.backbone!r} is none: "
                f"choose another, such as {', '.join(fitting[:3])}"
            )
        predicted = backbone_spec(self.backbone).classes
        if predicted != benchmark.classes:
            raise InputError(
                f"backbone {self.backbone!r} predicts the classes of {predicted!r}, the benchmark {self.benchmark!r} "
                f"has those of {benchmark.classes!r}: choose a backbone that `tta-grid list backbones` shows for them"
            )
        return self

    @property
    def task(self) -> Task:
        """What is predicted."""
        return benchmark_spec(self.benchmark).task

    @property
    def method_spec(self) -> MethodSpec:
        """The description of the method, for the task."""
        return method_spec(self.method, self.task)

    @property
    def own_weights(self) -> OwnWeights | None:
        """The user's own weights for the backbone; None if those of its row are meant."""
        return (self.weights or {}).get(self.backbone)

    @property
    def cut(self) -> Crop:
        """How images are cut, as readers take it: `crop`, or the backbone's own if that says so."""
        own = backbone_spec(self.backbone).own_crop() if self.crop == "backbone" else None
        return own or self.crop

    def weights_tag(self) -> str:
        """Short text that names the weights of the network: of the user's own by their content."""
        own = self.own_weights
        return backbone_spec(self.backbone).weights_tag(own.tag() if own else "")

    @property
    def images(self) -> ImageRequest:
        """The images of the benchmark as the network wants them."""
        size = backbone_spec(self.backbone).image_size
        return replace(self.whole_images, crop=self.cut, image_size=size, label_space=self.label_space)

    def part_of(self, domain: str) -> Subset | None:
        """The images that the cell takes of a domain, of its stream or beside it; None for all.

        A list of names is one of photographs: beside the stream it counts where a domain shows the same ones.
        """
        names = self.named_subset
        if names is None:
            return None
        request, plain = self.whole_images, split_severity(domain, self.severity)[0]
        same = plain in self.domains or all(request.same_names(own, plain) for own in self.domains)
        return names if same else None

    @property
    def classes(self) -> tuple[int, ...]:
        """Numbers of the classes whose logits there are, among all of the backbone; empty if there are all."""
        return kept_classes(benchmark_spec(self.benchmark), self.label_space)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return len(self.classes) or backbone_spec(self.backbone).num_classes

    def method_settings(self) -> BaseModel:
        """The method's settings as the data model that its spec names."""
        return self.method_spec.settings.model_validate(self.settings)

    def needs(self) -> tuple[str, ...]:
        """What the method needs beyond the stream with these settings."""
        spec = self.method_spec
        return spec.needs_of(self.method_settings()) if spec.needs else ()

    def order(self, seed: int | None = None) -> StreamOrder:
        """The order of the samples, under the cell's own seed unless another is given.

        Raises:
            InputError: if it is made from labels, and they cannot be read; or from a file, and that has changed.
        """
        return self.stream_order_at(self.seed if seed is None else seed)

    def cell_id(self) -> str:
        """Method and twelve hexadecimal digits of a hash of everything that can change the result.

        The preset's name is left out (its settings are in), and so are the device and the number of workers: they are
        where a cell runs, not what it runs. Of files the content counts, not the path.
        """
        return self.cell_ids()(self.seed)

    def cell_ids(self) -> Callable[[int], str]:
        """The id of this cell under any seed: of many seeds, all else is read and hashed once."""
        benchmark = benchmark_spec(self.benchmark)
        unused = {"preset", "weights", *FILES} | (set() if self.diagnostics else {"diagnostics_every"})
        unused |= {name for name in OPTIONAL_FIELDS if getattr(self, name) is None}
        identity = {name: value for name, value in vars(self).items() if name not in unused} | {
            "method_version": self.method_spec.version,
            "benchmark_version": benchmark.version,
            "weights": self.weights_tag(),
        }
        if self.crop == "backbone":
            identity |= {"crop": str(self.cut)}
        if any(name in benchmark.parts for name in self.domains):
            identity |= {"images": benchmark_tag(benchmark, self.domains)}
        # The text of all of it has its keys in order: that of the seed stands between two that are always there.
        before, after = (
            canonical_text({name: value for name, value in identity.items() if chosen(name)})
            for chosen in ("seed".__gt__, "seed".__lt__)
        )
        hashed = hashlib.sha256(f'{before[:-1]},"seed":'.encode())
        rest = f",{after[1:]}"

        def under(seed: int) -> str:
            whole = hashed.copy()
            whole.update(f"{seed}{rest}".encode())
            return f"{self.method}-{whole.hexdigest()[:12]}"

        return under

    def protocol(self, *, with_order: bool = True) -> dict[str, Any]:
        """What makes results comparable: equal protocols, comparable numbers.

        Args:
            with_order: whether to put in the order. Of a cell that failed because there is none, do not.

        Raises:
            InputError: see `order`.
        """
        benchmark, backbone = benchmark_spec(self.benchmark), backbone_spec(self.backbone)
        reference = self.order(seed=0) if with_order else None
        stream, reset = stream_spec(self.stream), stream_spec(self.stream).reset
        if self.order_file is not None and reference is not None:
            reset = "domain" if reference.reset_at_segments else "never"
        values: dict[str, Any] = {
            "benchmark": benchmark_tag(benchmark, self.domains),
            "data_seed": self.data_seed,
            "domains": list(reference.domains if reference else self.visited),
            "severity": self.severity,
            "samples_per_domain": self.samples_per_domain,
            "stream": self.stream,
            "stream_order_at_seed_0": reference.order_hash() if reference else "unknown",
            "batch_size": self.batch_size,
            "reset": reset,
            "weights": self.weights_tag(),
            "normalisation": {"mean": list(backbone.mean), "std": list(backbone.std)},
            "crop": self.crop if self.crop in ("none", "half") else f"{self.cut} {backbone.image_size}",
            "label_space": self.label_space,
            "precision": self.precision,
            "scored_logits": self.method_spec.scores_of(self.method_settings()),
        } | {name: getattr(self, name) for name in stream.settings}
        if self.task == "segmentation":
            values["class_names"] = list(benchmark_spec(self.benchmark).class_names)
        if reference is not None and self.named_subset is not None:
            # The images of such a list are numbered from 0, whichever they are.
            values["subset"] = self.subset_hash
        return values

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of `protocol()`.

        It holds the stream order at seed 0, not at the cell's seed: seeds of one protocol are meant to be averaged.
        The cell's own order is stored beside it, for pairing.
        """
        return canonical_hash(self.protocol())


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical_hash(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the values as JSON with sorted keys."""
    return hashlib.sha256(canonical_text(values).encode()).hexdigest()[:12]


def canonical_text(values: Mapping[str, Any]) -> str:
    """The values as JSON with sorted keys."""
    return _CANONICAL.encode(values)


def _check_label_space(config: RunConfig, benchmark: BenchmarkSpec) -> None:
    """Refuses `masked` where it means nothing.

    Raises:
        InputError: if the benchmark has all classes of the backbone, or a domain has classes of its own.
    """
    if config.label_space in benchmark.label_spaces:
        foreign = [name for name in config.domains if name in benchmark.parts]
        if config.label_space == "masked" and foreign:
            raise InputError(
                f"label_space = 'masked', but the domain {foreign[0]!r} has other classes than {benchmark.name}: leave "
                "it out, or give label_space: full"
            )
        return
    reason = (
        "its domains have different classes, and masking cannot be defined inside a mixed stream"
        if benchmark.composed
        else "it has all classes of the backbone"
    )
    masked = ", ".join(name for name, row in BENCHMARKS.items() if config.label_space in row.label_spaces)
    raise InputError(
        f"label_space = {config.label_space!r} is not allowed for {benchmark.name}: {reason}. Give label_space: full, "
        f"or one of the benchmarks {masked}"
    )
