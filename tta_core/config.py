"""One resolved configuration (a cell), its id and its fingerprint. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from tta_core.backbones import BACKBONES
from tta_core.data.benchmarks import CLEAN
from tta_core.data.domains import ORDERS
from tta_core.data.streams import StreamOrder, stream_order, visits_per_domain
from tta_core.diagnostics.names import resolve_observers
from tta_core.errors import InputError, unknown_name
from tta_core.registry import backbone_spec, benchmark_spec, method_spec, stream_spec
from tta_core.spec import NETWORK_KINDS, BenchmarkSpec, Crop, Frozen, StreamSpec, validated

DOMAIN_SETS = ("reported", "held-out", *ORDERS)
"""Names that stand for several domains."""

DEFAULT_ROUNDS = 10
"""Rounds of a stream that has any (imse spec 5.4)."""


class RunConfig(Frozen):
    """Everything that can change the result of a cell, resolved and checked when it is built.

    Attributes:
        method: test-time adaptation method.
        preset: named settings to start from; after resolution only a label.
        settings: the method's settings; what is not given comes from the preset, then from the defaults.
        backbone: network and weights.
        benchmark: where the images come from.
        domains: `reported`, `held-out`, one of the ten published random orders `order-0` to `order-9`, or a list of
            domain names; resolved to the list.
        severity: corruption strength; in a stream that visits several, resolved to the largest.
        samples_per_domain: images taken from each domain, in streams with rounds from each in each round; resolved to
            a number, by default all, or all that a round has.
        data_seed: seed of the corruptions' own randomness; the benchmark as others see it has 0.
        crop: how images are brought to the network's size; resolved, by default the benchmark's first.
        stream: order in which samples arrive.
        rounds: how often the domains come back; 1 in streams without rounds.
        batch_size: images in a full batch.
        seed: seed of the stream order and of the method.
        label_space: which logits are scored.
        precision: `fp32`, or `bf16` for autocast of matrix products.
        diagnostics: what is measured beside the outcomes: `auto` (what costs next to nothing), `none`, `all`, or a list
            of observers; resolved to the list. Those that do not apply to the method measure nothing.
        diagnostics_every: steps from one measurement to the next.
    """

    method: str
    preset: str = "recommended"
    settings: dict[str, Any] = Field(default_factory=dict)
    backbone: str = "digits-vit-supervised"
    benchmark: str = "digits-c"
    domains: tuple[str, ...] = ()
    severity: int = 5
    samples_per_domain: int = Field(default=0, ge=1)
    data_seed: int = Field(default=0, ge=0)
    crop: Crop = "none"
    stream: str = "mixed"
    rounds: int = Field(default=1, ge=1)
    batch_size: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    label_space: Literal["full"] = "full"
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
        benchmark = benchmark_spec(str(resolved.get("benchmark", cls.model_fields["benchmark"].default)))
        resolved["domains"] = _resolve_domains(resolved.get("domains") or "reported", benchmark)
        stream = stream_spec(str(resolved.get("stream", cls.model_fields["stream"].default)))
        if stream.severities:
            resolved["severity"] = max(stream.severities)
        if stream.rounds == "once":
            resolved["rounds"] = 1
        elif resolved.get("rounds") is None:
            resolved["rounds"] = DEFAULT_ROUNDS
        if resolved.get("samples_per_domain") is None:
            resolved["samples_per_domain"] = _images_per_visit(benchmark, stream, resolved["rounds"])
        if resolved.get("crop") is None:
            resolved["crop"] = benchmark.crops[0]
        resolved["diagnostics"] = resolve_observers(resolved.get("diagnostics", "auto"))
        return resolved

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        benchmark, stream = benchmark_spec(self.benchmark), stream_spec(self.stream)
        if self.severity not in benchmark.severities:
            raise InputError(f"severity {self.severity} is not one of {list(benchmark.severities)} ({self.benchmark})")
        if self.samples_per_domain > _images_per_visit(benchmark, stream, self.rounds):
            raise _too_many_samples(self, benchmark, stream)
        if stream.severities and CLEAN in self.domains:
            raise InputError(
                f"the stream {self.stream!r} raises the severity of each domain, {CLEAN!r} has none: leave it out"
            )
        if self.crop not in benchmark.crops:
            raise unknown_name(f"crop of {self.benchmark}", self.crop, benchmark.crops)
        if self.data_seed and benchmark.storage != "embedded":
            raise InputError(
                f"data_seed = {self.data_seed}, but the images of {self.benchmark} are files: leave it out"
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
    def num_samples(self) -> int:
        """Samples in the stream."""
        return self.samples_per_domain * len(self.domains) * visits_per_domain(self.stream, self.rounds)

    def method_settings(self) -> BaseModel:
        """The method's settings as the data model that its spec names."""
        return method_spec(self.method).settings.model_validate(self.settings)

    def needs(self) -> tuple[str, ...]:
        """What the method needs beyond the stream with these settings."""
        return method_spec(self.method).needs_of(self.method_settings())

    def order(self, seed: int | None = None) -> StreamOrder:
        """The order of the samples, under the cell's own seed unless another is given."""
        benchmark = benchmark_spec(self.benchmark)
        return stream_order(
            self.stream,
            self.domains,
            benchmark.images_per_domain,
            self.samples_per_domain,
            self.seed if seed is None else seed,
            rounds=self.rounds,
            shuffled=benchmark.shuffled,
        )

    def cell_id(self) -> str:
        """Method and twelve hexadecimal digits of a hash of everything that can change the result.

        The preset's name is left out (its settings are in), and so are the device and the number of workers: they are
        where a cell runs, not what it runs.
        """
        unused = {"preset"} if self.diagnostics else {"preset", "diagnostics_every"}
        identity = self.model_dump(mode="json", exclude=unused) | {
            "method_version": method_spec(self.method).version,
            "benchmark_version": benchmark_spec(self.benchmark).version,
            "weights": backbone_spec(self.backbone).weights_tag(),
        }
        return f"{self.method}-{canonical_hash(identity)}"

    def protocol(self) -> dict[str, Any]:
        """What makes results comparable: equal protocols, comparable numbers."""
        benchmark, backbone = benchmark_spec(self.benchmark), backbone_spec(self.backbone)
        stream, reference = stream_spec(self.stream), self.order(seed=0)
        return {
            "benchmark": f"{benchmark.name} v{benchmark.version}",
            "data_seed": self.data_seed,
            "domains": list(reference.domains),
            "severity": self.severity,
            "samples_per_domain": self.samples_per_domain,
            "stream": self.stream,
            "stream_order_at_seed_0": reference.order_hash(),
            "batch_size": self.batch_size,
            "reset": stream.reset,
            "weights": backbone.weights_tag(),
            "normalisation": {"mean": list(backbone.mean), "std": list(backbone.std)},
            "crop": self.crop if self.crop == "none" else f"{self.crop} {backbone.image_size}",
            "label_space": self.label_space,
            "precision": self.precision,
            "scored_logits": method_spec(self.method).scores_of(self.method_settings()),
        } | ({} if stream.rounds == "once" else {"rounds": self.rounds})

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


def _images_per_visit(benchmark: BenchmarkSpec, stream: StreamSpec, rounds: Any) -> int:
    """Images of a domain that one segment may take.

    Raises:
        InputError: if there are more rounds than images to share among them.
    """
    images = benchmark.images_per_domain
    if stream.rounds != "split" or not isinstance(rounds, int) or rounds < 1:
        return images
    if rounds > images:
        raise InputError(
            f"rounds = {rounds}, but each domain of {benchmark.name} has {images} images: give at most that"
        )
    return images // rounds


def _too_many_samples(config: RunConfig, benchmark: BenchmarkSpec, stream: StreamSpec) -> InputError:
    given = f"samples_per_domain = {config.samples_per_domain}, but"
    has = f"each domain of {benchmark.name} has {benchmark.images_per_domain} images"
    if stream.rounds == "split":
        most = _images_per_visit(benchmark, stream, config.rounds)
        return InputError(
            f"{given} {has}, and {config.rounds} rounds of {config.stream!r} share them: give at most {most}, fewer "
            "rounds, or stream: recurring-same"
        )
    return InputError(f"{given} {has}: give at most that, or leave it out to use all")


def _resolve_domains(given: Any, benchmark: BenchmarkSpec) -> tuple[str, ...]:
    known = (*benchmark.domains, *benchmark.held_out_domains, CLEAN)
    if isinstance(given, str):
        if given in DOMAIN_SETS:
            sets = {"reported": benchmark.domains, "held-out": benchmark.held_out_domains} | ORDERS
            return sets[given]
        given = [given]
    names = tuple(str(name) for name in given)
    for name in names:
        if name not in known:
            raise unknown_name(f"domain of {benchmark.name}", name, (*known, *DOMAIN_SETS))
    if len(set(names)) != len(names):
        raise InputError(f"domains = {list(names)}: a domain is named twice; name each once")
    return names
