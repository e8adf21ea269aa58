"""Results in an object store: a cell is there when its row is, and whoever reads sees nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tta_core
from analysis.results.damage import inspect
from analysis.results.load import open_results
from grid.cluster.fetch import fetch
from grid.commands.results import check_of, status_of
from grid.launch.mark import put_mark
from grid.launch.trial import TrialContext, run_cell
from grid.store.mirror import Mirror, folder_here
from grid.store.objects import Objects
from grid.store.store import ResultStore, UnwritableError
from tests.s3_server import KEYS, S3Server
from tta_core.errors import InputError
from tta_core.methods.tent.method import Tent
from tta_core.run.config import RunConfig

CONFIG = {"method": "source", "preset": "digits-c", "severity": 4, "samples_per_domain": 6, "domains": ["fog"]}
WRITER = """
import sys, tta_core
from grid.store.store import ResultStore
result = tta_core.run({config!r})
print("ready", flush=True)
ResultStore(sys.argv[1]).write_result(result, sweep="s", git_commit="")
"""


@pytest.fixture(scope="module")
def server():
    made = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield made
    made.close()


@pytest.fixture
def url(server, tmp_path, monkeypatch) -> str:
    """A new place for results, with a cache of its own: each test is another machine."""
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("grid.store.objects.PAUSES", ())
    server.after_put = lambda key: None
    made = server.url(tmp_path.name)
    ResultStore(made).create()
    return made


@pytest.fixture(scope="module")
def result():
    return tta_core.run(CONFIG)


def write(url, result):
    ResultStore(url).write_result(result, sweep="s", git_commit="abc")


def test_a_cell_comes_home_as_it_was_written_and_only_once(url, result, tmp_path):
    write(url, result)
    found = fetch(url, str(tmp_path / "home"))
    assert (found.cells, found.failures, found.present, found.damaged) == (1, 0, 0, ())
    assert inspect(tmp_path / "home", thorough=True).damages == ()
    con = open_results(tmp_path / "home")
    assert con.sql("select accuracy, n_samples from cells").fetchall() == [(result.accuracy, result.n_samples)]
    assert con.sql("select prediction from samples order by position").fetchall() == [
        (int(each),) for each in result.samples["prediction"]
    ]
    again = fetch(url, str(tmp_path / "home"))
    assert (again.cells, again.present) == (0, 1)


@pytest.mark.parametrize("objects", range(5))
def test_a_writer_that_dies_between_objects_leaves_no_cell_and_the_next_one_writes_it(
    objects, url, result, monkeypatch
):
    sent, plain = [], Objects.write

    def write_some(self, name, content):
        if len(sent) == objects:
            raise SystemExit
        sent.append(name)
        plain(self, name, content)

    monkeypatch.setattr(Objects, "write", write_some)
    with pytest.raises(SystemExit):
        write(url, result)
    monkeypatch.setattr(Objects, "write", plain)
    assert len(Objects(url).listed("cells")) == objects
    assert ResultStore(url).states() == {}
    assert status_of(url)["done"] == 0
    Objects(url).write(f"cells/{result.cell}/notes.txt", b"of the attempt that died")
    write(url, result)
    assert ResultStore(url).states() == {result.cell: "done"}
    assert check_of(url, repair=False)["damages"] == []


def test_a_process_that_the_server_kills_between_objects_is_made_up_for(server, url, result):
    killed = []

    def kill(key: str) -> None:
        if "/cells/" in key and key.endswith("diagnostics.parquet"):
            os.kill(writer.pid, signal.SIGKILL)
            killed.append(key)

    server.after_put = kill
    writer = subprocess.Popen([sys.executable, "-c", WRITER.format(config=CONFIG), url], stdout=subprocess.PIPE)
    assert writer.wait(timeout=120) == -signal.SIGKILL
    writer.stdout.close()
    server.after_put = lambda key: None
    assert killed
    assert set(Objects(url).listed("cells"))  # What it left is there, and nobody sees it.
    assert ResultStore(url).states() == {}
    end = run_cell(result.config, TrialContext("s", url, "cpu", "", 0))
    assert (end.status, ResultStore(url).states()) == ("done", {result.cell: "done"})
    assert check_of(url, repair=False)["damages"] == []


def test_a_cell_that_is_there_is_not_run_again_on_a_machine_that_never_saw_it(url, result, tmp_path, monkeypatch):
    write(url, result)
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr("tta_core.run.cell.run", lambda *given, **how: pytest.fail("run again"))
    assert run_cell(result.config, TrialContext("s", url, "cpu", "", 0)).status == "done"


def test_a_failure_is_replaced_by_a_later_one_and_goes_when_the_cell_finishes(url, result):
    store = ResultStore(url)
    for reason in ("no memory", "no disk"):
        store.write_failure(result.config, reason, sweep="s", git_commit="")
        assert (store.states(), store.failures([result.cell])) == ({result.cell: "failed"}, {result.cell: reason})
    write(url, result)
    assert store.states() == {result.cell: "done"}
    assert Objects(url).listed("failed") == {}


def test_one_driver_holds_the_store_and_one_that_was_killed_does_not(url, tmp_path, monkeypatch):
    with ResultStore(url).locked():
        monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "other"))
        other = ResultStore(url)
        other.create()
        with pytest.raises(InputError, match="another tta-grid run is writing to s3://bucket/"), other.locked():
            pass
    with other.locked():
        pass
    gone = subprocess.Popen(["true"])
    gone.wait()
    objects = Mirror(url).objects
    mine = '{"id": "x", "host": "HOST", "pid": PID, "at": AT}'.replace("PID", str(gone.pid))
    here, now = os.uname().nodename, str(time.time())
    objects.write("driver.json", mine.replace("HOST", here).replace("AT", now).encode())
    with other.locked():
        pass
    objects.write("driver.json", mine.replace("HOST", "elsewhere").replace("AT", now).encode())
    with pytest.raises(InputError, match="on elsewhere"), other.locked():
        pass
    objects.write("driver.json", mine.replace("HOST", "elsewhere").replace("AT", "1.0").encode())
    with other.locked():
        pass


def test_a_change_there_is_seen_here_and_repair_takes_the_cell_away_on_both_sides(url, result):
    write(url, result)
    objects = Objects(url)
    assert check_of(url, repair=False)["damages"] == []
    objects.write(f"cells/{result.cell}/samples.parquet", b"torn")
    told = check_of(url, repair=True)
    assert [each["path"] for each in told["damages"]] == [f"cells/{result.cell}"]
    assert objects.listed("cells") == {}
    assert f"damaged/cells/{result.cell}/cell.parquet" in objects.listed("damaged")
    assert ResultStore(url).states() == {}
    write(url, result)
    assert check_of(url, repair=False)["damages"] == []


def test_studies_and_progress_are_sent_when_they_change_and_come_to_other_machines(url, tmp_path, monkeypatch):
    store = ResultStore(url)
    with store.locked():
        (store.folder / "search" / "a").mkdir(parents=True)
        (store.folder / "search" / "a" / "study.json").write_text("{}")
        store.share("search")
        with monkeypatch.context() as patch:
            patch.setattr(Objects, "write", lambda *given: pytest.fail("sent again"))
            store.share("search")
        (store.folder / "search" / "a" / "study.json").write_text('{"more": 1}')
        # A command that reads on this machine leaves the driver's own files alone.
        folder_here(url)
        assert (store.folder / "search" / "a" / "study.json").read_text() == '{"more": 1}'
        store.share("search")
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "other"))
    assert (Path(folder_here(url)) / "search" / "a" / "study.json").read_text() == '{"more": 1}'


def test_nodes_show_that_they_see_the_same_bucket(url):
    with put_mark(url) as mark:
        assert mark.share_problem("node-1") == ""
        assert mark.answered("node-1")
        other = mark.__class__(url.replace("/test", "/no"), mark.name, mark.text, mark.versions)
        assert "give it the same endpoint" in other.share_problem("node-1")
    assert Objects(url).listed(".marks") == {}


def test_what_cannot_be_used_is_said_without_the_password(url, server, result, tmp_path):
    for wrong in ("nope://x/y", "s3://", "s3:///x", "s3://bucket/p?foo=1"):
        with pytest.raises(InputError, match="s3://BUCKET/PATH"):
            ResultStore(wrong)
    secret = server.url("p").replace("s3://", "s3://me:secret@")
    assert "secret" not in ResultStore(secret).shown
    dead = ResultStore(secret.replace(str(server.port), "9"))
    with pytest.raises(InputError) as told:
        dead.states()
    assert "secret" not in str(told.value)
    with pytest.raises(UnwritableError) as told:
        dead.write_result(result, sweep="s", git_commit="")
    assert "secret" not in str(told.value)
    with pytest.raises(InputError, match="holds no results"):
        folder_here(server.url("nothing/there"))
    with pytest.raises(InputError, match="fills a folder"):
        fetch(str(tmp_path), url)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_a_cell_goes_on_from_its_checkpoint_on_another_machine(url, tmp_path, monkeypatch):
    config = RunConfig.from_values(CONFIG | {"method": "tent", "samples_per_domain": 12, "batch_size": 4})
    context = TrialContext("s", url, "cpu", "", 1)
    sent, plain = [], Objects.write

    def write(self, name, content):
        plain(self, name, content)
        sent.append(name)
        if sent.count(f".checkpoints/{config.cell_id()}.pt") == 2:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "write", write)
        with pytest.raises(SystemExit):
            run_cell(config, context)
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "other"))
    steps, step = [], Tent.step
    with monkeypatch.context() as patch:
        patch.setattr(Tent, "step", lambda self, *given: steps.append(1) or step(self, *given))
        assert run_cell(config, context).status == "done"
    assert len(steps) == 1  # Of three batches two were before the checkpoint.
    assert Objects(url).listed(".checkpoints") == {}
