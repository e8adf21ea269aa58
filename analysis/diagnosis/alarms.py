"""What went wrong inside the networks, in plain words."""

from __future__ import annotations

from analysis.diagnosis.measurements import Measurements
from analysis.texts import join_words
from analysis.vocabulary import Quantity

MOST_LAYERS = 4
"""So many layers are named in one alarm; of more, only the number is given."""

ALARMS = {
    Quantity.ROUTING_COLLAPSE: (
        "Routing collapsed",
        "Routing has collapsed in a layer if the entropy of the use of its experts is below half of the largest "
        "possible one, or if one expert serves more than half of the samples (of nine experts; with fewer the limit is "
        "higher).",
    ),
    Quantity.KEPT_ENERGY_ALARM: (
        "An expert keeps less than 1 % of the energy of its hidden activations",
        "Kept energy is what selection leaves of the squared activations; an expert that keeps less than 1 % says next "
        "to nothing.",
    ),
}
"""Quantity that is 1 for an alarm -> what has happened, and the rule."""


def watched(measured: Measurements) -> list[str]:
    """The rules of the alarms that were watched in any configuration."""
    return [rule for quantity, (_, rule) in ALARMS.items() if quantity in measured.quantities]


def alarmed(measured: Measurements) -> set[int]:
    """The configurations for which an alarm was raised."""
    found = measured.query(
        "select distinct number from measured where quantity in (select unnest($quantities)) and value > 0",
        quantities=list(ALARMS),
    )
    return {number for (number,) in found}


def alarms(measured: Measurements) -> list[str]:
    """One sentence for each configuration and kind of alarm that was raised, best configuration first."""
    said = []
    for quantity, (what, _) in ALARMS.items():
        found = measured.query(
            """
            with each_layer as (
                select number, layer, max(value) > 0 as raised from measured where quantity = $quantity group by all
            ), seeds as (
                select number, count(distinct seed) as seeds, count(distinct seed) filter (where value > 0) as raised_in
                from measured where quantity = $quantity group by number
            )
            select number, count(*), list(layer) filter (where raised), any_value(seeds), any_value(raised_in)
            from each_layer join seeds using (number) group by number having bool_or(raised) order by number
            """,
            quantity=quantity,
        )
        for number, layers, raised, seeds, raised_in in found:
            label = measured.label(number)
            where = f"in {len(raised)} of {layers} layers of {label}" if layers > 1 else f"in the one layer of {label}"
            with_seeds = f", with {raised_in} of {seeds} seeds" if seeds > 1 else ""
            named = f": {join_words(measured.ordered('layer', raised))}" if len(raised) <= MOST_LAYERS else ""
            said.append(f"{what} {where}{with_seeds}{named if any(raised) else ''}.")
    return said
