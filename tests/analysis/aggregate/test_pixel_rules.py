"""Rules that choose settings without labels, on segmentation: those that need no class of a sample."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from analysis.aggregate.rule_losses import ANY, NO_ADAPTATION, read_pools
from analysis.aggregate.unlabelled import _known
from analysis.report.rules import rule_table
from analysis.results.load import open_results
from grid.launch import trial
from grid.store.store import ResultStore
from tests.tta_core.run.conftest import SMALL_SCENES, few_scenes, tiny_scenes  # noqa: F401
from tta_core.diagnostics.collapse import CollapsedError, CollapseGuard, _spread
from tta_core.run import cell as runner
from tta_core.run.config import RunConfig

pytestmark = pytest.mark.usefixtures("tiny_scenes")

SMALL = SMALL_SCENES | {"samples_per_domain": 4, "method": "tent"}
RATES = (1e-5, 1e-4, 1e-3, 1e-2, 5e-2)


@pytest.fixture
def results(tmp_path):
    """Five settings of Tent and the source."""
    store = ResultStore(tmp_path)
    store.create()
    runs = [SMALL | {"settings": {"lr": rate}} for rate in RATES] + [SMALL | {"method": "source"}]
    for values in runs:
        store.write_result(runner.run(values | {"rounds": 1}), sweep="scenes", git_commit="")
    return tmp_path


def test_rules_that_read_no_class_choose_by_mean_iou(results):
    con = open_results(results)
    (pool,) = read_pools(con)
    stored = {
        json.loads(settings)["lr"]: score
        for settings, score in con.execute("select settings, score from cells where method = 'tent'").fetchall()
    }
    assert {json.loads(each.settings)["lr"]: each.accuracy for each in pool.candidates} == stored
    assert set(pool.scores) == {"entropy", "confidence"}
    assert set(pool.losses()) == {"entropy", "confidence", ANY, NO_ADAPTATION}
    for candidate, score in zip(pool.candidates, pool.scores["entropy"], strict=True):
        entropy = pq.read_table(Path(results) / "cells" / candidate.cell / "samples.parquet", columns=["entropy"])
        assert score == pytest.approx(-float(np.mean(entropy["entropy"].to_numpy())))
    table = rule_table(con)
    assert table is not None
    assert {row[0] for row in table.rows} == set(pool.losses())


def test_the_guard_counts_pixels():
    counts = np.array([[30, 10, 0], [10, 10, 20]])
    shares = np.array([40, 20, 20]) / 80
    assert _spread(counts) == pytest.approx(-(shares * np.log(shares)).sum())
    assert _spread(np.array([0, 0, 1, -1])) == pytest.approx(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)))
    assert _spread(np.zeros((0, 3), int)) == 0


def guarded(maps, usual):
    """Shows maps of classes `(samples, 2, 2)` to a guard, with the source's pixels of each class."""
    scene = SimpleNamespace(order=range(len(maps)), method=SimpleNamespace())
    guard = CollapseGuard(scene, usual)
    for start in range(0, len(maps), 64):
        logits = torch.nn.functional.one_hot(maps[start : start + 64], 3).movedim(-1, 1).float()
        guard.after_step(SimpleNamespace(positions=slice(start, start + len(logits))), logits)


def test_maps_of_one_class_are_a_collapse():
    mixed = (torch.arange(4 * 1024) % 3).reshape(1024, 2, 2)
    usual = np.stack([np.bincount(one, minlength=3) for one in mixed.flatten(1).numpy()])
    guarded(mixed, usual)
    with pytest.raises(CollapsedError, match="at 1024 of 1024"):
        guarded(torch.full((1024, 2, 2), 2), usual)


def test_a_guarded_cell_goes_by_what_is_stored_of_the_source(results):
    config = RunConfig.from_values(SMALL | {"rounds": 1, "settings": {"lr": 1e-4}})
    usual = trial._of_source(config, ResultStore(results))
    assert set(usual) == {"position", "predicted"}
    plain, watched = runner.run(config), runner.run(config, usual=usual)
    np.testing.assert_array_equal(plain.samples["predicted"], watched.samples["predicted"])


def test_a_column_of_nulls_is_no_prediction():
    assert _known(pa.chunked_array([pa.array([None, None], pa.int32())])) is None
    assert _known(pa.chunked_array([pa.array([1, 2], pa.int32())])).tolist() == [1, 2]
