"""Orders of streams as files: `tta-grid data order`, and sweeps that replay them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import tta_core
from analysis.results.load import open_results
from grid.commands.main import main
from grid.plan.expand import expand
from grid.plan.plan import make_plan
from grid.plan.sweep import read_sweep
from tta_core.errors import InputError
from tta_core.run.config import RunConfig
from tta_core.streams.order_files import read_order


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_order_of_a_cell_is_written_and_replayed(tmp_path):
    file = tmp_path / "order.parquet"
    options = ("--benchmark", "digits-c", "--stream", "mixed", "--seed", 1, "--severity", 4)
    done = call("data", "order", *options, "--output", file)
    assert done.exit_code == 0, done.output
    order = RunConfig.from_values({"method": "tent", "seed": 1, "severity": 4}).order()
    assert f"order hash {order.order_hash()}; a cell replays it with order_file: {file}" in done.output
    assert f"wrote {file}: 13485 samples of 15 domains in 1 segments, reset never" in done.output
    about = json.loads(pq.read_schema(file).metadata[b"tta_grid_order"])
    assert about["order_hash"] == order.order_hash()
    assert (about["benchmark"], about["stream"], about["seed"]) == ("digits-c v1", "mixed", 1)
    assert RunConfig.from_values({"method": "tent", "order_file": str(file)}).order_hash == order.order_hash()


def test_every_option_reaches_the_order(tmp_path):
    options = ("--stream", "correlated", "--seed", 2, "--domains", "fog,snow", "--samples-per-domain", 5)
    done = call("data", "order", *options, "--set", "dirichlet_alpha=0.5", "--output", tmp_path / "o.csv", "--json")
    written = json.loads(done.output)
    expected = RunConfig.from_values(
        {
            "method": "source",
            "stream": "correlated",
            "seed": 2,
            "domains": ["fog", "snow"],
            "samples_per_domain": 5,
            "dirichlet_alpha": 0.5,
        }
    )
    assert written["order_hash"] == expected.order().order_hash()
    assert (written["dirichlet_alpha"], written["time_slots"], written["segments"]) == (0.5, 10, 2)
    assert written["domains"] == ["fog", "snow"]


def test_the_cells_of_a_sweep_share_one_order(tiny_file, tmp_path):
    done = call("data", "order", tiny_file, "--seed", 1, "--output", tmp_path / "o.csv")
    assert done.exit_code == 0, done.output
    sweep = read_sweep(str(tiny_file), ["seeds=[1]"])
    hashes = {config.order().order_hash() for config in expand(sweep).cells.values()}
    assert {read_order(tmp_path / "o.csv").order.order_hash()} == hashes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart"], "these cells have 3 orders: they differ in seed. Choose one, such as with --set seeds=[0]"),
        (["--set", "stream=[mixed,single]"], "these cells have 2 orders: they differ in stream"),
        (["--stream", "mixd"], "Did you mean 'mixed'"),
        (["--benchmark", "digit-c"], "Did you mean 'digits-c'"),
        (["--benchmark", "imagenet-r", "--stream", "correlated"], "made from the images' labels: TTA_GRID_DATA is not"),
        (["--set", "sevrity=3"], "Did you mean 'severity'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_has_no_single_order_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA", raising=False)
    done = call("data", "order", *arguments, "--output", tmp_path / "o.csv")
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert list(tmp_path.iterdir()) == []


def test_an_order_of_a_benchmark_that_is_not_here_can_be_written(tmp_path, monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA", raising=False)
    options = ("--benchmark", "imagenet-c", "--stream", "label_shift", "--seed", 2022, "--domains", "fog")
    done = call("data", "order", *options, "--output", tmp_path / "o.parquet")
    assert done.exit_code == 0, done.output
    assert len(read_order(tmp_path / "o.parquet").order) == 100_000


def test_a_published_index_file_becomes_a_documented_order(tmp_path):
    np.save(tmp_path / "published.npy", np.arange(20, 10, -1))
    options = ("--domains", "fog,snow", "--set", f"order_file={tmp_path / 'published.npy'}")
    done = call("data", "order", *options, "--output", tmp_path / "o.csv")
    assert done.exit_code == 0, done.output
    order = read_order(tmp_path / "o.csv").order
    assert (order.domains, order.segments, order.reset_at_segments) == (("fog", "snow"), (0, 10), True)
    made = RunConfig.from_values({"method": "source", "order_file": str(tmp_path / "o.csv")})
    assert made.order().index.tolist() == list(range(20, 10, -1)) * 2


def test_a_replayed_cell_lands_in_the_store(store, tmp_path):
    (tmp_path / "own.csv").write_text("domain,index\nfog,3\nsnow@2,4\nfog,3\n")
    result = tta_core.run({"method": "source", "order_file": str(tmp_path / "own.csv")})
    store.write_result(result, sweep="s", git_commit="")
    con = open_results(store.folder)
    assert con.sql("select domain, index from samples order by position").fetchall() == [
        *(("fog", 3), ("snow@2", 4), ("fog", 3))
    ]
    (row,) = con.sql("select stream, stream_order, config from cells").fetchall()
    assert row[:2] == ("imported", result.config.order_hash)
    (tmp_path / "own.csv").unlink()
    assert RunConfig.from_values(json.loads(row[2])) == result.config


@pytest.mark.parametrize("kind", ["labels", "file"])
def test_a_cell_without_an_order_is_planned_and_its_failure_is_kept(kind, store, tmp_path, monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA", raising=False)
    file = tmp_path / "own.csv"
    file.write_text("domain,index\nfog,3\n")
    labels = {
        "benchmark": "imagenet-r",
        "backbone": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "stream": "correlated",
    }
    values = {"method": "source"} | (labels if kind == "labels" else {"order_file": str(file)})
    sweep_file = tmp_path / "s.yaml"
    sweep_file.write_text(json.dumps({"sweep": "s", "base": values, "seeds": [0]}))
    plan = make_plan(read_sweep(str(sweep_file)), store)
    ((cell, config),) = plan.cells.items()
    file.unlink()
    with pytest.raises(InputError) as caught:
        tta_core.run(config)
    store.write_failure(config, str(caught.value), sweep="s", git_commit="")
    assert store.states() == {cell: "failed"}
    assert store.failures([cell]) == {cell: str(caught.value)}


def test_streams_are_listed_with_what_they_need_and_their_settings():
    rows = {row["name"]: row for row in json.loads(call("list", "streams", "--json").output)}
    assert rows["label_shift"]["settings"] == {"imbalance_ratio": 500_000}
    assert rows["recurring"]["settings"] == {"rounds": 10}
    assert "labels" in rows["correlated"]["needs"]
    assert rows["mixed"]["needs"] == ""
    text = call("list", "streams").output
    assert "settings          dirichlet_alpha=0.1, time_slots=number of classes" in text
    assert "needs             the cell's order_file" in text
