"""Looks at this machine and at every node of a cluster, before anything runs, and says what to do."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from grid.events import LaunchError
from grid.launch.provenance import MUST_AGREE, git_commit, versions
from grid.plan.plan import Plan
from grid.plan.sweep import Resources
from tta_core.errors import InputError
from tta_core.machine import free_bytes, gib
from tta_core.run.config import RunConfig

LEAST_GIB = 5.0
"""Free disk below which a warning is due: caches of decoded images and results take more than that."""

CLOCK_SECONDS = 5.0
"""Clocks that differ by more make times in results and logs hard to read."""

JOBS_PACKAGES = ("aiohttp_cors", "opencensus", "prometheus_client", "smart_open", "virtualenv", "colorful")
"""What a head takes jobs with; `ray[default]` brings them."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        where: `here`, or a node.
        what: what was looked at.
        state: `ok`, `warn` for what may do all the same, `fail` for what keeps cells from running.
        text: what was found, and what to do.
    """

    where: str
    what: str
    state: Literal["ok", "warn", "fail"]
    text: str


@dataclass
class Diagnosis:
    """All that was looked at."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether cells can run."""
        return all(finding.state != "fail" for finding in self.findings)

    def as_text(self) -> str:
        """The findings for people."""
        wide = max((len(finding.what) for finding in self.findings), default=0)
        lines, where = [], ""
        for each in self.findings:
            if each.where != where:
                where = each.where
                lines.append(f"{where}:")
            lines.append(f"  {each.state:<4}  {each.what:<{wide}}  {each.text}")
        failures = sum(finding.state == "fail" for finding in self.findings)
        return "\n".join([*lines, "cells can run" if not failures else f"{failures} fault{'s' * (failures > 1)}"])

    def values(self) -> dict[str, Any]:
        """The findings for machines."""
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(plan: Plan | None, *, address: str | None, results: str | None) -> Diagnosis:
    """Looks at this machine, and with an address at every node.

    Args:
        plan: cells whose images and weights are looked for; None for none.
        address: a Ray head, host:port or auto.
        results: the results folder that nodes are to share; a cluster without it is asked for the rest.
    """
    from grid.launch.launch import read_by

    configs = read_by(plan) if plan else []
    resources = plan.sweep.resources if plan else Resources()
    found = Diagnosis()
    # On a cluster it is the nodes that read images.
    found.findings += look_here([] if address else configs, cluster=address is not None)
    if plan and plan.sweep.tracking.uri:
        found.findings.append(_tracking(plan.sweep.tracking.uri))
    if results is not None:
        found.findings.append(_results(results))
    if address is not None and found.healthy:
        found.findings += list(_look_at_nodes(address, results, resources, configs))
    return found


def look_here(configs: Iterable[RunConfig], *, cluster: bool) -> list[Finding]:
    """What this machine has."""
    found = [Finding("here", "python", "ok", f"{sys.version.split()[0]}, {sys.executable}"), _packages(), _gpu()]
    commit = git_commit()
    found.append(Finding("here", "code", "ok", f"{versions()['code']}{f', commit {commit}' if commit else ''}"))
    for what, place in (("disk for caches", _cache()), ("disk for temporary files", Path("/tmp"))):
        found.append(_disk(what, place))
    if configs := list(configs):
        found.append(_images(configs))
    if cluster:
        found += [_token(), _jobs_packages()]
    return found


def _packages() -> Finding:
    from packaging.requirements import Requirement

    wrong = []
    with contextlib.suppress(PackageNotFoundError):
        for text in requires("tta-grid") or []:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            try:
                have = version(wanted.name)
            except PackageNotFoundError:
                have = "none"
            if have == "none" or not wanted.specifier.contains(have, prereleases=True):
                wrong.append(f"{wanted.name} is {have}, needed is {wanted.specifier}")
    if wrong:
        return Finding("here", "packages", "fail", f"{'; '.join(wrong)}: pip install --constraint constraints.txt .")
    return Finding("here", "packages", "ok", ", ".join(f"{name} {versions()[name]}" for name in MUST_AGREE))


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("here", "GPU", "ok", f"{', '.join(names)}, CUDA {torch.version.cuda}")
    if Path("/dev/nvidia0").exists():
        return Finding(
            "here", "GPU", "fail", "torch cannot use the one that is there: see nvidia-smi, update its driver"
        )
    return Finding("here", "GPU", "ok", "none; cells run on CPU cores")


def _cache() -> Path:
    from tta_core.cache import cache_root

    return cache_root()


def _disk(what: str, place: Path) -> Finding:
    existing = next((each for each in (place, *place.parents) if each.exists()), Path("/"))
    if not os.access(existing, os.W_OK):
        return Finding("here", what, "fail", f"{existing} cannot be written: mend its permissions")
    free = free_bytes(existing)
    state: Literal["ok", "warn"] = "ok" if free >= LEAST_GIB * 2**30 else "warn"
    advice = "" if state == "ok" else ": make room, or give another place"
    return Finding("here", what, state, f"{place}: {gib(free)} free{advice}")


def _images(configs: list[RunConfig]) -> Finding:
    from tta_core.run.available import check_available

    try:
        check_available(configs)
    except InputError as error:
        return Finding("here", "images and weights", "fail", str(error))
    return Finding("here", "images and weights", "ok", "all that the sweep reads is there")


def _token() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token":
        text = f"RAY_AUTH_MODE={mode}: whoever reaches the head controls the cluster; keep it on a private network"
        return Finding("here", "token", "warn", text)
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding("here", "token", "ok", "in RAY_AUTH_TOKEN")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not file.exists():
        text = f"none in {file}: copy the cluster's there, or make one with ray get-auth-token --generate"
        return Finding("here", "token", "fail", text)
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("here", "token", "warn", f"others can read {file}: chmod 600 {file}")
    return Finding("here", "token", "ok", f"{file}, mode 600")


def _jobs_packages() -> Finding:
    from importlib.util import find_spec

    lacking = [name for name in JOBS_PACKAGES if find_spec(name) is None]
    if lacking:
        text = f"this environment starts no head that takes jobs (no {lacking[0]}): pip install 'tta-grid[cluster]'"
        return Finding("here", "extra cluster", "warn", text)
    return Finding("here", "extra cluster", "ok", "a head that is started here takes jobs")


def _tracking(uri: str) -> Finding:
    from grid.track.uri import check_tracking_uri

    try:
        check_tracking_uri(uri)
    except InputError as error:
        return Finding("here", "tracking", "fail", str(error))
    return Finding("here", "tracking", "ok", uri.partition("://")[0])


def _results(results: str) -> Finding:
    from grid.store.store import ResultStore

    try:
        store = ResultStore(results)
        store.create()
    except InputError as error:
        return Finding("here", "results", "fail", str(error))
    return Finding("here", "results", "ok", f"{store.shown} can be written")


def _look_at_nodes(
    address: str, results: str | None, resources: Resources, configs: list[RunConfig]
) -> Iterator[Finding]:
    from tempfile import TemporaryDirectory

    from grid.launch.cluster import check_reachable, connected
    from grid.launch.mark import put_mark
    from grid.launch.nodes import ask_nodes, living_nodes
    from grid.store.store import ResultStore

    place = None if results is None else ResultStore(results).address
    try:
        check_reachable(address)
        # Without a results folder there is nothing to share, and that part of the answers is left out.
        with TemporaryDirectory() as own, connected(address), put_mark(place or own) as mark:
            nodes = living_nodes()
            yield Finding("cluster", "head", "ok", f"{address}: {len(nodes)} nodes")
            if not any(node.holds(resources) for node in nodes):
                text = (
                    f"none can hold a trial ({resources.cpu:g} CPU, {resources.gpu:g} GPU): start some, or lower them"
                )
                yield Finding("cluster", "nodes", "warn", text)
            for node, report in zip(nodes, ask_nodes(nodes, mark, configs, facts=True), strict=True):
                role = ", ".join(f"{node.room.total.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
                used = node.holds(resources)
                yield Finding(
                    report.name, "room", "ok", role if used else f"{role}: too little for a cell, it runs none"
                )
                problems = [each for each in report.problems if results is not None or own not in each]
                for problem in problems:
                    yield Finding(report.name, "fault", "fail" if used else "warn", problem)
                yield from _facts(report.name, report.facts)
    except (InputError, LaunchError) as error:
        yield Finding("cluster", "head", "fail", str(error))


def _facts(name: str, facts: dict[str, str]) -> Iterator[Finding]:
    if not facts:
        return
    agreed = ("python", "ray", "torch", "timm", "code", "commit")
    yield Finding(name, "versions", "ok", ", ".join(f"{each} {facts[each]}" for each in agreed))
    if abs(float(facts["clock"])) > CLOCK_SECONDS:
        yield Finding(name, "clock", "warn", f"{facts['clock']} s off this machine's: switch on NTP")
    rest = {key: value for key, value in facts.items() if key not in (*agreed, "clock", "host")}
    yield Finding(name, "has", "ok", ", ".join(f"{key} {value}" for key, value in rest.items()))
