"""MLflow mirrors the store: each cell once, whatever happened to earlier drivers."""

import threading
import time
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

import tta_core
from grid.events import CellEnd
from grid.plan.plan import make_plan
from grid.plan.simulate import Timings
from grid.store.store import ResultStore
from grid.track.mlflow import MOST_WAITING, MlflowMirror
from grid.track.uri import check_tracking_uri, ui_command
from tta_core.errors import InputError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of the source cells of the tiny sweep."""
    values = {"method": "source", "preset": "digits-c", "severity": 4, "samples_per_domain": 8, "batch_size": 8}
    return [tta_core.run(values | {"domains": ["fog", "contrast"], "seed": seed}) for seed in (0, 1)]


def write(store, result):
    store.write_result(result, sweep="tiny", git_commit="")


def runs(mirror):
    client = MlflowClient(tracking_uri=mirror.uri)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return client, parents, [run for run in found if "mlflow.parentRunId" in run.data.tags]


def test_a_launch_is_a_parent_and_its_cells_are_children(store, tiny_sweep, results):
    mirror = MlflowMirror(make_plan(tiny_sweep, store), store)
    with mirror:
        for result in results:
            write(store, result)
            mirror.cell_ended(result.cell, CellEnd("done"))
        failed = next(c for c in make_plan(tiny_sweep, store).cells.values() if c.method == "tent")
        store.write_failure(failed, "no luck", sweep="tiny", git_commit="", traceback="Traceback")
        mirror.cell_ended(failed.cell_id(), CellEnd("failed", "no luck"))
    assert mirror.problem is None
    client, parents, children = runs(mirror)
    assert len(parents) == 1
    assert parents[0].info.status == "KILLED"  # Most cells of the sweep did not run.
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    by_cell = {run.data.tags["cell"]: run for run in children}
    assert by_cell.keys() == {*(result.cell for result in results), failed.cell_id()}
    first = by_cell[results[0].cell]
    assert first.info.status == "FINISHED"
    assert first.data.metrics["accuracy"] == results[0].accuracy
    assert first.data.metrics["accuracy/fog"] == results[0].domain_accuracy["fog"]
    assert first.data.params["severity"] == "4"
    assert first.data.tags["method"] == "source"
    assert (first.data.tags["needs"], first.data.tags["artefact"]) == ("", "")
    assert first.data.tags["scored_logits"] == "pre-update"
    history = client.get_metric_history(first.info.run_id, "accuracy_so_far")
    assert history[-1].step == results[0].n_samples
    assert history[-1].value == pytest.approx(results[0].accuracy)
    assert {"config.json", "domain_accuracy.json", "batches.parquet"} <= {
        file.path for file in client.list_artifacts(first.info.run_id)
    }
    assert by_cell[failed.cell_id()].info.status == "FAILED"
    assert by_cell[failed.cell_id()].data.tags["reason"] == "no luck"


def test_repeating_a_launch_adds_nothing_and_catches_up_with_what_is_missing(store, tiny_sweep, results):
    write(store, results[0])
    for _ in range(2):
        with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
            pass
    _, parents, children = runs(mirror)
    assert len(parents) == 1
    assert [run.data.tags["cell"] for run in children] == [results[0].cell]
    write(store, results[1])
    with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
        pass
    _, _, children = runs(mirror)
    assert sorted(run.data.tags["cell"] for run in children) == sorted(result.cell for result in results)


def test_cells_of_an_older_version_are_logged_without_what_they_lack(store, tiny_sweep, results):
    write(store, results[0])
    file = store.cell_folder(results[0].cell) / "cell.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["needs", "artefact", "scored_logits"]), file)
    with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
        pass
    assert mirror.problem is None
    _, _, (run,) = runs(mirror)
    assert run.data.tags["method"] == "source"
    assert "needs" not in run.data.tags


def test_what_a_killed_driver_left_open_is_ended(store, tiny_sweep, results):
    write(store, results[0])
    with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
        pass
    client, parents, _ = runs(mirror)
    experiment = parents[0].info.experiment_id
    dead = client.create_run(experiment, tags={"store": store.id, "sweep": "tiny"})
    half = {"store": store.id, "cell": results[1].cell, "mlflow.parentRunId": dead.info.run_id}
    client.create_run(experiment, tags=half)
    write(store, results[1])
    with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
        pass
    _, parents, children = runs(mirror)
    assert {run.info.status for run in parents} == {"FINISHED", "KILLED"} or len(parents) == 3
    assert client.get_run(dead.info.run_id).info.status == "KILLED"
    assert sorted(run.data.tags["cell"] for run in children) == sorted(result.cell for result in results)
    assert {run.info.status for run in children} == {"FINISHED"}


def test_a_server_that_does_not_answer_costs_no_cell(store, tiny_sweep, results, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = MlflowMirror(make_plan(tiny_sweep, store), store, "http://127.0.0.1:9")
    with mirror:
        write(store, results[0])
        mirror.cell_ended(results[0].cell, CellEnd("done"))
    assert mirror.problem is not None
    assert store.states() == {results[0].cell: "done"}


def test_another_store_in_the_same_experiment_has_runs_of_its_own(store, tiny_sweep, results, tmp_path):
    other = ResultStore(tmp_path / "other")
    other.create()
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    for each in (store, other):
        write(each, results[0])
        with MlflowMirror(make_plan(tiny_sweep, each), each, uri) as mirror:
            pass
    _, parents, children = runs(mirror)
    assert len(parents) == len(children) == 2
    assert all(run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri()) for run in children)


def test_the_default_store_is_a_file_in_the_results_folder(store, tiny_sweep):
    assert MlflowMirror(make_plan(tiny_sweep, store), store).uri == f"sqlite:///{store.folder / 'mlflow.db'}"


def test_the_way_to_browse_the_runs():
    assert ui_command("sqlite:///a/mlflow.db").endswith(
        "mlflow ui --workers 1 --backend-store-uri sqlite:///a/mlflow.db"
    )
    assert ui_command("http://127.0.0.1:5000") == "open http://127.0.0.1:5000 in a browser"


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/x", "ftp://host", "mlflow.db"])
def test_a_uri_that_mlflow_cannot_write_to_is_refused(uri):
    with pytest.raises(InputError, match="MLflow needs one of sqlite"):
        check_tracking_uri(uri)


def test_two_drivers_may_log_into_one_new_file_at_once(tmp_path, tiny_sweep, results):
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    stores = [ResultStore(tmp_path / name) for name in ("one", "two")]
    for store in stores:
        store.create()
        for result in results:
            write(store, result)
    mirrors = [MlflowMirror(make_plan(tiny_sweep, store), store, uri) for store in stores]
    with mirrors[0], mirrors[1]:
        pass
    assert [mirror.problem for mirror in mirrors] == [None, None]
    _, parents, children = runs(mirrors[0])
    assert (len(parents), len(children)) == (2, 4)


def test_what_the_mirror_says_in_one_line_is_not_printed_before(tmp_path, store, tiny_sweep, results, capfd):
    write(store, results[0])
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with MlflowMirror(make_plan(tiny_sweep, store), store, f"sqlite:///{tmp_path / 'mlflow.db'}") as mirror:
        pass
    assert "not a database" in mirror.problem
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_store_that_is_down_for_a_while_gets_each_cell_once(store, tiny_sweep, results, monkeypatch):
    monkeypatch.setattr("grid.track.mlflow.REST_SECONDS", 0.0)
    calls = []

    def failing(method):
        def call(self, *given, **how):
            calls.append(method.__name__)
            done = method(self, *given, **how)
            # The store goes down in the middle of a cell: once before, once after it took what was sent.
            if calls.count(method.__name__) == 1:
                raise ConnectionError("down")
            return done

        return call

    for name in ("log_batch", "set_terminated", "search_runs"):
        monkeypatch.setattr(MlflowClient, name, failing(getattr(MlflowClient, name)))
    with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
        for result in results:
            write(store, result)
            mirror.cell_ended(result.cell, CellEnd("done"))
            mirror._work.result()
        for _ in range(2):
            mirror._later(mirror._drain).result()
    assert mirror.problem is None
    _, parents, children = runs(mirror)
    assert len(parents) == 1
    assert sorted(run.data.tags["cell"] for run in children) == sorted(result.cell for result in results)
    assert {run.info.status for run in children} == {"FINISHED"}


def test_the_end_goes_on_after_failures_while_cells_are_logged_between_them(store, tiny_sweep, results, monkeypatch):
    whole, calls = MlflowClient.log_batch, []

    def failing(self, *given, **how):
        calls.append(1)
        if len(calls) in (1, 3):
            raise ConnectionError("timed out")
        return whole(self, *given, **how)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    for result in results:
        write(store, result)
    with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
        pass
    assert (mirror.problem, mirror.logged, len(calls)) == (None, 2, 4)
    assert len(runs(mirror)[2]) == 2


def test_cells_never_wait_for_a_slow_store_and_its_lag_is_told(store, tiny_sweep, monkeypatch, caplog):
    go_on = threading.Event()
    monkeypatch.setattr(MlflowMirror, "_open", lambda self: go_on.wait(60))
    monkeypatch.setattr(MlflowMirror, "_catch_up", lambda self: None)
    monkeypatch.setattr(MlflowMirror, "_log_all", lambda self, cells: None)
    with MlflowMirror(make_plan(tiny_sweep, store), store) as mirror:
        mirror._told -= 100
        began = time.monotonic()
        for number in range(2000):
            mirror.cell_ended(str(number), CellEnd("done"))
        assert time.monotonic() - began < 2
        assert mirror.lag == MOST_WAITING
        go_on.set()
    assert "MLflow is 50 cells behind" in caplog.text
    assert mirror.problem == f"{2000 - MOST_WAITING} cells not logged in time"


def test_a_cell_that_cannot_be_read_keeps_no_other_from_being_logged(store, tiny_sweep, results):
    for result in results:
        write(store, result)
    (store.cell_folder(results[0].cell) / "cell.parquet").write_bytes(b"torn")
    plan = make_plan(tiny_sweep, SimpleNamespace(states=store.states, timings=Timings))
    with MlflowMirror(plan, store) as mirror:
        pass
    assert results[0].cell in mirror.problem
    _, _, (run,) = runs(mirror)
    assert run.data.tags["cell"] == results[1].cell
