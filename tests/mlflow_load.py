"""Logs many cells in MLflow while others read and write there, and counts what arrived.

    python -m tests.mlflow_load --store postgresql --cells 1000 --others 8

`--store` is `sqlite` (a file), `http` (`mlflow server` over such a file) or `postgresql` (started here, on loopback).
Each search and each run of the others takes about half a second of a processor: eight of them without pauses leave a
small machine nothing for the mirror.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import tta_core
from grid.launch.environment import set_switches
from grid.store.store import ResultStore
from grid.track.upload import Uploaded, upload
from tta_core.run.config import RunConfig

NOBODY = "nobody"
"""PostgreSQL does not run as root."""

OTHER = """
import sys, time
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
uri, number, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
client = MlflowClient(tracking_uri=uri)
experiment = client.get_experiment_by_name("others").experiment_id
done = 0
print("ready", flush=True)
while True:
    if number % 2:
        client.search_runs(["0", experiment], max_results=100)
    else:
        run = client.create_run(experiment)
        client.log_batch(run.info.run_id, metrics=[Metric(f"m{i}", i, 0, 0) for i in range(50)])
        client.set_terminated(run.info.run_id)
    done += 1
    print(done, flush=True)
    time.sleep(pause)
"""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of our own on loopback.

    Raises:
        FileNotFoundError: if it is not installed.
    """
    found = [shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not (initdb := next(filter(None, found), None)):
        raise FileNotFoundError("initdb: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    who = {"user": NOBODY, "cwd": "/"} if os.geteuid() == 0 else {}
    if who:
        shutil.chown(folder, NOBODY)
    port, binaries = free_port(), Path(initdb).resolve().parent
    subprocess.run(
        [initdb, "-D", folder / "data", "-U", "mlflow", "--auth=trust", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        **who,
    )
    server = subprocess.Popen(
        [binaries / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)],
        stderr=subprocess.DEVNULL,
        **who,
    )
    try:
        reach = ["-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run([binaries / "pg_isready", *reach], stdout=subprocess.DEVNULL).returncode:
            time.sleep(0.2)
        subprocess.run([binaries / "createdb", *reach, "-U", "mlflow", "mlflow"], check=True)
        yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        # SIGTERM would wait for clients, of which this process is one.
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(file: Path, port: int) -> Iterator[str]:
    """`mlflow server` over an sqlite file; it may be started again over the same one."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{file}", "--artifacts-destination", file.with_suffix(".artifacts")),
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def tracking(kind: str, folder: Path) -> Iterator[str]:
    """A tracking store."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'shared.db'}"
        return
    with postgresql() if kind == "postgresql" else mlflow_server(folder / "shared.db", free_port()) as uri:
        yield uri


@contextmanager
def others(uri: str, number: int, pause: float) -> Iterator[list[int]]:
    """Processes that read and write there, with pauses of so many seconds; each adds how often it did when they end."""
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=uri).create_experiment("others")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER, uri, str(each), str(pause)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for each in range(number)
    ]
    for each in started:
        assert each.stdout.readline() == "ready\n"
    done: list[int] = []
    try:
        yield done
    finally:
        for each in started:
            died = each.poll() is not None
            each.kill()
            out, err = each.communicate()
            assert not died, f"one of the others failed: {err[-2000:]}"
            done.append(int(out.split()[-1]) if out.split() else 0)


def filled(folder: Path, cells: int) -> ResultStore:
    """A store with so many cells, which are copies of one that was run."""
    values = {"method": "source", "preset": "digits-c", "severity": 4, "samples_per_domain": 100, "domains": ["fog"]}
    result = tta_core.run(values)
    store = ResultStore(folder)
    store.create()
    for seed in range(cells):
        config = RunConfig.from_values(values | {"seed": seed})
        store.write_result(replace(result, config=config, cell=config.cell_id()), sweep="load", git_commit="")
    return store


def arrived(uri: str) -> list[str]:
    """The cells that MLflow has whole, one for each run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("load").experiment_id
    found, token = [], None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found += [run.data.tags["cell"] for run in page if "cell" in run.data.tags and "accuracy" in run.data.metrics]
        token = page.token
        if not token:
            return found


def load(kind: str, cells: int, number: int, pause: float = 0.2) -> tuple[Uploaded, list[str], list[int], float]:
    """Logs the cells while others are at work: what became of it, what arrived, what the others did, seconds."""
    set_switches()
    folder = Path(tempfile.mkdtemp(prefix="load-"))
    try:
        with tracking(kind, folder) as uri:
            store = filled(folder / "results", cells)
            with others(uri, number, pause) as done:
                began = time.monotonic()
                (told,) = upload(str(store.folder), uri, None)
                seconds = time.monotonic() - began
            return told, arrived(uri), done, seconds
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "http", "postgresql"), required=True)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--others", type=int, default=8)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two things that one of them does")
    given = parser.parse_args()
    told, found, done, seconds = load(given.store, given.cells, given.others, given.pause)
    print(
        f"{given.store}: {told.logged} of {given.cells} cells logged in {seconds:.0f} s "
        f"({told.logged / seconds:.1f} a second), {len(set(found))} arrived, {len(found) - len(set(found))} twice, "
        f"problem {told.problem or 'none'}; meanwhile {sum(done[1::2])} searches and {sum(done[::2])} runs of others"
    )


if __name__ == "__main__":
    main()
