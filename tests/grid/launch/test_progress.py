"""What a launch shows, in a log file and in a terminal."""

import io
import re

import pytest

from grid.events import CellEnd
from grid.launch.progress import LaunchProgress
from grid.plan.plan import make_plan
from grid.plan.simulate import duration
from grid.store.store import ResultStore


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def plan(tiny_sweep, tmp_path):
    return make_plan(tiny_sweep, ResultStore(tmp_path / "results"))


def play(plan, stream):
    first, second, third, *_ = plan.cells
    with LaunchProgress(plan, stream=stream) as progress:
        for cell in plan.cells:
            progress.cell_started(cell)
        progress.cell_ended(first, CellEnd("done", accuracy=0.5, seconds=1.25))
        progress.cell_ended(second, CellEnd("retry", reason="its worker died"))
        progress.cell_ended(third, CellEnd("failed", reason="diverged [badly]"))
        progress.cell_ended(second, CellEnd("done", accuracy=0.75, seconds=2))
    assert (progress.finished, progress.failed) == (2, 1)
    return stream.getvalue()


def test_a_log_file_gets_one_whole_line_for_each_cell(plan):
    lines = play(plan, io.StringIO()).splitlines()
    assert lines[0] == "starting Ray for 8 cells"
    assert re.match(
        r"\[1/8\] done +source seed=0 +50\.0% +1\.2 s +0 failed \| best 50\.0% \(source seed=0\) \| \d", lines[1]
    )
    assert lines[2] == "to be tried again: tent seed=0: its worker died"
    assert re.match(r"\[2/8\] failed +moetta num_experts=2 seed=0 +1 failed", lines[3])
    assert lines[4].strip() == "reason: diverged [badly]"
    assert re.match(r"\[3/8\] done +tent seed=0 +75\.0% .* best 75\.0% \(tent seed=0\)", lines[5])
    assert len(lines) == 6
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_the_lines_and_a_bar(plan):
    shown = play(plan, Terminal())
    assert "[3/8] done" in shown
    assert "\x1b" in shown


def test_time_left_is_the_plans_until_two_cells_ended_and_then_measured(plan, monkeypatch):
    clock = iter([100.0, 110.0, 110.0])
    monkeypatch.setattr("grid.launch.pace.time.monotonic", lambda: next(clock))
    progress = LaunchProgress(plan, stream=io.StringIO())
    first, second, *_ = plan.cells
    progress.cell_ended(first, CellEnd("done", accuracy=0.5, seconds=1))
    assert progress._summary().endswith(f" {duration(plan.expected_wall)} left")
    progress.cell_ended(second, CellEnd("done", accuracy=0.5, seconds=1))
    cost_left = sum(plan.seconds.values()) - plan.seconds[first] - plan.seconds[second]
    minutes, seconds = divmod(round(10 * cost_left / plan.seconds[second]), 60)
    assert f"{minutes}:{seconds:02} left" in progress._console.file.getvalue()
