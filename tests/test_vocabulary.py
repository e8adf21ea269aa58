"""The words of the contract are the same on both sides: `tta_core` and `grid` write them, `analysis` reads them.

Quantities of diagnostics are compared in `tests/tta_core/diagnostics/test_quantities.py`.
"""

from dataclasses import fields
from typing import get_args

import pytest

from analysis import schema, vocabulary
from analysis.diagnosis.measurements import Place
from analysis.diagnosis.tables import PUBLISHED_AGREEMENT
from grid.store.store import CellState
from tta_core.data.benchmarks import CLEAN
from tta_core.diagnostics import shifts
from tta_core.diagnostics.observer import Measurement
from tta_core.methods.registry import methods
from tta_core.methods.spec import NEEDS, Scored
from tta_core.run.config import RunConfig
from tta_core.streams.spec import StreamSpec


def test_names() -> None:
    assert vocabulary.SOURCE in methods()
    assert shifts.SOURCE == vocabulary.SOURCE
    assert vocabulary.CLEAN == CLEAN
    assert set(PUBLISHED_AGREEMENT) <= set(methods())


def test_needs() -> None:
    assert tuple(NEEDS) == vocabulary.NEEDS
    assert not any(schema.NEEDS_SEPARATOR in need for need in NEEDS)


def test_scored_logits() -> None:
    assert tuple(vocabulary.SCORED) == get_args(Scored)


@pytest.mark.parametrize("stream", ["mixed", "continual"])
def test_entries_of_a_protocol(stream) -> None:
    protocol = RunConfig.from_values({"method": "tent", "stream": stream}).protocol()
    named = {vocabulary.SCORED_LOGITS, vocabulary.DOMAINS, vocabulary.RESET, *vocabulary.PROTOCOL_HEAD}
    assert named <= protocol.keys()
    assert any(name.startswith(vocabulary.STREAM_ORDER) for name in protocol)
    assert vocabulary.NEVER_RESET in get_args(StreamSpec.model_fields["reset"].annotation)


def test_scalars_that_are_read_by_name() -> None:
    recorded = {name for spec in methods().values() for name in spec.scalars}
    assert {*vocabulary.EVENTS, *vocabulary.TELLING} <= recorded


def test_states_of_a_cell() -> None:
    assert get_args(CellState) == (schema.DONE, schema.FAILED)


def test_places_of_a_measurement() -> None:
    assert {"cell", *(field.name for field in fields(Measurement))} == set(schema.DIAGNOSTICS.names)
    assert set(get_args(Place)) <= set(schema.DIAGNOSTICS.names)
