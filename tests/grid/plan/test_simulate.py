"""Launches on paper."""

import json

import pytest
from click.testing import CliRunner

from grid.commands.main import main
from grid.plan.plan import make_plan
from grid.plan.simulate import CELL_SECONDS, seconds_beside_loops, simulate
from grid.store.store import ResultStore


@pytest.mark.parametrize(
    ("slots", "cells_of_the_last", "wall"),
    # On two: 5 beside 3 and 3, then 1 after the 5.
    [(1, 4, 12), (2, 2, 6), (3, 1, 5), (9, 1, 5)],
)
def test_cells_are_handed_out_in_order_to_whoever_is_free(slots, cells_of_the_last, wall):
    found = simulate([5, 3, 3, 1], slots, startup=0)
    assert found.wall_seconds == pytest.approx(wall + cells_of_the_last * CELL_SECONDS)
    assert found.busy_hours * 3600 == pytest.approx(12 + 4 * CELL_SECONDS)
    assert found.idle_share == pytest.approx(1 - found.busy_hours * 3600 / (slots * found.wall_seconds))


def test_what_cells_take_beside_their_loops_is_read_from_when_they_began():
    # Two workers, 0.5 s from the end of one loop to the next start; then another launch.
    cells = [(0.0, 4.0), (0.1, 1.0), (1.6, 2.0), (4.1, 1.0), (4.5, 3.0), (1000.0, 1.0), (1001.5, 1.0)]
    assert seconds_beside_loops(reversed(cells)) == pytest.approx(0.5)
    assert seconds_beside_loops([(0.0, 4.0), (1.0, 5.0)]) is None
    assert simulate([1.0] * 4, 2, startup=0, beside=0.5).wall_seconds == 3.0


def test_cells_that_die_run_again_and_cost_what_was_lost():
    calm, rough = (simulate([10.0] * 100, 4, startup=20, failure_rate=rate) for rate in (0, 0.2))
    assert calm.failures == 0
    assert 5 < rough.failures < 40
    assert calm.busy_hours < rough.busy_hours < calm.busy_hours * (1 + rough.failures / 100)
    assert rough == simulate([10.0] * 100, 4, startup=20, failure_rate=0.2)


def test_the_longest_cell_of_a_seed_comes_first_and_seeds_stay_together(tiny_sweep, tmp_path):
    plan = make_plan(tiny_sweep, ResultStore(tmp_path / "none"))
    order = [(plan.cells[cell].seed, plan.seconds[cell]) for cell in plan.next({})]
    assert sorted(order, key=lambda each: (each[0], -each[1])) == order
    assert set(plan.next({})) == set(plan.cells)


def test_a_plan_tells_time_and_price_on_other_slots(tiny_file, tmp_path):
    def plan(*more):
        asked = ["plan", str(tiny_file), "--results", str(tmp_path / "none"), *more]
        return CliRunner().invoke(main, asked)

    told = json.loads(plan("--simulate", "3", "--price", "2", "--json").output)
    assert told["simulation"]["slots"] == 3
    paid = told["simulation"]["wall_seconds"] / 3600 * 3
    assert told["price"] == {"hours": pytest.approx(paid), "per_hour": 2.0, "total": pytest.approx(2 * paid)}
    shared = plan("--simulate", "3", "--set", "resources.gpu=0.5", "--price", "1")
    assert "on paper, 3 GPUs, 6 cells at once" in shared.output
    assert "guesses for one CPU core: a GPU is many times faster" in shared.output
    assert "price:" in plan("--price", "1").output
    assert plan("--simulate", "0.5", "--set", "resources.gpu=1").exit_code == 2
    assert "--simulate GPUS" in plan("--failures", "0.1").output
