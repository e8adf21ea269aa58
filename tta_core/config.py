"""One resolved configuration (a cell), its id and its fingerprint. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from tta_core.data.benchmarks import CLEAN
from tta_core.errors import InputError, unknown_name
from tta_core.registry import backbone_spec, benchmark_spec, method_spec, stream_spec
from tta_core.spec import BenchmarkSpec, Frozen, validated

DOMAIN_SETS = ("reported", "held-out")


class RunConfig(Frozen):
    """Everything that can change the result of a cell, resolved and checked when it is built.

    Attributes:
        method: test-time adaptation method.
        preset: named settings to start from; after resolution only a label.
        settings: the method's settings; what is not given comes from the preset, then from the defaults.
        backbone: network and weights.
        benchmark: where the images come from.
        domains: `reported`, `held-out`, or a list of domain names; resolved to the list.
        severity: corruption strength.
        samples_per_domain: images taken from each domain; resolved to a number, by default all.
        data_seed: seed of the corruptions' own randomness; the benchmark as others see it has 0.
        stream: order in which samples arrive.
        batch_size: images in a full batch.
        seed: seed of the stream order and of the method.
        label_space: which logits are scored.
        precision: `fp32`, or `bf16` for autocast of matrix products.
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
    stream: str = "mixed"
    batch_size: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    label_space: Literal["full"] = "full"
    precision: Literal["fp32", "bf16"] = "fp32"

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
        if resolved.get("samples_per_domain") is None:
            resolved["samples_per_domain"] = benchmark.images_per_domain
        return resolved

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        benchmark, backbone = benchmark_spec(self.benchmark), backbone_spec(self.backbone)
        stream_spec(self.stream)
        if self.severity not in benchmark.severities:
            raise InputError(f"severity {self.severity} is not one of {list(benchmark.severities)} ({self.benchmark})")
        if self.samples_per_domain > benchmark.images_per_domain:
            raise InputError(
                f"samples_per_domain = {self.samples_per_domain}, but each domain of {self.benchmark} has "
                f"{benchmark.images_per_domain} images: give at most that, or leave it out to use all"
            )
        if backbone.benchmark != self.benchmark:
            raise InputError(
                f"backbone {self.backbone!r} predicts the classes of {backbone.benchmark!r}, not of "
                f"{self.benchmark!r}: choose a backbone that `tta-grid list backbones` shows for it"
            )
        return self

    def cell_id(self) -> str:
        """Method and twelve hexadecimal digits of a hash of everything that can change the result.

        The preset's name is left out (its settings are in), and so are the device and the number of workers: they are
        where a cell runs, not what it runs.
        """
        identity = self.model_dump(mode="json", exclude={"preset"}) | {
            "method_version": method_spec(self.method).version,
            "benchmark_version": benchmark_spec(self.benchmark).version,
            "weights": backbone_spec(self.backbone).weights_tag(),
        }
        return f"{self.method}-{canonical_hash(identity)}"

    def protocol(self) -> dict[str, Any]:
        """What makes results comparable: equal protocols, comparable numbers."""
        from tta_core.data.streams import stream_order

        benchmark, backbone = benchmark_spec(self.benchmark), backbone_spec(self.backbone)
        reference = stream_order(self.stream, self.domains, benchmark.images_per_domain, self.samples_per_domain, 0)
        return {
            "benchmark": f"{benchmark.name} v{benchmark.version}",
            "data_seed": self.data_seed,
            "domains": list(self.domains),
            "severity": self.severity,
            "samples_per_domain": self.samples_per_domain,
            "stream": self.stream,
            "stream_order_at_seed_0": reference.order_hash(),
            "batch_size": self.batch_size,
            "reset": stream_spec(self.stream).reset,
            "weights": backbone.weights_tag(),
            "normalisation": {"mean": list(backbone.mean), "std": list(backbone.std)},
            "crop": backbone.crop,
            "label_space": self.label_space,
            "precision": self.precision,
            "scored_logits": method_spec(self.method).scores,
        }

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


def _resolve_domains(given: Any, benchmark: BenchmarkSpec) -> tuple[str, ...]:
    known = (*benchmark.domains, *benchmark.held_out_domains, CLEAN)
    if isinstance(given, str):
        if given in DOMAIN_SETS:
            return benchmark.domains if given == "reported" else benchmark.held_out_domains
        given = [given]
    names = tuple(str(name) for name in given)
    for name in names:
        if name not in known:
            raise unknown_name(f"domain of {benchmark.name}", name, (*known, *DOMAIN_SETS))
    if len(set(names)) != len(names):
        raise InputError(f"domains = {list(names)}: a domain is named twice; name each once")
    return names
