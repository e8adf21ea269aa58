"""The diagnostics of a section: alarms, an overview, and one block of figures and tables for each analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from analysis.diagnosis import curves, maps, tables
from analysis.diagnosis.alarms import alarmed, alarms, watched
from analysis.diagnosis.blocks import MOST_MAPS, MOST_MATRICES, Block, choose_series
from analysis.diagnosis.curves import Shown
from analysis.diagnosis.measurements import Measurements
from analysis.diagnosis.overview import OVERVIEW_NOTE, overview_tables
from analysis.figures.drawings import Drawing, panel_drawing
from analysis.figures.panels import Panel
from analysis.figures.style import MOST_LINES
from analysis.figures.table import Table, markdown
from analysis.results.configurations import Section
from analysis.texts import printable
from analysis.vocabulary import NEVER_RESET, RESET, SOURCE, Quantity


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was measured in one section.

    Attributes:
        alarms: what went wrong, in sentences.
        rules: when there is an alarm, for those that were watched.
        choice: which configurations the figures show; empty if they show all.
        overview: one row a configuration, in groups of figures.
        blocks: one for each analysis that measured anything.
    """

    alarms: tuple[str, ...]
    rules: tuple[str, ...]
    choice: str
    overview: tuple[Table, ...]
    blocks: tuple[Block, ...]


def diagnose(con: duckdb.DuckDBPyConnection, section: Section, borders: Sequence[int] = ()) -> Diagnosis | None:
    """The diagnostics of a section; None if nothing was measured.

    Args:
        con: connection from `open_results`.
        section: the configurations.
        borders: positions in the stream at which the domain changes, to mark in the figures.
    """
    measured = Measurements(con, section)
    numbers = measured.all_numbers()
    series = choose_series(section, numbers, alarmed(measured))
    blocks = [
        curves.stream_block(measured, series, borders),
        curves.similarity_block(measured, series, borders),
        _routing(measured, series),
        curves.alignment_block(measured, series, borders),
        _codes(measured, series, borders),
        _shifts(measured),
        _activations(measured),
        _features(measured),
        _agreement(measured, series),
        _forgetting(measured, series, borders),
    ]
    kept = tuple(block for block in blocks if block is not None)
    if not kept:
        return None
    return Diagnosis(
        alarms=tuple(alarms(measured)),
        rules=tuple(watched(measured)),
        choice=_choice(section, numbers),
        overview=overview_tables(measured),
        blocks=kept,
    )


def diagnosis_markdown(con: duckdb.DuckDBPyConnection, section: Section) -> list[str]:
    """Alarms and overview as Markdown under a heading; empty if nothing was measured."""
    measured = Measurements(con, section)
    overview, raised = overview_tables(measured), alarms(measured)
    if not overview:
        return []
    listed = "\n".join(f"- **{printable(sentence)}**" for sentence in raised)
    grouped = [f"{each.caption}:\n\n{markdown(each)}" for each in overview]
    return ["### Diagnostics", *([listed] if listed else []), *grouped, OVERVIEW_NOTE]


def _routing(measured: Measurements, series: Shown) -> Block | None:
    drawings = maps.routing_drawings(measured)
    lead = (
        "Where the samples of each domain go, in per cent of the domain, in the first, the middle and the last layer "
        "that routes. One seed is shown, because expert 3 of one seed has nothing to do with expert 3 of another. If "
        "all domains are routed alike, the mutual information of domain and expert is near 0."
    )
    drawings += _panels(curves.routing_panels(measured, series), series)
    return _block("Routing", lead, drawings, [tables.routing_table(measured)])


def _codes(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    drawings = _panels(curves.drift_panels(measured, series, borders), series)
    matrices = maps.cosine_drawings(measured, Quantity.CODE_SIMILARITY)
    lead = "Drift: summed absolute change of the singular values of a layer, divided by their sum."
    lead += " Matrices: cosine between the changes that two domains made. Means over seeds." if matrices else ""
    return _block("Spectral codes", lead, [*drawings, *matrices], [tables.changed_codes_table(measured)])


def _shifts(measured: Measurements) -> Block | None:
    drawings = maps.retrieval_drawings(measured)
    lead = "A detection is right if a true change of domain lies at most the tolerance away from it, earlier or later."
    if drawings:
        lead += (
            " Heat maps: what was fetched from the bank. Rows are true domains, columns the domains in which entries "
            "were stored. A cell is the mean weight of these entries in per cent, over all retrievals and seeds."
        )
    return _block("Shift detection and retrieval", lead, drawings, [tables.detection_table(measured)])


def _activations(measured: Measurements) -> Block | None:
    histograms = maps.histogram_drawings(measured)
    layers = maps.layer_drawings(
        measured, {Quantity.KEPT_ENERGY: "kept energy (%)", Quantity.GATE_MEAN: "mean of the gate (%)"}
    )
    lead = "Means over seeds."
    if histograms:
        lead += (
            " Histograms: hidden activations before selection, of the best configuration that has them; at the right "
            "the share that is exactly 0."
        )
    lead += " Kept energy: what selection leaves of an expert's squared activations, at the end." if layers else ""
    drawings = [*histograms, *layers, *maps.router_weight_drawings(measured)]
    return _block("Hidden activations and experts", lead, drawings)


def _features(measured: Measurements) -> Block | None:
    scatter = tables.domain_table(measured, Quantity.CLASS_SCATTER)
    divergence = tables.domain_table(measured, Quantity.JS_DIVERGENCE)
    lead = (
        "Features are what enters the head. Scatter: their mean squared distance to the centroid of their true class. "
        "Divergence: how far the mean softmax of the features differs between neighbouring domains (Jensen-Shannon, in "
        "nat; 0: equal; at most 0.69). Means over seeds."
    )
    folded = [scatter.titled("Scatter within classes"), divergence.titled("Divergence between neighbouring domains")]
    return _block("Features by domain", lead, folded=folded)


def _agreement(measured: Measurements, series: Shown) -> Block | None:
    matrices = maps.cosine_drawings(measured, Quantity.DISPLACEMENT_COSINE)
    lead = (
        "Cosine between the displacements of the adapted parameters that two domains cause. 1: one direction serves "
        "both; 0: they have nothing in common. Means over seeds."
    )
    if measured.section.protocol.get(RESET) == NEVER_RESET:
        lead += (
            " This stream never resets the method, so each domain starts where the one before left the parameters; the "
            "published protocol starts each from the source."
        )
    drawings = [*matrices, *_panels(curves.displacement_panels(measured, series), series)]
    norms = tables.domain_table(measured, Quantity.DISPLACEMENT_NORM).titled("Length of the displacement")
    return _block("Agreement between domains", lead, drawings, [tables.agreement_table(measured)], [norms])


def _forgetting(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    drawings = _panels(curves.clean_panels(measured, series, borders), series)
    matrices = maps.forgetting_drawings(measured)
    lead = "The network as it is at that moment, frozen, on fixed clean images. Means over seeds."
    if matrices:
        lead += " Matrices: the same on images of each domain (columns) at the end of each domain (rows), in per cent."
    return _block("Forgetting", lead, [*drawings, *matrices], [tables.forgetting_table(measured)])


def _panels(panels: Sequence[Panel], series: Shown) -> list[Drawing]:
    return [panel_drawing(panels, series)] if panels else []


def _choice(section: Section, numbers: Sequence[int]) -> str:
    adapting = [number for number in numbers if section.configurations[number].method != SOURCE]
    if len(adapting) <= MOST_MAPS:
        return ""
    shown = f"at most {MOST_MATRICES} as heat maps"
    if len(adapting) > MOST_LINES:
        shown = f"{MOST_LINES} as curves and {shown}"
    return (
        f"Of {len(adapting)} configurations the figures show {shown}: the most accurate one of each method, then those "
        "with an alarm, then the next most accurate. Alarms and tables are of all."
    )


def _block(
    title: str, lead: str, drawings: Sequence[Drawing] = (), listed: Sequence[Table] = (), folded: Sequence[Table] = ()
) -> Block | None:
    """A block of what is there; None if nothing is."""
    filled = tuple(table for table in listed if table.rows)
    hidden = tuple(table for table in folded if table.rows)
    return Block(title, lead, tuple(drawings), filled, hidden) if drawings or filled or hidden else None
