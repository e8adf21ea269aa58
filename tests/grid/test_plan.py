"""Plans: what exists, how long the rest takes, how cells are named."""

import json

import pytest

import tta_core
from grid.plan import cell_labels, duration, make_plan
from grid.store import ResultStore
from grid.sweep import Sweep


def test_a_plan_needs_no_folder_and_makes_none(tiny_sweep, tmp_path):
    plan = make_plan(tiny_sweep, ResultStore(tmp_path / "none"))
    assert len(plan.cells) == len(plan.to_run) == 8
    assert not (tmp_path / "none").exists()
    assert "nominal" in plan.estimate.basis


def test_finished_cells_are_not_run_again_and_failed_ones_are(tiny_sweep, store):
    first, second, *_ = make_plan(tiny_sweep, store).cells.values()
    store.write_result(tta_core.run(first), sweep="tiny", git_commit="")
    store.write_failure(second, "no luck", sweep="tiny", git_commit="")
    plan = make_plan(tiny_sweep, store)
    assert plan.states == {first.cell_id(): "done", second.cell_id(): "failed"}
    assert first.cell_id() not in plan.to_run
    assert second.cell_id() in plan.to_run
    assert "finished cells" in plan.estimate.basis
    told = json.loads(plan.as_json())
    assert [cell["state"] for cell in told["cells"]] == ["done", "failed"] + ["new"] * 6
    assert told["cells"][0]["config"]["method"] == "source"
    assert (told["total"], told["to_run"]) == (8, 7)
    assert "8 cells, 1 done, 7 to run" in plan.as_text()


def test_measured_time_goes_before_nominal_time(tiny_sweep, store):
    first = next(iter(make_plan(tiny_sweep, store).cells.values()))
    result = tta_core.run(first)
    store.write_result(result, sweep="tiny", git_commit="")
    plan = make_plan(tiny_sweep, store)
    assert plan.seconds[result.cell] == pytest.approx(result.seconds)
    tent = next(cell for cell, config in plan.cells.items() if config.method == "tent")
    assert plan.seconds[tent] == pytest.approx(2.3 * result.seconds)


def test_labels_name_what_varies_and_nothing_else(tiny_sweep, store):
    labels = list(cell_labels(make_plan(tiny_sweep, store).cells).values())
    assert labels[:4] == [
        "source seed=0",
        "tent seed=0",
        "moetta num_experts=2 seed=0",
        "moetta num_experts=3 seed=0",
    ]


def test_a_plan_says_what_cells_need_beyond_the_stream(store):
    sweep = Sweep(
        sweep="needy",
        base={"samples_per_domain": 8},
        grid={"method": ["source", "imse"], "imse.retrieval": ["none", "top1"]},
        seeds=(0, 1),
    )
    plan = make_plan(sweep, store)
    assert plan.needs == {"source images": ["imse"]}
    assert "\nbeyond the stream: source images (imse)\n" in plan.as_text()
    told = json.loads(plan.as_json())
    assert told["needs"] == {"source images": ["imse"]}
    assert [cell["needs"] for cell in told["cells"]].count(["source images"]) == 2
    assert [cell["needs"] for cell in told["cells"]].count([]) == 4


def test_a_plan_of_what_needs_nothing_says_nothing_of_it(tiny_sweep, store):
    assert "beyond the stream" not in make_plan(tiny_sweep, store).as_text()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (11220, "3:07:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text
