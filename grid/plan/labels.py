"""Short texts that tell the cells of a sweep apart. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from tta_core.run.config import RunConfig

FIELDS = tuple(name for name in RunConfig.model_fields if name not in ("method", "settings", "weights", "seed"))
"""Fields of a cell whose values are shown as they are, in the order of labels."""


def cell_labels(cells: Mapping[str, RunConfig]) -> dict[str, str]:
    """For each cell its method and whatever varies in the sweep: its method's settings, other fields, the seed."""
    configs = cells.values()
    settings = _varying_settings(configs)
    fields = [name for name in FIELDS if len(set(map(_text, set(map(attrgetter(name), configs))))) > 1]
    weights = len({_weights(one) for one in configs}) > 1
    seeds = len({one.seed for one in configs}) > 1
    labels = {}
    for cell, config in cells.items():
        words = [config.method]
        words += [f"{shown}={_text(config.settings[name])}" for name, shown in settings[config.method]]
        words += [f"{name}={_text(getattr(config, name))}" for name in fields]
        words += [f"weights={_weights(config)}"] if weights else []
        words += [f"seed={config.seed}"] if seeds else []
        labels[cell] = " ".join(words)
    return labels


def _varying_settings(configs: Iterable[RunConfig]) -> dict[str, list[tuple[str, str]]]:
    """Method -> its settings that vary, each with the word for it: with the method's name if a field has its own."""
    seen: dict[str, dict[str, set[str]]] = {}
    # Seeds of one point share its settings.
    for config in {id(config.settings): config for config in configs}.values():
        values = seen.setdefault(config.method, {name: set() for name in config.settings})
        for name, value in config.settings.items():
            values[name].add(_text(value))
    return {
        method: [
            (name, f"{method}.{name}" if name in RunConfig.model_fields else name)
            for name, texts in values.items()
            if len(texts) > 1
        ]
        for method, values in seen.items()
    }


def _weights(config: RunConfig) -> str:
    return config.own_weights.tag() if config.own_weights else "default"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(list(value) if isinstance(value, tuple) else value)
