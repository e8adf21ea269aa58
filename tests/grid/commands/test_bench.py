"""`tta-grid bench`: output, exit statuses and messages."""

import json

import pytest
from click.testing import CliRunner

from grid.commands.main import main
from grid.launch import cell_cost
from tta_core.methods.tent.method import Tent

QUICK = "--backbone digits-vit-supervised --batch-size 2 --repeats 1 --warmup 0 --device cpu"


def bench(options):
    return CliRunner().invoke(main, ["bench", *QUICK.split(), *options.split()])


def test_a_table_on_stdout_and_the_progress_on_stderr():
    done = bench("--methods source,tent")
    assert done.exit_code == 0
    assert "x source" in done.stdout
    assert "preparing tent:recommended" in done.stderr
    assert "preparing" not in done.stdout


def test_json_is_one_object():
    done = bench("--methods source --methods tent:paper --precision bf16 --set tent.lr=0.01 --json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["setting"]["batch_size"] == 2
    assert found["setting"]["precision"] == "bf16"
    assert [(row["method"], row["preset"]) for row in found["rows"]] == [("source", "recommended"), ("tent", "paper")]
    assert {"ratio", "ratio_low", "ratio_high", "ms", "source_ms", "trainable_parameters", "activated_parameters"} <= {
        key for key, value in found["rows"][1].items() if value is not None
    }


def test_a_failed_method_is_told_with_status_1(monkeypatch):
    def step(self, images):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Tent, "step", step)
    done = bench("--methods source,tent")
    assert done.exit_code == 1
    assert "failed: tent:recommended: RuntimeError: out of luck" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--methods tennt", "Did you mean 'tent'"),
        ("--backbone vit_tinny_patch16_224", "Did you mean 'vit_tiny_patch16_224'"),
        ("--batch-size 0", "batch_size = '0' is not allowed"),
        ("--repeats few", "repeats = 'few' is not allowed"),
        ("--precision fp16", "'fp32' or 'bf16'"),
        ("--device cpuu", "device 'cpuu' cannot be used"),
        ("--nosuch", "unrecognized arguments: --nosuch"),
    ],
)
def test_wrong_options_are_one_message_and_status_2(options, message):
    done = bench(options)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_help_names_every_option():
    done = CliRunner().invoke(main, ["bench", "--help"])
    assert done.exit_code == 0
    assert {"--methods", "--backbone", "--batch-size", "--device", "--compile", "--check-cpu", "--json"} <= set(
        done.output.replace("[", " ").replace("]", " ").split()
    )


def test_the_cost_of_a_cell_has_parts_that_sum_up(monkeypatch):
    monkeypatch.setattr(cell_cost, "METHODS", ("source",))
    monkeypatch.setattr(cell_cost, "CELLS", 1)
    done = CliRunner().invoke(main, ["bench", "--cell", "--json"])
    assert done.exit_code == 0, done.output
    (cost,) = json.loads(done.stdout)
    assert sum(cost["parts"].values()) == pytest.approx(cost["cpu_seconds"])
    assert min(cost["parts"].values()) > 0
    assert cost["cpu_seconds"] < 10 * cost["goal_seconds"]
    text = cell_cost.as_text([cell_cost.CellCost("source", 0.05, 0.06, {"store": 0.02, "images": 0.03})])
    assert text.splitlines()[:2] == [
        "source: 50 ms of CPU time a cell without its loop, 60 ms of wall time",
        "  images                30.0 ms",
    ]


def test_other_options_beside_cell_are_refused():
    done = CliRunner().invoke(main, ["bench", "--cell", "--repeats", "3"])
    assert done.exit_code == 2
    assert "beside --cell there is only --json" in done.output
