"""Jobs on a Ray cluster, through the Jobs API of its head. Needs no more of Ray than a launch does.

A job runs on the cluster whether or not the machine that sent it is still there.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from grid.events import LaunchError
from grid.launch.cluster import has_token
from grid.launch.environment import fresh_ray, set_switches
from tta_core.errors import InputError

VARIABLE = "RAY_API_SERVER_ADDRESS"
TOOL = "tta-grid"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

POLL_SECONDS = 2.0
SILENCE_SECONDS = 600.0
"""How long a head may be silent while its log is followed."""

STOP_SECONDS = 120
"""How long a job that is stopped may take to end in order. Ray's own patience is 3 s."""


@dataclass(frozen=True)
class Job:
    """A job that `tta-grid submit` made.

    Attributes:
        id: its name on the cluster.
        state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: what Ray says of its end.
        sweep, results, cells: what it runs, where results go, and how many cells there are in all.
        started_ms: ms since the epoch.
    """

    id: str
    state: str
    message: str
    sweep: str
    results: str
    cells: str
    started_ms: int

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.state in ENDED


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str | None) -> None:
        """Connects.

        Args:
            address: `http://host:port` of the head's dashboard; None for what the environment says.

        Raises:
            InputError: if there is no such address, or the token is refused.
            LaunchError: if nothing answers there.
        """
        self.address = api_address(address)
        self._mode = os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token() else "disabled")
        set_switches()
        fresh_ray()
        from ray.job_submission import JobSubmissionClient

        for name in ("modules.dashboard_sdk", "modules.job.sdk"):
            logging.getLogger(f"ray.dashboard.{name}").setLevel(logging.ERROR)
        # Ray takes another address over the one that it is given.
        os.environ[VARIABLE] = self.address
        self._client: Any = self._asked(lambda: JobSubmissionClient(self.address))

    def all(self) -> list[Job]:
        """Jobs of this tool, the oldest first."""
        found = [details for details in self._asked(self._client.list_jobs) if details.submission_id]
        jobs = [_job(details) for details in found if (details.metadata or {}).get("tool") == TOOL]
        return sorted(jobs, key=lambda job: job.started_ms)

    def get(self, name: str) -> Job:
        """One job.

        Raises:
            InputError: if there is none of that name.
        """
        jobs = {job.id: job for job in self.all()}
        if name not in jobs:
            known = f"the jobs there are {', '.join(jobs)}" if jobs else "it has none of this tool"
            raise InputError(f"no job {name!r} at {self.address}: {known}")
        return jobs[name]

    def submit(self, name: str, entrypoint: str, folder: Path, variables: dict[str, str], tags: dict[str, str]) -> None:
        """Sends a folder and starts a job in it."""
        self._asked(
            lambda: self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env={"working_dir": str(folder), "env_vars": variables},
                metadata={"tool": TOOL, **tags},
            )
        )

    def logs(self, name: str) -> str:
        """All that a job printed."""
        return str(self._asked(lambda: self._client.get_job_logs(name)))

    def follow(self, name: str) -> Iterator[str]:
        """What a job prints, until it ends. A head that is silent for a while is asked again.

        Raises:
            LaunchError: if it is silent for too long.
        """
        shown, heard = 0, time.monotonic()
        while True:
            try:
                # The state first: what is printed before the end is in the log that is read after it.
                ended = self.get(name).ended
                text = self.logs(name)
                heard = time.monotonic()
            except LaunchError as error:
                if time.monotonic() - heard > SILENCE_SECONDS:
                    raise LaunchError(
                        f"{error} The job goes on without us; look again with: tta-grid logs {name} --follow "
                        f"--address {self.address}"
                    ) from None
                ended, text = False, ""
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
            if ended:
                return
            time.sleep(POLL_SECONDS)

    def stop(self, name: str) -> Job:
        """Ends a job in order, and waits for it."""
        if not self.get(name).ended:
            self._asked(lambda: self._client.stop_job(name))
        ends = time.monotonic() + STOP_SECONDS + 10
        while not (job := self.get(name)).ended and time.monotonic() < ends:
            time.sleep(POLL_SECONDS)
        return job

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """Turns what the client raises into messages."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            check_answers(self.address)
            return ask()
        except LaunchError:
            raise
        except AuthenticationError:
            raise InputError(
                f"the cluster at {self.address} refuses us (RAY_AUTH_MODE is {self._mode}): give the cluster's token "
                "in RAY_AUTH_TOKEN, or in the file that RAY_AUTH_TOKEN_PATH names, and set RAY_AUTH_MODE=token"
            ) from None
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise LaunchError(f"the cluster at {self.address} does not answer ({_line(error)}).") from None
        except RuntimeError as error:
            raise LaunchError(f"the cluster at {self.address} did not do it: {_line(error)}") from None


def _line(error: Exception) -> str:
    text = str(error)
    # The server sends its traceback along: its last line says what was wrong.
    lines = [line for line in text.replace("\\n", "\n").strip().splitlines() if line.strip(' ".')]
    return lines[-1].strip(' "') if lines else type(error).__name__


def api_address(given: str | None) -> str:
    """The address of a Jobs API.

    Raises:
        InputError: if it is none.
    """
    address = given or os.environ.get(VARIABLE)
    if not address:
        raise InputError(f"no cluster is named: give --address http://HEAD:8265, or set {VARIABLE}")
    parsed = urlparse(address)
    try:
        whole = parsed.scheme in ("http", "https") and parsed.hostname and (parsed.port or parsed.scheme == "https")
    except ValueError:
        whole = False
    if not whole:
        raise InputError(
            f"address {address!r}: jobs go to the head's dashboard: give http://HEAD:8265 (a tunnel makes that "
            "http://127.0.0.1:8265, see clusters/README.md)"
        )
    return address.rstrip("/")


def check_answers(address: str) -> None:
    """Fails within seconds where the client would wait for minutes.

    Raises:
        LaunchError: if nothing answers.
    """
    parsed = urlparse(address)
    try:
        socket.create_connection((parsed.hostname or "", parsed.port or 443), timeout=10).close()
    except OSError as error:
        raise LaunchError(
            f"nothing answers at {address} ({error}): open the tunnel to the head, or see whether the head runs. A "
            "head has a Jobs API only if its environment has the extra: pip install 'tta-grid[cluster]'"
        ) from None


def _job(details: Any) -> Job:
    tags = details.metadata or {}
    return Job(
        id=details.submission_id,
        state=str(getattr(details.status, "value", details.status)),
        message=_message(details.message or ""),
        sweep=tags.get("sweep", ""),
        results=tags.get("results", ""),
        cells=tags.get("cells", ""),
        started_ms=details.start_time or 0,
    )


def _message(text: str) -> str:
    """What Ray says of a job's end, with our own last word where it appends pages of the log."""
    said, _, printed = text.partition(", last available logs")
    # Lines that go on with it, such as one a node, are indented.
    ours = re.findall(r"^Error: (.*(?:\n +.*)*)", printed, re.MULTILINE)
    return " ".join(f"{said}: {ours[-1]}".split()) if ours else " ".join(said.split())
