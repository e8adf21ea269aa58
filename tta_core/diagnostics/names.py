"""The observers by name: what `diagnostics` of a cell may hold. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tta_core.data.spec import Task
from tta_core.errors import InputError, unknown_name


@dataclass(frozen=True)
class ObserverSpec:
    """An observer, described without importing it.

    Attributes:
        name: name in a cell's `diagnostics`; also the module in `tta_core/diagnostics`.
        title: one line for people.
        implementation: name of the class in that module.
        quantities: every quantity that it can measure.
        reads_clean: whether it reads clean images, which must then be there.
        in_auto: whether `auto` includes it: only what costs next to nothing.
        tasks: the tasks that it can measure in.
        in_all: whether `all` includes it: neither rows of every class nor files.
    """

    name: str
    title: str
    implementation: str
    quantities: tuple[str, ...]
    reads_clean: bool = False
    in_auto: bool = False
    tasks: tuple[Task, ...] = ("classification",)
    in_all: bool = True


OBSERVERS: Mapping[str, ObserverSpec] = {
    row.name: row
    for row in (
        ObserverSpec(
            "activations",
            "hidden activations, kept energy, routing and gates of MoASE",
            "Activations",
            ("hidden_histogram", "hidden_zero_share", "router_weight", "kept_energy", "kept_energy_alarm", "gate_mean"),
        ),
        ObserverSpec(
            "alignment",
            "spread of inputs along the source weights' singular vectors",
            "Alignment",
            ("alignment_std", "alignment_std_q10", "alignment_std_q50", "alignment_std_q90", "alignment_std_source"),
            reads_clean=True,
        ),
        ObserverSpec(
            "code",
            "how far spectral codes move, and where to in each domain",
            "Code",
            ("code_drift", "code_change", "code_similarity"),
            in_auto=True,
        ),
        ObserverSpec(
            "displacement",
            "whether domains move the parameters in one direction",
            "Displacement",
            ("displacement_norm", "displacement_cosine", "displacement_cosine_mean", "displacement_cosine_min"),
        ),
        ObserverSpec(
            "experts",
            "similarity of the experts over time and depth",
            "Experts",
            ("expert_similarity_weight", "expert_similarity_bias"),
            in_auto=True,
        ),
        ObserverSpec(
            "features",
            "divergence between domains and scatter within classes before the head",
            "Features",
            ("js_divergence", "intra_class_scatter"),
        ),
        ObserverSpec(
            "forgetting",
            "frozen accuracy on clean images and on earlier domains",
            "Forgetting",
            ("forgetting_accuracy", "forgetting_clean_drop", "backward_transfer"),
            reads_clean=True,
            tasks=("classification", "segmentation"),
        ),
        ObserverSpec(
            "outputs",
            "probabilities, for rules that choose settings without labels",
            "OutputsKept",
            (),
            in_all=False,
        ),
        ObserverSpec(
            "pictures",
            "of segmentation: input, label, source, adapted and difference of a few images",
            "Pictures",
            (),
            tasks=("segmentation",),
            in_all=False,
        ),
        ObserverSpec(
            "routing",
            "which expert serves which domain, balance and collapse",
            "Routing",
            (
                *("routing", "routing_information", "routing_entropy", "routing_collapse"),
                *("routing_change", "load_balance", "top1_probability"),
            ),
            in_auto=True,
        ),
        ObserverSpec(
            "shifts",
            "detected against true domain changes, bank and retrieval",
            "Shifts",
            ("shift_precision", "shift_recall", "shift_f1", "shift_tail_triggers", "bank_size", "retrieval"),
            in_auto=True,
        ),
    )
}

SETS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(name for name, row in OBSERVERS.items() if row.in_all),
    "auto": tuple(name for name, row in OBSERVERS.items() if row.in_auto),
    "none": (),
}
"""Names that stand for several observers."""


def resolve_observers(given: Any, task: Task = "classification") -> tuple[str, ...]:
    """The observers that `diagnostics` asks for, sorted.

    Args:
        given: the name of an observer or of a set in `SETS`, or a list of such names.
        task: what is predicted; sets are of the observers that can measure it.

    Raises:
        InputError: for anything else.
    """
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise InputError(f"diagnostics = {given!r}: give auto, none, all, or a list such as [routing, forgetting]")
    known = (*OBSERVERS, *SETS)
    chosen: set[str] = set()
    for name in names:
        if name not in known:
            raise unknown_name("name in diagnostics", name, known)
        if name in OBSERVERS and task not in OBSERVERS[name].tasks:
            fitting = [row.name for row in OBSERVERS.values() if task in row.tasks]
            raise InputError(
                f"diagnostics: {name} does not measure {task}: leave it out; these do: {', '.join(fitting)}"
            )
        chosen.update(one for one in SETS.get(name, (name,)) if task in OBSERVERS[one].tasks)
    return tuple(sorted(chosen))
