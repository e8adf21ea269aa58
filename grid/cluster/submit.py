"""Sends a sweep to a cluster as a job that runs `tta-grid run` there."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import yaml

from grid.cluster.jobs import STOP_SECONDS, Job, Jobs
from grid.launch.provenance import ROOT, code_files
from grid.plan.plan import Plan
from grid.plan.sweep import Sweep, read_sweep
from grid.store.objects import is_url
from tta_core.errors import InputError

MOST_BYTES = 100 * 2**20
"""What Ray takes as the folder of a job."""


@dataclass(frozen=True)
class Submitted:
    """What became of a sweep that was sent.

    Attributes:
        job: name of the job.
        already_running: whether it ran before, so that nothing was sent.
    """

    job: str
    already_running: bool


def check_results(results: str | None) -> str:
    """Checks the results folder of a job, which is a path on the cluster.

    Raises:
        InputError: if it is not one that all nodes can mean, or has a password in it.
    """
    if not results:
        raise InputError(
            "a job needs --results: an absolute path that the head and all nodes share, or s3://BUCKET/PATH"
        )
    if is_url(results):
        if "@" in urlsplit(results).netloc:
            raise InputError("--results has credentials in it, and those are not sent: set them where Ray starts")
        return results
    if not PurePosixPath(results).is_absolute():
        raise InputError(f"--results {results!r}: a job runs in a folder of its own: give an absolute path")
    return str(PurePosixPath(results))


def submit(
    jobs: Jobs, sweep: Sweep, plan: Plan, results: str, *, code: bool, python: str, options: tuple[str, ...] = ()
) -> Submitted:
    """Starts a job for a sweep, unless one for the same sweep and folder runs.

    Args:
        jobs: the cluster.
        sweep: the sweep, with all that the command line changed.
        plan: its cells.
        results: the folder, see `check_results`.
        code: whether to send this project's files; they are taken over those that are installed there.
        python: the Python that runs the job on the head.
        options: more for `tta-grid run`.

    Raises:
        InputError: if what is to be sent is too large.
    """
    earlier = [job for job in jobs.all() if job.id.startswith(f"{_stem(sweep, results)}-")]
    if running := [job for job in earlier if not job.ended]:
        return Submitted(running[-1].id, already_running=True)
    name = f"{_stem(sweep, results)}-{1 + max((_number(job) for job in earlier), default=0)}"
    run = [python, "-u", "-m", "grid", "run", "sweep.yaml", "--address", "auto", "--results", results, *options]
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    tags = {"sweep": sweep.sweep, "results": results, "cells": str(len(plan.cells))}
    with tempfile.TemporaryDirectory() as folder:
        _pack(Path(folder), sweep, code=code)
        jobs.submit(name, shlex.join(run), Path(folder), variables, tags)
    return Submitted(name, already_running=False)


def _pack(folder: Path, sweep: Sweep, *, code: bool) -> None:
    """Puts the sweep, and the code if that is wanted, into a folder: a list of files, whatever else lies around."""
    file = folder / "sweep.yaml"
    file.write_text(_text(sweep))
    again = read_sweep(str(file))
    assert again == sweep, "a sweep that was written down reads as another"
    if code:
        files = code_files()
        size = sum(each.stat().st_size for each in files)
        if size > MOST_BYTES:
            raise InputError(
                f"--code: the files are {size / 2**20:.0f} MiB, and Ray takes {MOST_BYTES / 2**20:.0f} MiB at most: "
                "install the package on the nodes"
            )
        for each in files:
            target = folder / each.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(each, target)


def _text(sweep: Sweep) -> str:
    return yaml.safe_dump(sweep.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def _stem(sweep: Sweep, results: str) -> str:
    same = hashlib.sha256(f"{_text(sweep)}\0{results}".encode()).hexdigest()[:8]
    return f"tta-{sweep.sweep}-{same}"


def _number(job: Job) -> int:
    number = job.id.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
