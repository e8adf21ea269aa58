"""Whole launches, as a user types them: real Ray Tune, real MLflow, real files, real signals."""

import json
import os
import re
import signal
import subprocess
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

import tta_core
from analysis.results.checks import check_results
from analysis.results.load import open_results
from grid.commands.main import main
from grid.launch.cluster import terminate_like_interrupt
from grid.plan.expand import expand
from grid.plan.sweep import read_sweep
from tta_core.methods.registry import method_spec

# One worker imports torch in half the time of two at once on two cores.
ONE_WORKER = ["--set", "resources.max_concurrent=1"]
SLOW = ["--set", "samples_per_domain=100", "--set", "seeds=[0,1,2]"]
PROC = Path("/proc/self/status").exists()
LR = method_spec("tent").presets["digits-c"]["lr"]


def cells(results: Path) -> dict[str, float]:
    found = open_results(results).sql("select cell, accuracy from cells where status = 'done'").fetchall()
    assert len({cell for cell, _ in found}) == len(found)
    return dict(found)


def children(results: Path) -> list[str]:
    client = MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    return [r.data.tags["cell"] for r in runs if "cell" in r.data.tags and r.info.status == "FINISHED"]


def without_launch(*arguments: object) -> str:
    """The command in this process, which costs no imports: what it prints."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_sweep_runs_once_and_then_only_what_is_new(command, tiny_file, tmp_path):
    results = tmp_path / "out"
    first = command("run", tiny_file, "--results", results, *ONE_WORKER)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "[8/8]" in first.stdout
    assert "8 cells: 8 done (0 were there before), 0 failed" in first.stdout
    assert "INFO" not in first.stderr  # Libraries keep their notes to themselves.
    before = cells(results)
    assert len(before) == 8
    assert sorted(children(results)) == sorted(before)
    con = open_results(results)
    assert check_results(con) == []
    recount = con.sql(
        "select method, avg(accuracy) from (select cell, avg((prediction = label)::int) as accuracy from samples "
        "group by cell) join (select cell, method from cells) using (cell) group by method"
    ).fetchall()
    assert dict(recount) == pytest.approx(
        dict(con.sql("select method, avg(accuracy) from cells group by method").fetchall())
    )

    again = without_launch("run", tiny_file, "--results", results)
    assert "starting Ray" not in again
    assert "8 done (8 were there before)" in again

    # A seed more, and a learning rate at which Tent diverges.
    changes = ("--set", "seeds=[0,1,2]", "--set", f"tent.lr=[{LR},1e30]")
    more = command("run", tiny_file, "--results", results, *changes, *ONE_WORKER)
    assert more.returncode == 1
    assert "[7/7]" in more.stdout
    assert "15 cells: 12 done (8 were there before), 3 failed" in more.stdout
    diverged = r"failed: tent lr=1e\+30 seed=\d \(tent-\w+\): tent diverged: parameters or predictions are infinite"
    assert len(re.findall(diverged, more.stderr)) == 3
    assert "Traceback" not in more.stdout + more.stderr
    after = cells(results)
    assert len(after) == 12
    assert before.items() <= after.items()
    assert sorted(children(results)) == sorted(after)
    status = json.loads(without_launch("status", results, "--json"))
    assert (status["done"], status["failed"]) == (12, 3)
    for asked, to_run in (((), 0), (changes, 3)):
        planned = json.loads(without_launch("plan", tiny_file, "--results", results, *asked, "--json"))
        assert planned["to_run"] == to_run
    assert not list((results / ".staging").iterdir())


@pytest.fixture
def temporary():
    """A folder for temporary files with a path as short as Ray's sockets need it."""
    with TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def start(command_line, tiny_file, temporary):
    """Starts the sweep that the tests below disturb, in a process group of its own."""

    def begin(results: Path, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command_line, "run", str(tiny_file), "--results", str(results), *SLOW, *ONE_WORKER, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(temporary)},
        )

    return begin


@pytest.fixture(scope="module")
def undisturbed(tiny_file):
    """Accuracies of that sweep when nobody disturbs it: run here, one cell after the other, without Ray."""
    overrides = SLOW[1::2]
    cells = expand(read_sweep(str(tiny_file), overrides)).cells
    return {cell: tta_core.run(config).accuracy for cell, config in cells.items()}


def wait_for_cells(process, count):
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith("[") and int(re.match(r"\[ *(\d+)/", line)[1]) >= count:
            return
    raise AssertionError(f"the sweep ended too early: {''.join(told)}")


def launched(driver: int) -> dict[int, str]:
    """A driver and its descendants: process id -> title."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, title = (folder / "status").read_text(), (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
        parents[int(folder.name)] = int(re.search(r"PPid:\s+(\d+)", status)[1])
        titles[int(folder.name)] = title

    def descends(pid):
        return pid == driver or (pid in parents and descends(parents[pid]))

    return {pid: title for pid, title in titles.items() if descends(pid)}


def workers(driver: int) -> list[int]:
    """Ray workers that run trials, among the descendants of a driver."""
    return [pid for pid, title in launched(driver).items() if title.startswith("ray::ImplicitFunc")]


def listening(driver: int) -> dict[str, set[str]]:
    """Addresses on which a driver and its descendants listen, as the kernel writes them -> titles of the processes."""
    owners: dict[str, set[str]] = {}
    for pid, title in launched(driver).items():
        for opened in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                owners.setdefault(str(opened.readlink()), set()).add(re.split(r"[\0 ]", title)[0])
    found: dict[str, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in owners:
                found.setdefault(local.partition(":")[0], set()).update(owners[f"socket:[{inode}]"])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6, and ::1."""


@pytest.mark.timeout(600)
def test_whatever_is_killed_or_interrupted_loses_nothing_and_goes_on(start, tmp_path, undisturbed, temporary):
    results = tmp_path / "out"
    process = start(results)
    wait_for_cells(process, 3)
    # Nobody else on this machine or in its network can reach the launch.
    if PROC:
        found = listening(process.pid)
        assert set(found) <= LOOPBACK, found
        titles = " ".join(title for who in found.values() for title in who)
        assert all(name in titles for name in ("ray::ImplicitFunc", "gcs_server", "raylet", "python"))
    (folder,) = temporary.glob("tta-grid-*")
    assert folder.stat().st_mode & 0o077 == 0
    # The driver dies, and cleans up nothing: the next launch does.
    process.kill()
    process.wait()
    assert folder.exists()
    kept = cells(results)
    assert 3 <= len(kept) < len(undisturbed)
    assert kept.items() <= undisturbed.items()

    # Ctrl-C, as a terminal sends it: to the whole group.
    process = start(results)
    wait_for_cells(process, 1)
    assert not folder.exists()
    os.killpg(process.pid, signal.SIGINT)
    output = process.stdout.read()
    assert process.wait() == 130, output
    assert list(temporary.glob("tta-grid-*")) == []
    assert "Go on with the same command" in output
    assert "Traceback" not in output

    # Workers die, and are replaced.
    process = start(results)
    if PROC:
        wait_for_cells(process, 1)
        os.kill(workers(process.pid)[0], signal.SIGKILL)
    output = process.stdout.read()
    assert process.wait() == 0, output
    assert "Traceback" not in output
    assert cells(results) == undisturbed
    assert check_results(open_results(results)) == []
    assert sorted(children(results)) == sorted(undisturbed)
    if not PROC:
        pytest.skip("workers are found through /proc: none was killed")


def import_interrupted_by(sent):
    with terminate_like_interrupt():
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), sent)
        raise ImportError("could not import module")


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_sigterm_interrupts_as_ctrl_c_does(sent, ctrl_c):
    # A shell that starts something in the background has Ctrl-C ignored there, and SIGTERM not.
    before = {sent: signal.signal(sent, signal.SIG_DFL)}  # Under nohup SIGHUP is ignored.
    before.setdefault(signal.SIGINT, signal.signal(signal.SIGINT, ctrl_c))
    ignored = (sent, ctrl_c) == (signal.SIGINT, signal.SIG_IGN)
    try:
        with nullcontext() if ignored else pytest.raises(KeyboardInterrupt), terminate_like_interrupt():
            os.kill(os.getpid(), sent)
        # What is being imported may take the interrupt for a fault of its own.
        with pytest.raises(ImportError if ignored else KeyboardInterrupt):
            import_interrupted_by(sent)
        assert signal.getsignal(signal.SIGINT) is ctrl_c
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    with pytest.raises(ImportError), terminate_like_interrupt():
        raise ImportError("nobody interrupted")
