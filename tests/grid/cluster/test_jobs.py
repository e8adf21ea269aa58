"""Jobs, results brought home, and doctor, against a head that is a fake."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from grid.cluster import doctor, jobs
from grid.cluster.fetch import fetch
from grid.cluster.submit import check_results
from grid.commands.main import main
from grid.events import LaunchError
from grid.launch.nodes import Node, NodeReport
from grid.launch.waiting import Room
from grid.plan.expand import expand
from grid.plan.plan import make_plan
from grid.plan.sweep import read_sweep
from grid.store.store import ResultStore
from tta_core.errors import InputError

URL = "http://127.0.0.1:8265"


class Head:
    """The Jobs API of a cluster, as far as a client sees it."""

    def __init__(self):
        self.jobs = {}
        self.sent = []
        self.log = "starting Ray for 8 cells\n"

    def list_jobs(self):
        return list(self.jobs.values())

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        folder = Path(runtime_env["working_dir"])
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.sent.append((entrypoint, files, runtime_env["env_vars"]))
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id, status="RUNNING", message="", metadata=metadata, start_time=len(self.jobs)
        )

    def get_job_logs(self, name):
        return self.log

    def stop_job(self, name):
        self.jobs[name].status = "STOPPED"


@pytest.fixture
def head(monkeypatch):
    made = Head()
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: made)
    monkeypatch.setattr(jobs, "check_answers", lambda address: None)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(jobs.VARIABLE, URL)
    return made


def run(*arguments, status=0):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == status, done.output
    return done.output


def test_a_sweep_is_sent_once_and_again_when_its_job_has_ended(head, tiny_file, tmp_path):
    asked = ("submit", tiny_file, "--results", "/shared/out", "--set", "severity=3", "--wait", 30)
    first = run(*asked)
    (name,) = head.jobs
    assert f"sent 8 cells as {name}" in first
    assert name.startswith("tta-tiny-")
    assert name.endswith("-1")
    entrypoint, files, variables = head.sent[0]
    assert entrypoint == ("python -u -m grid run sweep.yaml --address auto --results /shared/out --wait 30")
    assert list(files) == ["sweep.yaml"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    file = tmp_path / "sent.yaml"
    file.write_bytes(files["sweep.yaml"])
    assert expand(read_sweep(str(file))).cells == expand(read_sweep(str(tiny_file), ["severity=3"])).cells

    assert f"running there already: {name}" in run(*asked)
    assert len(head.sent) == 1
    head.jobs[name].status = "FAILED"
    assert f"{name[:-1]}2" in run(*asked)
    assert len(head.sent) == 2
    other = run("submit", tiny_file, "--results", "/shared/other")
    assert name[:-1] not in other


def test_the_code_goes_along_as_a_list_of_files(head, tiny_file):
    run("submit", tiny_file, "--results", "/shared/out", "--code", "--python", "/opt/venv/bin/python")
    entrypoint, files, _ = head.sent[0]
    assert entrypoint.startswith("/opt/venv/bin/python ")
    assert {"grid/__main__.py", "tta_core/run/cell.py", "analysis/schema.py", "sweep.yaml"} <= set(files)
    assert {name.split("/")[0] for name in files} == {"grid", "tta_core", "analysis", "sweep.yaml"}
    assert not [name for name in files if "__pycache__" in name]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (None, "a job needs --results"),
        ("out", "give an absolute path"),
        ("s3://me:secret@bucket/out", "credentials in it"),
    ],
)
def test_results_of_a_job_are_a_path_that_nodes_share(results, message):
    with pytest.raises(InputError, match=message):
        check_results(results)
    assert check_results("s3://bucket/out?scheme=http") == "s3://bucket/out?scheme=http"


@pytest.mark.parametrize("address", ["", "head:8265", "ray://head:10001", "http://head", "http://head:x"])
def test_an_address_of_another_kind_is_refused(address, monkeypatch):
    monkeypatch.delenv(jobs.VARIABLE, raising=False)
    with pytest.raises(InputError, match="http://HEAD:8265"):
        jobs.api_address(address)


def test_a_head_that_does_not_answer_is_one_message_and_status_three():
    assert "tta-grid[cluster]" in run("status", "--address", "http://127.0.0.1:9", status=3)


def test_what_a_job_prints_is_followed_to_its_end_and_a_silent_head_is_asked_again(head, tiny_file, monkeypatch):
    run("submit", tiny_file, "--results", "/shared/out")
    (name,) = head.jobs
    calls = []

    def logs(asked):
        calls.append(asked)
        if len(calls) == 2:
            raise ConnectionError("reset")
        if len(calls) == 4:
            head.jobs[name].status = "SUCCEEDED"
        head.log += f"[{len(calls)}/8] done\n"
        return head.log

    monkeypatch.setattr(head, "get_job_logs", logs)
    shown = run("logs", name, "--follow").splitlines()
    assert shown == ["starting Ray for 8 cells", *(f"[{number}/8] done" for number in (1, 3, 4, 5))]
    monkeypatch.setattr(jobs, "SILENCE_SECONDS", -1)
    monkeypatch.setattr(head, "get_job_logs", lambda asked: (_ for _ in ()).throw(ConnectionError("reset")))
    assert f"tta-grid logs {name} --follow" in run("logs", name, "--follow", status=3)


def test_a_job_is_shown_and_stopped_with_what_is_kept(head, tiny_file, tmp_path):
    results = tmp_path / "out"
    run("submit", tiny_file, "--results", results)
    (name,) = head.jobs
    head.log += "[3/8] done   tent seed=0   50.0 %\n"
    (row,) = json.loads(run("status", "--json"))
    assert (row["job"], row["state"], row["progress"]) == (name, "RUNNING", "[3/8] done tent seed=0 50.0 %")
    assert "no job 'other'" in run("status", "other", "--address", URL, status=2)
    stopped = run("stop", name)
    assert f"STOPPED; [3/8] done tent seed=0 50.0 %. Finished cells are kept in {results}" in stopped
    assert "had ended: STOPPED" in run("stop", name)
    head.log = "starting Ray for 8 cells\ninterrupted\n"
    assert json.loads(run("status", "--json"))[0]["progress"] == "no cell ended"
    assert "hands out no files" in run("fetch", "--job", name, tmp_path / "home", status=2)


def test_the_end_of_a_job_is_told_by_our_own_last_word():
    text = (
        "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\nlib(+0x1)\n"
    )
    assert jobs._message(text + "Error: node n1: it has no folder\n") == (
        "Job entrypoint command failed with exit code 2: node n1: it has no folder"
    )
    assert jobs._message(text + "Error: it cannot run:\n  node n1: no folder\n  node n2: timm 1\nLATER\n").endswith(
        "code 2: it cannot run: node n1: no folder node n2: timm 1"
    )
    assert jobs._message("Job finished successfully.") == "Job finished successfully."


@pytest.fixture(scope="module")
def finished(tiny_file, tmp_path_factory):
    """A results folder with two cells and a failure."""
    import tta_core

    store = ResultStore(tmp_path_factory.mktemp("source") / "out")
    store.create()
    first, second, third, *_ = expand(read_sweep(str(tiny_file))).cells.values()
    for config in (first, second):
        store.write_result(tta_core.run(config), sweep="tiny", git_commit="")
    store.write_failure(third, "diverged", sweep="tiny", git_commit="")
    return store


def test_fetch_leaves_what_a_run_there_is_writing(finished, tmp_path):
    source = shutil.copytree(finished.folder, tmp_path / "source")
    study = source / "search" / "tiny.tent.0123"
    study.mkdir(parents=True)
    for name in ("trials.parquet", ".trials.parquet.tmp"):
        (study / name).write_bytes(b"")
    fetch(str(source), str(tmp_path / "home"))
    assert [path.name for path in (tmp_path / "home" / "search" / study.name).iterdir()] == ["trials.parquet"]


def test_fetch_copies_what_is_lacking_and_leaves_what_is_damaged(finished, tmp_path):
    target = ResultStore(tmp_path / "home")
    found = fetch(str(finished.folder), str(target.folder))
    assert (found.cells, found.failures, found.present, found.damaged) == (2, 1, 0, ())
    assert target.states() == finished.states()
    assert fetch(str(finished.folder), str(target.folder)).cells == 0

    damaged = ResultStore(tmp_path / "damaged")
    fetch(str(finished.folder), str(damaged.folder))
    cell = next(cell for cell, state in damaged.states().items() if state == "done")
    file = damaged.cell_folder(cell) / "samples.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"x" + content[101:])
    again = ResultStore(tmp_path / "again")
    assert f"cells/{cell}: samples.parquet" in run("fetch", damaged.folder, again.folder, status=1)
    assert len(again.states()) == 2
    assert fetch(str(finished.folder), str(again.folder)).cells == 1


def test_fetch_refuses_what_it_cannot_do(finished):
    assert "are one folder" in run("fetch", finished.folder, finished.folder, status=2)
    assert "Unrecognized filesystem type" in run("fetch", "nope://bucket/out", "home", status=2)
    assert "give SOURCE and DIR" in run("fetch", "home", status=2)


def test_a_folder_that_mlflow_never_saw_is_logged_once(finished, tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    asked = ("track", finished.folder, "--tracking-uri", uri, "--experiment", "late")
    assert "2 of 2 finished cells were missing and are logged" in run(*asked)
    assert "0 of 2 finished cells were missing" in run(*asked)
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("late").experiment_id])
    logged = [found.data.tags["cell"] for found in runs if "cell" in found.data.tags]
    assert sorted(logged) == sorted(cell for cell, state in finished.states().items() if state == "done")


def test_a_mirror_that_is_late_leaves_cells_to_the_next_run(tiny_sweep, finished, tmp_path, monkeypatch):
    from grid.events import CellEnd
    from grid.track import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    cells = [cell for cell, state in finished.states().items() if state == "done"]
    plan = make_plan(tiny_sweep, ResultStore(tmp_path / "none"))
    monkeypatch.setattr(mlflow, "MOST_WAITING", 1)
    mirror = mlflow.MlflowMirror(plan, finished, uri)
    with mirror:
        for cell in cells:
            mirror.cell_ended(cell, CellEnd("done"))
        assert mirror.lag <= 1
    assert (mirror.logged, mirror.problem) == (1, "1 cell not logged in time")
    with mlflow.MlflowMirror(make_plan(tiny_sweep, finished), finished, uri) as again:
        pass
    assert (again.logged, again.problem) == (1, None)


def test_doctor_finds_what_is_planted(monkeypatch, tmp_path, tiny_file):
    nodes = [Node("1", "n1 (10.0.0.1)", Room({"CPU": 0}, {})), Node("2", "n2 (10.0.0.2)", Room({"CPU": 4}, {}))]
    facts = dict.fromkeys(("python", "ray", "torch", "timm", "code", "commit"), "1") | {
        "clock": "+42",
        "disk": "9 GiB free",
    }
    faults = {"n1 (10.0.0.1)": ("it has no folder",), "n2 (10.0.0.2)": ("it has torch 1.0 where the driver has 2",)}
    monkeypatch.setattr("grid.launch.cluster.check_reachable", lambda address: None)
    monkeypatch.setattr("grid.launch.cluster.connected", lambda address: nullcontext())
    monkeypatch.setattr("grid.launch.nodes.living_nodes", lambda: nodes)
    monkeypatch.setattr(
        "grid.launch.nodes.ask_nodes",
        lambda nodes, mark, configs, facts_wanted=True, **how: [
            NodeReport(n.name, faults[n.name], facts) for n in nodes
        ],
    )
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    told = run("doctor", tiny_file, "--address", "h:6379", "--results", tmp_path / "out", status=1)
    told = " ".join(told.split())
    assert "fail fault it has torch 1.0" in told
    assert "warn fault it has no folder" in told  # It runs no cells.
    assert "warn clock +42 s off" in told
    faults.update(dict.fromkeys(faults, ()))
    assert "cells can run" in run("doctor", tiny_file, "--address", "h:6379", "--results", tmp_path / "out")
    monkeypatch.setattr(
        "grid.launch.cluster.check_reachable", lambda address: (_ for _ in ()).throw(LaunchError("nobody there"))
    )
    assert "nobody there" in run("doctor", "--address", "h:6379", status=1)


def test_doctor_looks_at_token_and_packages_here(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert doctor._token().state == "fail"
    file.write_text("a" * 64)
    file.chmod(0o644)
    assert (doctor._token().state, "chmod 600" in doctor._token().text) == ("warn", True)
    file.chmod(0o600)
    assert doctor._token().state == "ok"
    monkeypatch.setattr(doctor, "JOBS_PACKAGES", ("no_such_package",))
    assert "tta-grid[cluster]" in doctor._jobs_packages().text
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=99", "pip_of_none>=1", "mypy>=99; extra == 'dev'"])
    assert doctor._packages().text.startswith("torch is 2.")
    assert "pip_of_none is none" in doctor._packages().text
    assert "mypy" not in doctor._packages().text
