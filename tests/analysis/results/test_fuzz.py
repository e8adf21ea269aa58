"""Result files that were cut short or changed: an answer, or one message."""

from __future__ import annotations

import shutil
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from analysis.report.leaderboard import leaderboard_markdown
from analysis.results.checks import check_results
from analysis.results.damage import inspect
from analysis.results.load import ResultsError, open_results
from analysis.results.query import query_results

FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


def read_all(folder) -> None:
    con = open_results(folder)
    leaderboard_markdown(con)
    check_results(con)
    for view in ("cells", "batches", "samples", "diagnostics"):
        query_results(folder, f"from {view}")


changes = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
    st.tuples(st.just("flip"), st.floats(0.5, 1, exclude_max=True), st.integers(0, 7)),
    st.tuples(st.just("garbage"), st.binary(max_size=30), st.just(0)),
)


@FUZZ
@given(st.sampled_from(["cell", "batches", "samples", "diagnostics"]), changes)
def test_damaged_parquet_is_answered_or_refused(results, name, change) -> None:
    kind, where, bit = change
    folder = results.folder / "cells" / "tent-mixed-0"
    if not folder.exists():
        results.add("source", hits=(1, 0) * 4)
        results.add("tent", hits=(1, 0) * 4, scalars={"threshold": [0.5, 0.25]}, usage={"a": [0.5, 0.5]})
        shutil.copytree(folder, results.folder / "kept")
    content = (results.folder / "kept" / f"{name}.parquet").read_bytes()
    changed = bytearray(where if kind == "garbage" else content)
    if kind == "cut":
        del changed[int(where * len(changed)) :]
    elif kind == "flip":
        changed[int(where * len(changed))] ^= 1 << bit
    (folder / f"{name}.parquet").write_bytes(changed)
    with suppress(ResultsError):
        read_all(results.folder)
    inspect(results.folder, thorough=True)
    (folder / f"{name}.parquet").write_bytes(content)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"store": "a", "layout": 2}', '{"layout": "1"}', "\xff"])
def test_a_store_file_that_is_not_ours_is_refused(results, text) -> None:
    (results.folder / "store.json").write_text(text, encoding="latin-1")
    with pytest.raises(ResultsError, match=r"store\.json"):
        open_results(results.folder)
