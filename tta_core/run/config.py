"""One resolved configuration (a cell), its id and its fingerprint. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from tta_core.backbones.own_weights import OwnWeights, resolve_own_weights
from tta_core.backbones.spec import NETWORK_KINDS
from tta_core.backbones.table import BACKBONES, backbone_spec
from tta_core.data.benchmarks import BENCHMARKS, CLEAN, benchmark_spec, benchmark_tag, owner
from tta_core.data.domains import ORDERS
from tta_core.data.label_space import kept_classes
from tta_core.data.spec import BenchmarkSpec, Crop, CropName, LabelSpace
from tta_core.diagnostics.names import resolve_observers
from tta_core.errors import InputError, unknown_name
from tta_core.frozen import Frozen, validated
from tta_core.methods.registry import method_spec
from tta_core.methods.spec import HELD_OUT_IMAGES
from tta_core.streams.choice import (
    FILES,
    cell_order,
    check_samples,
    count_samples,
    names_subset,
    resolve_files,
    resolve_settings,
)
from tta_core.streams.order import STREAM_SETTINGS, StreamOrder, stream_spec, visited_domains

OPTIONAL = (*STREAM_SETTINGS, "first_samples", *FILES.values())
"""Fields that are no part of the cell's id where they are None: ids from before they were there stay as they are."""

DOMAIN_SETS = ("reported", "held-out", *ORDERS)
"""Names that stand for several domains."""


class RunConfig(Frozen):
    """Everything that can change the result of a cell, resolved and checked when it is built.

    Attributes:
        method: test-time adaptation method.
        preset: named settings to start from; after resolution only a label.
        settings: the method's settings; what is not given comes from the preset, then from the defaults.
        backbone: network and weights.
        weights: weights of the user's own: backbone -> a file, or the fields of `OwnWeights` in `tta_core.backbones`;
            resolved to the entry of the cell's backbone with its checksum, None for the weights of the backbone's row.
        benchmark: where the images come from.
        domains: `reported`, `held-out`, one of the ten published random orders `order-0` to `order-9`, or a list of
            domain names; resolved to the list.
        severity: corruption strength; in a stream that visits several, resolved to the largest.
        samples_per_domain: images taken from each domain, in streams with rounds from each in each round; all of a
            domain that has fewer; resolved to a number, by default all, or all that a round has; in `label_shift` draws
        data_seed: seed of the corruptions' own randomness; the benchmark as others see it has 0.
        crop: how images are brought to the network's size; resolved, by default the benchmark's first.
        stream: order in which samples arrive.
        rounds: how often the domains come back; 1 in streams without rounds.
        dirichlet_alpha: concentration of labels in time, in streams where they are correlated; None in others.
        time_slots: slots that they are concentrated in, likewise; by default as many as the benchmark has classes.
        imbalance_ratio: how much more frequent the major class is than each other in `label_shift`; None in others.
        first_samples: only so many samples from the beginning of the stream; None for all.
        subset_file: text file that lists the images which streams may take, one a line: the number in the domain, or
            `<class>/<file>`; None for all. Of a list of names only its images must be there, and their numbers are
            their places in it.
        subset_hash: hash of its content, found when it is read.
        order_file: file with the order of the stream, see `tta_core.streams.order_files`; the stream is then
            `imported`.
        order_hash: hash of that order, found when it is read.
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
    backbone: str = "digits-vit-supervised"
    weights: dict[str, OwnWeights] | None = None
    benchmark: str = "digits-c"
    domains: tuple[str, ...] = ()
    severity: int = 5
    samples_per_domain: int = Field(default=0, ge=1)
    data_seed: int = Field(default=0, ge=0)
    crop: CropName = "none"
    stream: str = "mixed"
    rounds: int = Field(default=1, ge=1)
    dirichlet_alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    time_slots: int | None = Field(default=None, ge=1)
    imbalance_ratio: int | None = Field(default=None, ge=1)
    first_samples: int | None = Field(default=None, ge=1)
    subset_file: str | None = None
    subset_hash: str | None = None
    order_file: str | None = None
    order_hash: str | None = None
    batch_size: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    label_space: LabelSpace = "full"
    precision: Literal["fp32", "bf16"] = "fp32"
    diagnostics: tuple[str, ...] = ()
    diagnostics_every: int = Field(default=50, ge=1)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RunConfig:
        """Builds a configuration from plain values, as read from YAML.

        Raises:
            InputError: with one message for everything that is wrong.
        """
        return validated(cls, dict(values), where="cell")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        """Fills in what follows from other fields, so that equal runs have equal configurations."""
        if not isinstance(values, Mapping) or "method" not in values:
            return values
        resolved = dict(values)
        spec = method_spec(str(resolved["method"]))
        settings = resolved.get("settings", {})
        if not isinstance(settings, Mapping):
            raise InputError(f"settings = {settings!r} is not a mapping of setting to value")
        resolved["settings"] = spec.resolve(str(resolved.get("preset", "recommended")), dict(settings)).model_dump(
            mode="json"
        )
        backbone = backbone_spec(str(resolved.get("backbone", cls.model_fields["backbone"].default)))
        resolved["weights"] = resolve_own_weights(resolved.get("weights"), backbone, BACKBONES)
        benchmark = benchmark_spec(str(resolved.get("benchmark", cls.model_fields["benchmark"].default)))
        domains = resolved.get("domains") or "reported"
        resolved["domains"] = _resolve_domains(domains, benchmark, at_severities=bool(resolved.get("order_file")))
        resolve_files(resolved, benchmark, domains_given=domains != "reported")
        resolved["stream"] = str(resolved.get("stream", cls.model_fields["stream"].default))
        stream = stream_spec(resolved["stream"])
        if stream.severities:
            resolved["severity"] = max(stream.severities)
        if not benchmark.severities:
            resolved["severity"] = 0
        resolve_settings(resolved, benchmark)
        if resolved.get("crop") is None:
            resolved["crop"] = benchmark.crops[0]
        resolved["diagnostics"] = resolve_observers(resolved.get("diagnostics", "auto"))
        return resolved

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        benchmark, stream = benchmark_spec(self.benchmark), stream_spec(self.stream)
        if benchmark.severities and self.severity not in benchmark.severities:
            raise InputError(f"severity {self.severity} is not one of {list(benchmark.severities)} ({self.benchmark})")
        check_samples(self)
        plain = [name for name in self.domains if name == CLEAN or not owner(benchmark, name).severities]
        if stream.severities and plain:
            raise InputError(
                f"the stream {self.stream!r} raises the severity of each domain, {plain[0]!r} has none: leave it out"
            )
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
        if self.data_seed and benchmark.storage != "embedded" and not benchmark.generated_from:
            raise InputError(
                f"data_seed = {self.data_seed}, but the images of {self.benchmark} are downloaded: leave it out"
            )
        method = method_spec(self.method)
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
    def num_samples(self) -> int:
        """Samples in the stream; of a label shift over domains that lack classes, the most that there may be."""
        return count_samples(self)

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
        return method_spec(self.method).settings.model_validate(self.settings)

    def needs(self) -> tuple[str, ...]:
        """What the method needs beyond the stream with these settings."""
        return method_spec(self.method).needs_of(self.method_settings())

    def order(self, seed: int | None = None) -> StreamOrder:
        """The order of the samples, under the cell's own seed unless another is given.

        Raises:
            InputError: if it is made from labels, and they cannot be read; or from a file, and that has changed.
        """
        return cell_order(self, self.seed if seed is None else seed)

    def cell_id(self) -> str:
        """Method and twelve hexadecimal digits of a hash of everything that can change the result.

        The preset's name is left out (its settings are in), and so are the device and the number of workers: they are
        where a cell runs, not what it runs. Of files the content counts, not the path.
        """
        unused = {"preset", "weights", *FILES} | (set() if self.diagnostics else {"diagnostics_every"})
        unused |= {name for name in OPTIONAL if getattr(self, name) is None}
        identity = self.model_dump(mode="json", exclude=unused) | {
            "method_version": method_spec(self.method).version,
            "benchmark_version": benchmark_spec(self.benchmark).version,
            "weights": self.weights_tag(),
        }
        if self.crop == "backbone":
            identity |= {"crop": str(self.cut)}
        benchmark = benchmark_spec(self.benchmark)
        if any(name in benchmark.parts for name in self.domains):
            identity |= {"images": benchmark_tag(benchmark, self.domains)}
        return f"{self.method}-{canonical_hash(identity)}"

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
            "domains": list(reference.domains if reference else visited_domains(self.stream, self.domains)),
            "severity": self.severity,
            "samples_per_domain": self.samples_per_domain,
            "stream": self.stream,
            "stream_order_at_seed_0": reference.order_hash() if reference else "unknown",
            "batch_size": self.batch_size,
            "reset": reset,
            "weights": self.weights_tag(),
            "normalisation": {"mean": list(backbone.mean), "std": list(backbone.std)},
            "crop": self.crop if self.crop == "none" else f"{self.cut} {backbone.image_size}",
            "label_space": self.label_space,
            "precision": self.precision,
            "scored_logits": method_spec(self.method).scores_of(self.method_settings()),
        } | {name: getattr(self, name) for name in stream.settings}
        if reference is not None and names_subset(self) is not None:
            # The images of such a list are numbered from 0, whichever they are.
            values["subset"] = self.subset_hash
        return values

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of `protocol()`.

        It holds the stream order at seed 0, not at the cell's seed: seeds of one protocol are meant to be averaged.
        The cell's own order is stored beside it, for pairing.
        """
        return canonical_hash(self.protocol())


def canonical_hash(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the values as JSON with sorted keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
        if benchmark.storage == "composition"
        else "it has all classes of the backbone"
    )
    masked = ", ".join(name for name, row in BENCHMARKS.items() if config.label_space in row.label_spaces)
    raise InputError(
        f"label_space = {config.label_space!r} is not allowed for {benchmark.name}: {reason}. Give label_space: full, "
        f"or one of the benchmarks {masked}"
    )


def _resolve_domains(given: Any, benchmark: BenchmarkSpec, *, at_severities: bool) -> tuple[str, ...]:
    known = (*benchmark.domains, *benchmark.held_out_domains, CLEAN)
    if isinstance(given, str):
        if given in DOMAIN_SETS:
            sets = {"reported": benchmark.domains, "held-out": benchmark.held_out_domains} | ORDERS
            return sets[given]
        given = [given]
    names = tuple(str(name) for name in given)
    for name in names:
        if (name.partition("@")[0] if at_severities else name) not in known:
            raise unknown_name(f"domain of {benchmark.name}", name, (*known, *DOMAIN_SETS))
    if len(set(names)) != len(names):
        raise InputError(f"domains = {list(names)}: a domain is named twice; name each once")
    return names
