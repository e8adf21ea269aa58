"""A cell of segmentation, from its configuration to the report."""

import numpy as np
import pytest

from analysis.report.leaderboard import leaderboard_markdown
from analysis.results.checks import check_results
from analysis.results.load import open_results, rows
from grid.store.store import ResultStore
from grid.track.cell import read_tracked_cell
from tests.tta_core.run.conftest import SMALL_SCENES as SMALL
from tta_core.data.sources.scene_weather import WEATHER
from tta_core.data.sources.scenes import GROUND, IGNORED, make_scenes
from tta_core.errors import InputError
from tta_core.run import cell as runner
from tta_core.run.checkpoint import Checkpoints
from tta_core.run.config import RunConfig

pytestmark = pytest.mark.usefixtures("tiny_scenes")


def test_the_score_is_that_of_the_stored_counts(tmp_path):
    store = ResultStore(tmp_path)
    store.create()
    results = []
    for method, settings in (("source", {}), ("source", {"views": 6}), ("tent", {})):
        results.append(runner.run(SMALL | {"method": method, "settings": settings}))
        store.write_result(results[-1], sweep="scenes", git_commit="")
    con = open_results(tmp_path)
    problems = [one.message for one in check_results(con)]
    assert not problems
    stored = dict(rows(con, "select cell, score from cells where metric = 'miou' and accuracy5 is null"))
    for result in results:
        parts = []
        for segment in range(4):
            here = result.samples["segment"] == segment
            hits, predicted, labelled = (
                result.samples[name][here].sum(axis=0) for name in ("intersection", "predicted", "labelled")
            )
            union = predicted + labelled - hits
            parts.append((hits[union > 0] / union[union > 0]).mean())
        assert result.score == pytest.approx(np.mean(parts))
        assert stored[result.cell] == pytest.approx(result.score)
        tracked = {name: value for name, value, _ in read_tracked_cell(store, result.cell).metrics}
        assert tracked["score"] == pytest.approx(result.score)
        assert tracked["miou/fog"] == pytest.approx(result.domain_scores["fog"].score)
    text = leaderboard_markdown(con)
    assert "mIoU %" in text
    assert "mIoU of each condition and round" in text
    assert "| ground |" in text


@pytest.mark.parametrize("method", ["cotta", "moase"])
def test_a_killed_run_goes_on_bit_for_bit(method, tmp_path, monkeypatch):
    values = SMALL | {"method": method}
    whole = runner.run(values)
    file = tmp_path / "cell.pt"
    save = Checkpoints.save

    def and_die(self, state):
        save(self, state)
        if len(state["steps"]["sizes"]) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", and_die)
    with pytest.raises(KeyboardInterrupt):
        runner.run(values, checkpoint_file=file, checkpoint_every=4)
    again = runner.run(values, checkpoint_file=file, checkpoint_every=4)
    for name, column in whole.samples.items():
        np.testing.assert_array_equal(column, again.samples[name])
    np.testing.assert_array_equal(whole.batches["loss"], again.batches["loss"])


def test_forgetting_is_measured_in_miou():
    result = runner.run(SMALL | {"method": "source", "diagnostics": ["forgetting"], "rounds": 1})
    drops = [one.value for one in result.measurements if one.quantity == "forgetting_clean_drop"]
    assert drops == [pytest.approx(0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "foa", "preset": "official"}, "foa does not do segmentation"),
        ({"method": "source", "backbone": "digits-vit-supervised"}, "does classification"),
        ({"method": "source", "backbone": "segformer-b0"}, "predicts the classes of 'cityscapes'"),
        ({"method": "source", "diagnostics": ["features"]}, "features does not measure segmentation"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        RunConfig.from_values(SMALL | changes)


def test_scenes_are_the_same_however_many_are_made():
    images, labels = make_scenes("test", 3)
    assert np.array_equal(make_scenes("test", 2)[0], images[:2])
    assert images.shape == (3, 64, 64, 3)
    assert {GROUND, IGNORED} <= set(np.unique(labels)) <= {*range(11), IGNORED}
    assert tuple(WEATHER) == RunConfig.from_values(SMALL | {"method": "source", "domains": "reported"}).domains
