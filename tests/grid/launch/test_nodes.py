"""What a launch asks of nodes, what it waits for, and why trials die: no Ray here."""

import json
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from grid.events import CellEnd, LaunchError
from grid.launch import cluster, trial
from grid.launch.environment import leave_job_folder
from grid.launch.head_watch import watching_head
from grid.launch.mark import FOLDER, put_mark
from grid.launch.nodes import Node, NodeReport, check_nodes
from grid.launch.provenance import versions
from grid.launch.queue import MOST_NODES_LOST, CellQueue
from grid.launch.reasons import WORKER_DIED, death_of
from grid.launch.status_file import StatusFile, read_progress, shown
from grid.launch.trial import TrialContext, run_cell
from grid.launch.waiting import Room, Waiting
from grid.plan.plan import make_plan
from grid.plan.sweep import Resources
from tta_core.errors import InputError


def test_a_node_that_sees_the_same_folder_answers_and_the_mark_goes_afterwards(tmp_path):
    with put_mark(tmp_path) as mark:
        assert mark.share_problem("node-1") == ""
        assert mark.answered("node-1")
        assert not mark.answered("node-2")
        assert mark.problem_here() == ""
    assert not list((tmp_path / FOLDER).iterdir())


def test_a_job_does_not_depend_on_the_folder_that_ray_unpacked_it_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leave_job_folder()
    assert Path.cwd() == tmp_path
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    leave_job_folder()
    assert Path("/").samefile(Path.cwd())


def test_a_folder_that_is_not_shared_is_told_by_how_it_differs(tmp_path):
    with put_mark(tmp_path) as mark:
        file = tmp_path / FOLDER / mark.name / "mark"
        file.write_text("of another launch")
        assert "it has another folder at" in mark.share_problem("node-1")
        file.unlink()
        assert f"it has another folder at {tmp_path}" in mark.share_problem("node-1")
        absent = mark.__class__(str(tmp_path / "none"), mark.name, mark.text, mark.versions)
        assert f"it has no folder {tmp_path / 'none'}" in absent.share_problem("node-1")


def test_other_versions_are_named_one_by_one(tmp_path):
    with put_mark(tmp_path) as mark:
        assert mark.version_problem(dict(versions())) == ""
        problem = mark.version_problem({**versions(), "torch": "1.0", "code": "0" * 12})
    assert f"torch 1.0 where the driver has {versions()['torch']}" in problem
    assert "code 000000000000 where" in problem
    assert "timm" not in problem


def test_a_trial_on_a_node_without_the_folder_runs_no_cell(tiny_sweep, store, monkeypatch):
    config = next(iter(make_plan(tiny_sweep, store).cells.values()))
    monkeypatch.setattr(trial, "node_name", lambda: "n7 (10.0.0.7)")
    monkeypatch.setattr(trial, "_run", lambda config, context, *, stop_collapsed: CellEnd("done"))
    for moved, status in ((False, "done"), (True, "unwritten")):
        with put_mark(store.folder) as mark:
            if moved:
                (store.folder / FOLDER / mark.name / "mark").unlink()
            context = TrialContext("tiny", str(store.folder), "cpu", "", 0, mark=mark)
            end = run_cell(config, context)
        assert (end.status, end.node if status == "done" else end.reason[:21]) == (
            status,
            "n7 (10.0.0.7)" if status == "done" else "node n7 (10.0.0.7): i",
        )


@pytest.mark.parametrize(
    ("text", "reason", "node_lost", "hopeless"),
    [
        ("", WORKER_DIED, False, False),
        (
            "ActorDiedError: The actor died unexpectedly before finishing this task.",
            WORKER_DIED,
            False,
            False,
        ),
        (
            "ActorDiedError: The actor died because its node has died. Node Id: 12",
            "its node was lost",
            True,
            False,
        ),
        (
            "ActorUnavailableError: The actor is unavailable: RpcError: RPC error rpc_code: 14. The task may have run",
            "the connection to its worker broke: its node is gone, or the process was killed",
            True,
            False,
        ),
        (
            "ray::ImplicitFunc.__init__() (pid=3, ip=10.0.0.2, actor_id=1)\nRuntimeError: The actor with name "
            "ImplicitFunc failed to import on the worker.\nModuleNotFoundError: No module named 'grid'",
            "the node 10.0.0.2 cannot run cells (ModuleNotFoundError: No module named 'grid'): install tta-grid "
            "there, as on the driver",
            False,
            True,
        ),
        (
            "Traceback\ntorch.OutOfMemoryError: CUDA out of memory",
            "torch.OutOfMemoryError: CUDA out of memory",
            False,
            False,
        ),
    ],
)
def test_why_a_trial_died_is_said_in_words_of_our_own(text, reason, node_lost, hopeless):
    death = death_of(text)
    assert (death.reason, death.node_lost, death.hopeless) == (reason, node_lost, hopeless)


def test_lost_nodes_do_not_use_up_the_tries_of_a_cell(tiny_sweep, store):
    queue = CellQueue(make_plan(tiny_sweep, store), {}, max_retries=1)
    cell, _ = queue.take()
    assert all(queue.retry(cell, node_lost=True) for _ in range(MOST_NODES_LOST))
    assert not queue.retry(cell, node_lost=True)
    assert queue.retry(cell)
    assert not queue.retry(cell)


STARTING = ", or our workers are still starting there"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("rooms", "reason"),
    [
        ([], "no node has 1 GPU free (0 of 0)"),
        ([Room({"CPU": 8, "GPU": 2}, {"CPU": 8})], f"no node has 1 GPU free (0 of 2){STARTING}"),
        ([Room({"CPU": 8, "GPU": 2}, {"GPU": 1, "CPU": 1})], f"no node has 2 CPU free (1 of 8){STARTING}"),
        ([Room({"CPU": 8, "GPU": 2}, {"GPU": 1, "CPU": 4})], "no worker has started yet on 1 node"),
    ],
)
def test_a_launch_says_what_it_waits_for(rooms, reason):
    clock = Clock()
    waiting = Waiting(Resources(cpu=2, gpu=1), lambda: rooms, most_seconds=100, clock=clock)
    said = []
    for clock.now in range(99):
        if text := waiting.look(running=clock.now < 10):
            said.append((clock.now, text))
    assert said == [(39, reason), (69, reason)]
    assert not waiting.given_up
    clock.now = 109.5
    waiting.look(running=False)
    assert waiting.given_up


def test_on_one_machine_only_our_own_workers_take_room():
    clock = Clock()
    waiting = Waiting(Resources(), lambda: [Room({"CPU": 2}, {})], alone=True, clock=clock)
    clock.now = 31
    assert waiting.look(running=False).startswith("the workers are still starting")


def test_nodes_that_can_hold_a_trial_are_checked_and_others_are_not(monkeypatch, tmp_path):
    nodes = [Node("1", "head", Room({"CPU": 0}, {})), Node("2", "n2 (10.0.0.2)", Room({"CPU": 4}, {}))]
    asked = []

    def ask(nodes, mark, configs):
        asked.extend(node.name for node in nodes)
        return [NodeReport(node.name, ("it has no folder /x: mount it",)) for node in nodes]

    monkeypatch.setattr("grid.launch.nodes.living_nodes", lambda: nodes)
    monkeypatch.setattr("grid.launch.nodes.ask_nodes", ask)
    with put_mark(tmp_path) as mark, pytest.raises(InputError, match=r"node n2 \(10.0.0.2\): it has no folder /x"):
        check_nodes(mark, Resources(), [])
    assert asked == ["n2 (10.0.0.2)"]
    gone = [NodeReport("n2", ("its node was lost",), answered=False)]
    monkeypatch.setattr("grid.launch.nodes.ask_nodes", lambda *given: gone)
    with put_mark(tmp_path) as mark:
        assert check_nodes(mark, Resources(), []) == ["node n2: its node was lost"]


def test_a_head_that_is_gone_is_noticed_and_one_that_answers_is_not():
    told, heard = [], threading.Event()

    def lost(message):
        told.append(message)
        heard.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with watching_head(address, lost=lost, every=0.02, patience=0.1):
            time.sleep(0.3)
            assert not told
            server.close()
            assert heard.wait(10)
    assert f"the Ray head at {address} has not answered" in told[0]
    assert "go on with the same command" in told[0]


def test_connecting_is_tried_again_and_then_told_in_one_message(monkeypatch):
    tries = []

    def init(*given, **how):
        tries.append(given)
        raise Exception("The current node timed out during startup.\nThis could happen because")

    errors = SimpleNamespace(AuthenticationError=KeyError)
    fake = SimpleNamespace(init=init, shutdown=lambda: None, exceptions=errors)
    monkeypatch.setattr(cluster, "PAUSES", (0, 0, 0))
    for name in cluster.SWITCHES:
        monkeypatch.setenv(name, "0")
    with pytest.raises(LaunchError, match=r"tried 3 times \(The current node timed out during startup\.\)"):
        cluster._connect(fake, "h:1")
    assert tries == [("h:1",)] * 3
    fake.init = lambda *given, **how: (_ for _ in ()).throw(RuntimeError("Version mismatch: The cluster has Ray 2.59"))
    with pytest.raises(InputError, match=r"has another Python or Ray \(Version mismatch"):
        cluster._connect(fake, "h:1")


def test_auto_needs_the_address_that_a_job_has(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="RAY_ADDRESS"):
        cluster.check_reachable("auto")


def test_progress_is_a_file_that_others_can_read(tiny_sweep, store, monkeypatch):
    plan = make_plan(tiny_sweep, store)
    first, second, *_ = plan.cells
    with StatusFile(store.folder, "tiny", plan, every=0.02) as status:
        status.cell_started(first)
        status.cell_ended(first, CellEnd("done", accuracy=0.5, seconds=1.0))
        status.cell_ended(second, CellEnd("failed", reason="diverged"))
        status.waiting("no node has 1 GPU free (0 of 0)")
        deadline = time.monotonic() + 20
        while (found := read_progress(store.folder))["waiting_for"] == "" and time.monotonic() < deadline:
            time.sleep(0.02)
    assert (found["state"], found["total"], found["done"], found["failed"], found["left"]) == ("running", 8, 1, 1, 6)
    assert "1 of 8 done, 1 failed, waiting: no node has 1 GPU free (0 of 0)" in shown(found)
    assert found["best"]["accuracy"] == 0.5
    assert read_progress(store.folder)["state"] == "interrupted"
    file = store.folder / "progress.json"
    file.write_text(json.dumps(found | {"updated_at": time.time() - 100}))
    assert "its driver is gone" in shown(read_progress(store.folder))
    # One of this machine is seen to be gone at once.
    with subprocess.Popen(["true"]) as ended:
        pass
    file.write_text(json.dumps(found | {"state": "running", "updated_at": time.time(), "pid": ended.pid}))
    assert read_progress(store.folder)["state"] == "lost"
    file.write_text("{")
    assert read_progress(store.folder) is None
