"""Finds methods by folder, backbones, benchmarks and streams by table row. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import tta_core.methods
from tta_core.backbones import BACKBONES
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.data.streams import STREAMS
from tta_core.errors import InputError, unknown_name
from tta_core.spec import BackboneSpec, BenchmarkSpec, MethodSpec, StreamSpec

if TYPE_CHECKING:
    from tta_core.method import Method

Row = TypeVar("Row", BackboneSpec, BenchmarkSpec, StreamSpec)


@cache
def methods() -> Mapping[str, MethodSpec]:
    """All methods by name, sorted: every folder in `tta_core/methods` that holds a `spec.py` with a `SPEC`."""
    found: dict[str, MethodSpec] = {}
    for folder in sorted(module.name for module in pkgutil.iter_modules(tta_core.methods.__path__) if module.ispkg):
        if importlib.util.find_spec(f"tta_core.methods.{folder}.spec") is None:
            continue  # Half of a method, or what a branch that had it left behind.
        spec: MethodSpec = importlib.import_module(f"tta_core.methods.{folder}.spec").SPEC
        if spec.name.replace("-", "_") != folder:
            raise RuntimeError(f"the method in folder {folder!r} calls itself {spec.name!r}; make the two agree")
        found[spec.name] = spec
    return MappingProxyType(dict(sorted(found.items())))


def method_spec(name: str) -> MethodSpec:
    """Returns the description of a method, or raises `InputError` with the closest match."""
    if name not in methods():
        raise unknown_name("method", name, methods(), "See them with: tta-grid list methods")
    return methods()[name]


def method_class(name: str) -> type[Method[Any]]:
    """Imports (with torch) and returns the class that implements a method."""
    spec = method_spec(name)
    module = importlib.import_module(f"tta_core.methods.{name.replace('-', '_')}.method")
    implementation: type[Method[Any]] = getattr(module, spec.implementation)
    return implementation


def backbone_spec(name: str) -> BackboneSpec:
    """Returns the description of a backbone, or raises `InputError` with the closest match."""
    tags = sorted(
        row.name for row in BACKBONES.values() if row.source == f"timm:{row.name}" and row.name.startswith(f"{name}.")
    )
    if tags:
        raise InputError(
            f"backbone {name!r} names an architecture, whose weights differ from tag to tag: give one with its tag. "
            f"Allowed: {', '.join(tags)}. See them with: tta-grid list backbones"
        )
    return _row("backbone", BACKBONES, name)


def benchmark_spec(name: str) -> BenchmarkSpec:
    """Returns the description of a benchmark, or raises `InputError` with the closest match."""
    return _row("benchmark", BENCHMARKS, name)


def stream_spec(name: str) -> StreamSpec:
    """Returns the description of a stream, or raises `InputError` with the closest match."""
    return _row("stream", STREAMS, name)


def _row(kind: str, table: Mapping[str, Row], name: str) -> Row:
    if name not in table:
        raise unknown_name(kind, name, table, f"See them with: tta-grid list {kind}s")
    return table[name]
