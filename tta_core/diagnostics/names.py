"""The observers by name: what `diagnostics` of a cell may hold. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tta_core.errors import InputError, unknown_name


@dataclass(frozen=True)
class ObserverSpec:
    """An observer, described without importing it.

    Attributes:
        name: name in a cell's `diagnostics`; also the module in `tta_core/diagnostics`.
        title: one line for people.
        implementation: name of the class in that module.
        in_auto: whether `auto` includes it: only what costs next to nothing.
    """

    name: str
    title: str
    implementation: str
    in_auto: bool = False


OBSERVERS: Mapping[str, ObserverSpec] = {
    row.name: row
    for row in (
        ObserverSpec("activations", "hidden activations, kept energy, routing and gates of MoASE", "Activations"),
        ObserverSpec("alignment", "spread of inputs along the source weights' singular vectors", "Alignment"),
        ObserverSpec("code", "how far spectral codes move, and where to in each domain", "Code", in_auto=True),
        ObserverSpec("displacement", "whether domains move the parameters in one direction", "Displacement"),
        ObserverSpec("experts", "similarity of the experts over time and depth", "Experts", in_auto=True),
        ObserverSpec("features", "divergence between domains and scatter within classes before the head", "Features"),
        ObserverSpec("forgetting", "frozen accuracy on clean images and on earlier domains", "Forgetting"),
        ObserverSpec("routing", "which expert serves which domain, balance and collapse", "Routing", in_auto=True),
        ObserverSpec("shifts", "detected against true domain changes, bank and retrieval", "Shifts", in_auto=True),
    )
}

SETS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(OBSERVERS),
    "auto": tuple(name for name, row in OBSERVERS.items() if row.in_auto),
    "none": (),
}
"""Names that stand for several observers."""


def resolve_observers(given: Any) -> tuple[str, ...]:
    """The observers that `diagnostics` asks for, sorted.

    Args:
        given: the name of an observer or of a set in `SETS`, or a list of such names.

    Raises:
        InputError: for anything else.
    """
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise InputError(f"diagnostics = {given!r}: give auto, none, all, or a list such as [routing, forgetting]")
    chosen: set[str] = set()
    for name in map(str, names):
        if name not in OBSERVERS and name not in SETS:
            raise unknown_name("name in diagnostics", name, (*OBSERVERS, *SETS))
        chosen.update(SETS.get(name, (name,)))
    return tuple(sorted(chosen))
