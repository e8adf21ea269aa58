"""Test-time adaptation of one network on one stream: methods, backbones, benchmarks and the online loop.

The public entry points are imported on first use, so that planning a sweep imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_core.config import RunConfig
    from tta_core.method import Method, build_method
    from tta_core.runner import RunResult, run

__all__ = ["Method", "RunConfig", "RunResult", "build_method", "run"]

_HOMES = {
    "Method": "tta_core.method",
    "RunConfig": "tta_core.config",
    "RunResult": "tta_core.runner",
    "build_method": "tta_core.method",
    "run": "tta_core.runner",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
