"""Asks every node of the connected cluster what it has, before the first cell. Imports ray when it is asked."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grid.launch.mark import Mark
from grid.launch.provenance import git_commit, versions
from grid.launch.reasons import death_of
from grid.launch.waiting import Room
from grid.plan.sweep import Resources
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

PATIENCE_SECONDS = 120.0
"""How long a node may take to answer: it starts a process and imports this package."""


@dataclass(frozen=True)
class Node:
    """A living node of the cluster.

    Attributes:
        id: Ray's.
        name: host name and address, for people.
        room: what it has.
    """

    id: str
    name: str
    room: Room

    def holds(self, resources: Resources) -> bool:
        """Whether it can run a trial at all."""
        total = self.room.total
        return total.get("CPU", 0.0) >= resources.cpu and total.get("GPU", 0.0) >= resources.gpu


@dataclass(frozen=True)
class NodeReport:
    """What a node answered.

    Attributes:
        name: host name and address, for people.
        problems: what keeps it from running the cells, and what to do.
        facts: what it has beside that: name -> text.
        answered: whether it answered at all. One that does not may be busy, or on its way out.
    """

    name: str
    problems: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)
    answered: bool = True


def living_nodes() -> list[Node]:
    """The nodes of the connected cluster."""
    import ray

    free = ray._private.state.available_resources_per_node()
    return [
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            Room(dict(node["Resources"]), dict(free.get(node["NodeID"], {}))),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def rooms() -> list[Room]:
    """What the living nodes have."""
    return [node.room for node in living_nodes()]


def ask_nodes(
    nodes: Sequence[Node], mark: Mark, configs: Iterable[RunConfig] = (), *, facts: bool = False
) -> list[NodeReport]:
    """Looks at each node from a process on it.

    Args:
        nodes: the nodes.
        mark: what a node is held against.
        configs: cells whose images and weights are looked for on each node.
        facts: whether to report what else a node has.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    configs = tuple(configs)
    # With no CPU to wait for, a node answers while it runs other things.
    ask = ray.remote(num_cpus=0, max_retries=1)(_look_around)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
            mark, f"node-{secrets.token_hex(4)}", configs, facts
        )
        for node in nodes
    ]
    began = time.time()
    return [_answer(node, mark, reference, began) for node, reference in zip(nodes, asked, strict=True)]


def _answer(node: Node, mark: Mark, reference: Any, began: float) -> NodeReport:
    import ray

    try:
        patience = max(1.0, PATIENCE_SECONDS - (time.time() - began))
        answer, problems, facts = ray.get(reference, timeout=patience)
    except ray.exceptions.GetTimeoutError:
        slow = f"it did not answer within {PATIENCE_SECONDS:.0f} s: see whether it is overloaded, or take it out"
        return NodeReport(node.name, (slow,), answered=False)
    except ray.exceptions.RayError as error:
        death = death_of(str(error))
        return NodeReport(node.name, (death.reason,), answered=death.hopeless)
    if answer and not mark.answered(answer):
        problems = (*problems, f"what it writes to {mark.shown} is not seen by the driver: share that folder")
    if "clock" in facts:
        # It answered some time between our asking and now.
        clock = float(facts["clock"])
        facts["clock"] = f"{clock - min(max(clock, began), time.time()):+.0f}"
    return NodeReport(node.name, tuple(problems), facts)


def _look_around(
    mark: Mark, answer: str, configs: tuple[RunConfig, ...], facts: bool
) -> tuple[str, list[str], dict[str, str]]:
    """Runs on a node. Returns the file of its answer, if it wrote one; its problems; what else it has."""
    problems = [problem] if (problem := mark.version_problem(versions())) else []
    share = mark.share_problem(answer)
    problems += [share] if share else []
    if configs:
        from tta_core.run.available import check_available

        try:
            check_available(configs)
        except InputError as error:
            problems.append(str(error))
    return "" if share else answer, problems, _facts(mark) if facts else {}


def _facts(mark: Mark) -> dict[str, str]:
    import ray

    found = {**versions(), "commit": git_commit() or "unknown", "clock": f"{time.time():.0f}"}
    found["gpus"] = ",".join(map(str, ray.get_gpu_ids())) or str(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))
    for name, place in (("disk", Path(mark.place)), ("temporary", Path("/tmp")), ("shm", Path("/dev/shm"))):
        with contextlib.suppress(OSError):
            found[name] = f"{shutil.disk_usage(place).free / 2**30:.1f} GiB free"
    for name in ("TTA_GRID_DATA", "TTA_GRID_WEIGHTS", "TTA_GRID_CACHE"):
        found[name] = os.environ.get(name, "unset")
    return found | {"host": socket.gethostname()}


def check_nodes(mark: Mark, resources: Resources, configs: Iterable[RunConfig]) -> list[str]:
    """Fails if a node that can run a trial does not see the results folder, or lacks the same versions or the images.

    A node that does not answer now, or joins later, is looked at by its first trial, see `grid.launch.trial`.

    Returns:
        What to tell of nodes that did not answer.

    Raises:
        InputError: with the problems of each node.
    """
    reports = ask_nodes([node for node in living_nodes() if node.holds(resources)], mark, configs)
    told: dict[bool, list[str]] = {True: [], False: []}
    for report in reports:
        told[report.answered] += [f"node {report.name}: {problem}" for problem in report.problems]
    if problems := told[True]:
        raise InputError("the cluster cannot run this sweep:\n" + "\n".join(f"  {problem}" for problem in problems))
    return told[False]
