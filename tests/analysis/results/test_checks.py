from __future__ import annotations

import json
import math
import shutil

import pytest

from analysis.results.checks import CHECKS, check_results
from analysis.results.load import open_results

UNIQUE, FINITE, COMPLETE, RECOUNT, ORDER, SEEDS, FILES = CHECKS


def _problems(results) -> list[tuple[str, str]]:
    return [(each.check, each.message) for each in check_results(open_results(results.folder))]


def test_good_results_have_no_problem(quickstart) -> None:
    assert _problems(quickstart) == []


def test_empty_results_have_no_problem(results) -> None:
    assert _problems(results) == []


def test_copied_folder(results) -> None:
    target = results.add("source")
    shutil.copytree(target, target.with_name("copy"))
    found = _problems(results)
    assert (UNIQUE, "cell source-mixed-0 is there 2 times: delete the copies of its folder, or its samples are counted "
            "twice") in found  # fmt: skip
    assert {check for check, _ in found} == {UNIQUE, COMPLETE}


def test_same_seed_twice(results) -> None:
    results.add("tent", cell="old", folder="old", settings={"lr": 1, "top": 2})
    results.add("tent", cell="new", folder="new", settings={"lr": 1, "top": 2})
    message = "tent with the same settings and seed 0 was run as old, new: the newest is used"
    assert _problems(results) == [(UNIQUE, message)]


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, 1.5, -0.1, None])
def test_accuracy_that_is_none(results, accuracy) -> None:
    results.add("tent", accuracy=accuracy)
    assert FINITE in {check for check, _ in _problems(results)}


def test_missing_and_repeated_samples(results) -> None:
    results.add("source", hits=(1, 0), n_samples=3)
    results.add("tent", hits=(1, 0), positions=(0, 0))
    results.add("sar", hits=(1, 0), positions=(1, 2))
    (results.add("eata") / "samples.parquet").unlink()
    assert _problems(results) == [
        (COMPLETE, "cell eata-mixed-0: 2 samples in the stream, but none are stored"),
        (COMPLETE, "cell sar-mixed-0: 2 samples in the stream, but 2 rows with 2 positions from 1 to 2"),
        (COMPLETE, "cell source-mixed-0: 3 samples in the stream, but 2 rows with 2 positions from 0 to 1"),
        (COMPLETE, "cell tent-mixed-0: 2 samples in the stream, but 2 rows with 1 positions from 0 to 0"),
        (
            FILES,
            "cells/eata-mixed-0: samples.parquet is missing; tta-grid check DIR --repair moves it away, and the next "
            "run makes it anew",
        ),
    ]


def test_recount(results) -> None:
    results.add("source", hits=(1, 0), accuracy=0.5 + 1e-9)
    results.add("tent", hits=(1, 0), accuracy=0.75)
    message = "cell tent-mixed-0: accuracy 0.750000 is stored, but its samples give 0.500000"
    assert _problems(results) == [(RECOUNT, message)]


def test_stream_orders(results) -> None:
    results.add("source", 0)
    results.add("tent", 0, stream_order="other")
    results.add("tent", 1)
    results.add("source", 1)
    found = _problems(results)
    assert [check for check, _ in found] == [ORDER]
    assert "print-mixed, seed 0: 2 stream orders (order-mixed-0, other)" in found[0][1]


def test_seeds(results) -> None:
    results.add("source", 0)
    results.add("source", 1)
    results.add("source", 2)
    results.add("tent", 0)
    results.fail("tent", 1, protocol=json.dumps({"stream": "mixed"}))
    assert _problems(results) == [(SEEDS, "tent: no result with seed 1 (failed), 2; seeds here are 0, 1, 2")]


def test_skipped_images_are_told_and_their_positions_are_not_missed(results):
    results.add("tent", hits=[1, 0, 1], positions=[0, 2, 3], n_samples=4, skipped_images=1)
    (problem,) = [each for each in check_results(open_results(results.folder)) if each.check == COMPLETE]
    assert problem.message.startswith("cell tent-mixed-0: 1 of 4 images are damaged and were skipped")
    results.add("tent", 1, hits=[1, 0], positions=[0, 2], n_samples=4, skipped_images=1)
    messages = [each.message for each in check_results(open_results(results.folder)) if each.check == COMPLETE]
    assert "cell tent-mixed-1: 3 samples in the stream without 1 that were skipped, but 2 rows" in messages[0]
