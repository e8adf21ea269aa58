"""Makes the observers of a run from their names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch

from tta_core.diagnostics.names import OBSERVERS
from tta_core.diagnostics.observer import Observer, Scene


def make_observers(names: Sequence[str], scene: Scene) -> list[Observer]:
    """The observers of these names that have something to measure in the method, ready to watch.

    Args:
        names: as `tta_core.diagnostics.names.resolve_observers` gives them.
        scene: the run. The method must be built, and have seen nothing yet.
    """
    classes = [observer_class(name) for name in names]
    with torch.random.fork_rng(devices=[]):  # Building a source network draws initial values.
        return [observer(scene) for observer in classes if observer.applies_to(scene.method)]


def observer_class(name: str) -> type[Observer]:
    """Imports (with torch) and returns the class behind a name in `OBSERVERS`."""
    module = importlib.import_module(f"tta_core.diagnostics.{name}")
    implementation: type[Observer] = getattr(module, OBSERVERS[name].implementation)
    return implementation
