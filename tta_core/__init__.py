"""Test-time adaptation of one network on one stream: methods, backbones, benchmarks and the online loop.

The public entry points are imported on first use, so that planning a sweep imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_core.methods.base import Method
    from tta_core.methods.registry import build_method
    from tta_core.run.cell import RunResult, run
    from tta_core.run.config import RunConfig

__all__ = ["Method", "RunConfig", "RunResult", "build_method", "run"]

_HOMES = {
    "Method": "tta_core.methods.base",
    "RunConfig": "tta_core.run.config",
    "RunResult": "tta_core.run.cell",
    "build_method": "tta_core.methods.registry",
    "run": "tta_core.run.cell",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
