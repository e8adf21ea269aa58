"""Why a trial died, in words of our own. Ray's are long, and differ by who noticed first."""

from __future__ import annotations

import re
from dataclasses import dataclass

WORKER_DIED = "its worker process died (killed, out of memory, or crashed)"


@dataclass(frozen=True)
class Death:
    """Why a trial ended without a result.

    Attributes:
        reason: for people.
        node_lost: whether it was the node's end, which says nothing against the cell.
        hopeless: whether it ends the same way on that node, however often it is tried.
    """

    reason: str
    node_lost: bool = False
    hopeless: bool = False


def death_of(details: str) -> Death:
    """What Tune's error text says.

    Args:
        details: that text, with tracebacks; may be empty.
    """
    if "failed to import on the worker" in details:
        # Ray repeats the error of the node with its address.
        address = re.search(r"\bip=([0-9a-fA-F.:]+)", details)
        where = f"the node {address[1]}" if address else "a node"
        missing = re.findall(r"^\s*((?:ModuleNotFound|Import)Error: .*)$", details, re.MULTILINE)
        what = missing[-1] if missing else "this package cannot be imported"
        return Death(f"{where} cannot run cells ({what}): install tta-grid there, as on the driver", hopeless=True)
    if any(text in details for text in ("node has died", "node was terminated", "node was preempted", "NodeDiedError")):
        return Death("its node was lost", node_lost=True)
    if "rpc_code: 14" in details or "ActorUnavailableError" in details:
        return Death("the connection to its worker broke: its node is gone, or the process was killed", node_lost=True)
    if "OutOfMemoryError" in details and "node" in details and "CUDA" not in details:
        return Death("its worker was ended because the node ran out of memory: give a trial more resources.cpu")
    if not details.strip() or "The actor died" in details or "The actor is dead" in details:
        return Death(WORKER_DIED)
    return Death(details.strip().splitlines()[-1])
