"""What `tta-grid list` shows. Imports no torch, ray, mlflow or optuna."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from grid.plan.backbones import normalisation_text
from grid.plan.sweep import shipped_sweeps
from tta_core.backbones.spec import BackboneSpec, NetworkKind
from tta_core.backbones.table import BACKBONES
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.data.crops import crop_text
from tta_core.diagnostics.names import OBSERVERS
from tta_core.errors import unknown_name
from tta_core.methods.registry import methods
from tta_core.methods.spec import NEEDS, MethodSpec
from tta_core.streams.order import STREAMS

Row = dict[str, Any]


def listing(kind: str, names: Sequence[str] = ()) -> list[Row]:
    """One row for each method, backbone, benchmark, stream, shipped sweep or observer; or for those of some names.

    Raises:
        InputError: if there is none of a name.
    """
    rows = {row["name"]: row for row in _rows(kind)}
    for name in names:
        if name not in rows:
            raise unknown_name(kind.removesuffix("s"), name, tuple(rows))
    return [rows[name] for name in names or rows]


def _rows(kind: str) -> list[Row]:
    if kind == "methods":
        return [_method_row(spec) for spec in methods().values()]
    if kind == "sweeps":
        return shipped_sweeps()
    if kind == "diagnostics":
        return [{"name": row.name, "title": row.title, "in_auto": row.in_auto} for row in OBSERVERS.values()]
    tables: Mapping[str, Mapping[str, Any]] = {"backbones": BACKBONES, "benchmarks": BENCHMARKS, "streams": STREAMS}
    return [row.model_dump(mode="json") for row in tables[kind].values()]


def _method_row(spec: MethodSpec) -> Row:
    """What a method is, and by preset what decides whether its numbers may stand beside those of others."""
    presets = {name: spec.resolve(name, {}) for name in spec.preset_names()}
    return {
        "name": spec.name,
        "title": spec.title,
        "paper": spec.paper,
        "changes": spec.changes,
        "network": _NETWORKS.get(spec.network, spec.network),
        "needs": {need: what for need, what in NEEDS.items() if need in spec.needs},
        "needs_by_preset": {name: list(spec.needs_of(settings)) for name, settings in presets.items()},
        "prepares": spec.preparation.artefact if spec.preparation else None,
        "scored_logits": {name: spec.scores_of(settings) for name, settings in presets.items()},
        "checked": checked(spec),
        "tables": dict(spec.tables),
        "presets": list(presets),
        "settings": spec.settings().model_dump(mode="json"),
        "search": {name: space.model_dump(mode="json") for name, space in spec.search.items()},
    }


def checked(spec: MethodSpec) -> str:
    """How a method was checked, for people."""
    return f"traces of {', '.join(spec.traces)}" if spec.traces else "slow reference in its tests"


_NETWORKS: Mapping[NetworkKind, str] = {
    "any": "any with the layers that it adapts",
    "transformer": "timm's VisionTransformer",
    "batch-norm": "one with BatchNorm",
}
"""Which networks a method takes, for people."""


def _method_text(row: Row) -> Row:
    """The entries of `_method_row` that are not shown as they are."""
    needed = [", ".join(needs) or "nothing" for needs in row["needs_by_preset"].values()]
    needs = "; ".join(f"{need} ({what})" for need, what in row["needs"].items()) or "nothing beyond the stream"
    if len(set(needed)) > 1:
        needs += f"; with {_by_value(dict(zip(row['presets'], needed, strict=True)))}"
    return row | {
        "needs": needs,
        "prepares": row["prepares"] or "nothing",
        "tables": "; ".join(f"{preset}: {table}" for preset, table in row["tables"].items()) or "none",
        "scored_logits": _by_value(row["scored_logits"]),
    }


def _by_value(by_preset: Mapping[str, str]) -> str:
    """What presets give: the value alone if all give the same, else each value with its presets."""
    presets: dict[str, list[str]] = {}
    for preset, value in by_preset.items():
        presets.setdefault(value, []).append(preset)
    if len(presets) == 1:
        return next(iter(presets))
    return ", ".join(f"{'/'.join(names)}: {value}" for value, names in presets.items())


def _backbone_text(row: Row) -> Row:
    """The entries of a backbone, for people."""
    spec = BACKBONES[row["name"]]
    own = spec.own_crop()
    source, _, name = spec.source.partition(":")
    head = f"; text head {spec.text.model} ({spec.text.weights}) of open_clip" if spec.text else ""
    options = f" with {', '.join(f'{key}={value}' for key, value in spec.options.items())}" if spec.options else ""
    return {
        "title": spec.title,
        "pretraining": spec.pretraining,
        "classes": f"{spec.num_classes} of {spec.classes}",
        "input": f"{spec.image_size}x{spec.image_size}, {normalisation_text(spec.mean, spec.std)}",
        "own crop": crop_text(own, spec.image_size) if own else "none",
        "clean accuracy": _clean_accuracy(spec),
        "network": ", ".join(spec.kinds) or "neither transformer nor batch-norm",
        "weights": {
            "embedded": f"shipped: {spec.weights}, sha256 {spec.sha256}",
            "timm": f"{spec.weights}, from a file or hf.co/timm/{name}{head}",
            "file": f"{spec.weights}, from a file of your own, for timm's {name}{options}",
        }[source],
    }


def _benchmark_text(row: Row) -> Row:
    """The entries of a benchmark, for people."""
    spec = BENCHMARKS[row["name"]]
    counts = {domain: spec.count(domain) for domain in (*spec.domains, *spec.held_out_domains)}
    alike = {counts[domain] for domain in spec.domains}
    map_ = [f"{folder} {number}" for folder, number in zip(spec.class_names, spec.class_numbers, strict=False)]
    return {
        "title": spec.title,
        "classes": f"{spec.num_classes} of {spec.classes}",
        "label space": " or ".join(spec.label_spaces),
        "label map": ", ".join(map_) or "class folders or labels in order: 0 to the last",
        "domains": ", ".join(spec.domains),
        "held out": ", ".join(spec.held_out_domains) or "none",
        "images": f"{spec.images_per_domain:,} in each domain"
        if len(alike) == 1 and spec.images_per_domain in alike
        else ", ".join(f"{domain} {counts[domain]:,}" for domain in spec.domains),
        "severities": ", ".join(map(str, spec.severities)) or "none",
        "transforms": " or ".join(row["crops"]),
        "files": spec.files,
        "source": spec.source,
        "size": spec.size,
        "licence": spec.licence,
        "expected": spec.expected or "not stated",
    }


def _clean_accuracy(spec: BackboneSpec) -> str:
    """What sources state, and under which transform."""
    if spec.clean_accuracy is None:
        return "not stated"
    crop = " with its own crop" if spec.crop_pct else ""
    stated = f"{100 * spec.clean_accuracy:.2f} %{crop} ({spec.accuracy_source})"
    if spec.protocol_accuracy is None:
        return stated
    return f"{stated}; {100 * spec.protocol_accuracy:.1f} % with crop: resize-center"


_SHOWN = {
    "methods": (
        *("title", "changes", "network", "needs", "prepares", "scored_logits"),
        *("presets", "tables", "checked", "settings", "paper"),
    ),
    "backbones": ("title", "pretraining", "classes", "input", "own crop", "clean accuracy", "network", "weights"),
    "benchmarks": (
        *("title", "classes", "label space", "label map", "domains", "held out", "images", "severities"),
        *("transforms", "files", "source", "size", "licence", "expected"),
    ),
    "streams": ("title", "reset", "needs", "settings"),
    "sweeps": ("description", "protocols"),
    "diagnostics": ("title", "in_auto"),
}


def listing_text(kind: str, names: Sequence[str] = ()) -> str:
    """The rows for people: a name, and what belongs to it below; on a terminal no line is longer than it is wide.

    Args:
        kind: as in `listing`.
        names: of which rows; all if none is given. Label maps are cut short unless a row is asked for.
    """
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    told = {"methods": _method_text, "backbones": _backbone_text, "benchmarks": _benchmark_text}.get(kind, dict)
    blocks = []
    for row in listing(kind, names):
        texts = told(row)
        if "label map" in texts and not names:
            texts["label map"] = textwrap.shorten(
                texts["label map"], 80, placeholder=f" ...: list {kind} {row['name']}"
            )
        lines = [f"  {key:<18}{_plain(texts[key])}" for key in _SHOWN[kind]]
        blocks.append("\n".join([row["name"], *(_wrapped(line, wide) for line in lines)]))
    return "\n\n".join(blocks)


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(
        line, max(width, 60), subsequent_indent=" " * 20, break_long_words=False, break_on_hyphens=False
    )


def _plain(value: Any) -> str:
    if value is None:
        return "not stated"
    if value == "":
        return "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
