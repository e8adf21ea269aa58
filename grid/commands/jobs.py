"""The commands that send sweeps to a cluster and look after them there. Thin, with lazy imports."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.texts import counted
from grid.commands.options import EXIT_SOME_FAILED, Finite, SweepOptions, argument, option, reads
from tta_core.errors import InputError

if TYPE_CHECKING:
    from grid.cluster.jobs import Job, Jobs

API_ADDRESS = {
    "metavar": "URL",
    "help": "The head's dashboard, http://HEAD:8265. [default: what RAY_API_SERVER_ADDRESS says]",
}


@dataclass(frozen=True)
class SubmitOptions(SweepOptions):
    """What is sent, and where."""

    address: str | None = option("--address", **API_ADDRESS)
    code: bool = option("--code", is_flag=True, help="Send the code of this tta-grid too; it wins over the installed.")
    python: str = option(
        "--python", metavar="PATH", default="python", show_default=True, help="The Python of the cluster's environment."
    )
    tracking_uri: str | None = option("--tracking-uri", metavar="URI", help="MLflow store, as the cluster reaches it.")
    wait: float | None = option(
        "--wait", metavar="MINUTES", type=Finite(min=0), help="As of tta-grid run. [default: for ever]"
    )
    follow: bool = option("--follow", is_flag=True, help="Show what the job prints until it ends.")


@click.command()
@reads(SubmitOptions)
def submit(given: SubmitOptions) -> None:
    """Sends SWEEP to a Ray cluster as a job, which goes on when this machine is switched off.

    \b
    tta-grid submit my-sweep.yaml --address http://127.0.0.1:8265 --results /shared/results/my-sweep --follow

    The sweep is read here first. A job that runs the same sweep into the same folder is not started twice; one that
    ended goes on. Nothing of this machine but the sweep is sent: no credentials, no variables, no data.

    \b
    Exit status: 0, 1 the job that was followed failed, 2 the input is wrong, 3 the cluster does not answer.
    """
    from grid.cluster.jobs import Jobs
    from grid.cluster.submit import check_results
    from grid.cluster.submit import submit as send
    from grid.plan.plan import Unread, make_plan
    from grid.plan.sweep import read_sweep
    from grid.store.objects import is_url
    from grid.store.store import ResultStore

    sweep = read_sweep(given.sweep, given.overrides)
    results = check_results(given.results)
    plan = make_plan(sweep, Unread() if is_url(results) else ResultStore(results))
    options: tuple[str, ...] = () if given.tracking_uri is None else ("--tracking-uri", given.tracking_uri)
    options += () if given.wait is None else ("--wait", f"{given.wait:g}")
    jobs = Jobs(given.address)
    sent = send(jobs, sweep, plan, results, code=given.code, python=given.python, options=options)
    address = f"--address {jobs.address}"
    if sent.already_running:
        click.echo(f"this sweep is running there already: {sent.job}")
    else:
        click.echo(f"sent {counted(len(plan.cells), 'cell')} as {sent.job}")
    click.echo(f"results  {results} (on the cluster)")
    click.echo(f"watch    tta-grid logs {sent.job} --follow {address}")
    click.echo(f"stop     tta-grid stop {sent.job} {address}")
    click.echo(f"fetch    tta-grid fetch --job {sent.job} DIR {address}")
    if given.follow:
        _follow(jobs, sent.job)


@dataclass(frozen=True)
class LogOptions:
    """Whose log, and how."""

    job: str = argument(metavar="JOB")
    address: str | None = option("--address", **API_ADDRESS)
    follow: bool = option("--follow", "-f", is_flag=True, help="Go on until the job ends.")


@click.command()
@reads(LogOptions)
def logs(given: LogOptions) -> None:
    """Shows what JOB printed; with --follow also what it is going to print. Ctrl-C ends the showing, not the job."""
    from grid.cluster.jobs import Jobs

    jobs = Jobs(given.address)
    if given.follow:
        _follow(jobs, jobs.get(given.job).id)
    else:
        click.echo(jobs.logs(jobs.get(given.job).id), nl=False)


def _follow(jobs: Jobs, name: str) -> None:
    try:
        for text in jobs.follow(name):
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        click.echo(
            f"\nthe job goes on; look again with: tta-grid logs {name} --follow --address {jobs.address}", err=True
        )
        return
    job = jobs.get(name)
    if job.state != "SUCCEEDED":
        click.echo(f"{name}: {job.state}: {job.message}", err=True)
        raise SystemExit(EXIT_SOME_FAILED)


@dataclass(frozen=True)
class JobOptions:
    """A job."""

    job: str = argument(metavar="JOB")
    address: str | None = option("--address", **API_ADDRESS)


@click.command()
@reads(JobOptions)
def stop(given: JobOptions) -> None:
    """Ends JOB in order: cells that finished are kept, and `tta-grid submit` with the same sweep goes on."""
    from grid.cluster.jobs import STOP_SECONDS, Jobs

    jobs = Jobs(given.address)
    if jobs.get(given.job).ended:
        click.echo(f"{given.job} had ended: {jobs.get(given.job).state}")
        return
    click.echo(f"stopping {given.job}, which may take {STOP_SECONDS // 60} minutes", err=True)
    job = jobs.stop(given.job)
    click.echo(f"{job.id}: {job.state}; {_progress(jobs, job)}. Finished cells are kept in {job.results}")
    if not job.ended:
        raise SystemExit(EXIT_SOME_FAILED)


@dataclass(frozen=True)
class FetchOptions:
    """From where to where."""

    folders: tuple[str, ...] = argument(nargs=-1, metavar="[SOURCE] DIR")
    job: str | None = option("--job", metavar="JOB", help="Fetch what this job wrote, in place of SOURCE.")
    address: str | None = option("--address", **API_ADDRESS)


@click.command("fetch")
@reads(FetchOptions)
def fetch_results(given: FetchOptions) -> None:
    """Copies into DIR the finished cells, failures and studies of SOURCE that it lacks, and checks each.

    \b
    tta-grid fetch /mnt/shared/results/my-sweep results/my-sweep
    tta-grid fetch --job tta-my-sweep-0123abcd-1 results/my-sweep --address http://127.0.0.1:8265

    With --job SOURCE is the folder of the job, if this machine sees it; if not, the command to copy it is printed.

    \b
    Exit status: 0, 1 some cells are damaged there and were left, 2 the input is wrong, 3 the cluster does not answer.
    """
    from grid.cluster.fetch import fetch

    if len(given.folders) != (1 if given.job else 2):
        raise InputError("give SOURCE and DIR, or --job JOB and DIR")
    target = given.folders[-1]
    source = _folder_of(given.job, given.address, target) if given.job else given.folders[0]
    found = fetch(source, target)
    click.echo(
        f"{target}: {counted(found.cells, 'new cell')}, {counted(found.failures, 'new failure')}, "
        f"{found.present} were there before"
    )
    for damage in found.damaged:
        click.echo(f"damaged at the source, not taken: {damage}", err=True)
    click.echo(f"report   tta-grid report {target}")
    if found.damaged:
        raise SystemExit(EXIT_SOME_FAILED)


def _folder_of(name: str, address: str | None, target: str) -> str:
    from urllib.parse import urlparse

    from grid.cluster.jobs import Jobs
    from grid.store.objects import is_url

    jobs = Jobs(address)
    results = jobs.get(name).results
    if is_url(results) or (Path(results) / "store.json").is_file():
        return results
    host = urlparse(jobs.address).hostname
    head = "USER@HEAD" if host in ("127.0.0.1", "localhost") else host
    raise InputError(
        f"the results of {name} lie in {results} on the cluster, which this machine does not see, and the Jobs API "
        "hands out no files. Copy them with one of\n"
        f"  rsync -a --exclude '.*' {head}:{results}/ {target}/\n"
        f"  ray rsync-down CLUSTER.yaml {results}/ {target}/\n"
        f"  kubectl cp HEAD-POD:{results} {target}\n"
        "Each may be repeated: cells never change"
    )


@dataclass(frozen=True)
class DoctorOptions:
    """What is looked at."""

    sweep: str | None = argument(required=False)
    overrides: tuple[str, ...] = option(
        "--set", multiple=True, metavar="KEY=VALUE", help="Override an entry of the sweep; repeatable."
    )
    address: str | None = option(
        "--address", metavar="ADDR", help="Ray head (host:port or auto), to look at its nodes."
    )
    results: str | None = option(
        "--results", metavar="DIR", help="Results that the nodes are to share: a folder or a URL."
    )
    as_json: bool = option("--json", is_flag=True, help="Print as JSON.")


@click.command()
@reads(DoctorOptions)
def doctor(given: DoctorOptions) -> None:
    """Looks for what would keep SWEEP from running, here and on every node of a cluster, and says what to do.

    \b
    tta-grid doctor my-sweep.yaml
    tta-grid doctor my-sweep.yaml --address HEAD:6379 --results /shared/results/my-sweep

    \b
    Exit status: 0 cells can run, 1 they cannot, 2 the input is wrong.
    """
    import json

    from grid.cluster.doctor import diagnose
    from grid.plan.plan import make_plan
    from grid.plan.sweep import read_sweep
    from grid.store.store import ResultStore

    if given.sweep is None and given.overrides:
        raise InputError("--set changes a sweep: name one")
    results = given.results
    plan = None
    if given.sweep is not None:
        sweep = read_sweep(given.sweep, given.overrides)
        plan = make_plan(sweep, ResultStore(results or Path("results") / sweep.sweep))
    found = diagnose(plan, address=given.address, results=results)
    click.echo(json.dumps(found.values(), indent=2) if given.as_json else found.as_text())
    if not found.healthy:
        raise SystemExit(EXIT_SOME_FAILED)


def jobs_status(name: str | None, address: str | None) -> list[dict[str, Any]]:
    """The jobs of a cluster, or one of them, with how far each is."""
    from grid.cluster.jobs import Jobs

    jobs = Jobs(address)
    found = [jobs.get(name)] if name else jobs.all()
    return [
        {
            "job": job.id,
            "state": job.state,
            "sweep": job.sweep,
            "cells": job.cells,
            "progress": _progress(jobs, job),
            "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started_ms / 1000)),
            "results": job.results,
            "message": "" if job.state in ("RUNNING", "SUCCEEDED") else job.message,
        }
        for job in found
    ]


def jobs_text(rows: list[dict[str, Any]]) -> str:
    """`jobs_status` for people."""
    from tta_core.text_table import text_table

    if not rows:
        return "no jobs of tta-grid there. Send one: tta-grid submit SWEEP --results DIR"
    names = ("job", "state", "cells", "progress", "started", "results")
    table = text_table(names, [[str(row[name]) for name in names] for row in rows], [False] * len(names))
    notes = [f"{row['job']}: {row['message']}" for row in rows if row["message"]]
    return "\n".join([table, *notes])


def _progress(jobs: Jobs, job: Job) -> str:
    """How far a job is: by its file, or where that cannot be read from here by the last line that says so."""
    from grid.launch.status_file import read_progress, shown

    # The file is the last launch's, which of a job that ended may be another.
    if not job.ended and (progress := read_progress(Path(job.results))):
        return shown(progress)
    lines = [
        line for line in jobs.logs(job.id).splitlines() if line.startswith(("[", "waiting:")) or " cells: " in line
    ]
    if lines:
        return " ".join(lines[-1].split())
    return "no cell ended" if job.ended else "nothing told yet"
