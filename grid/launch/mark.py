"""A random text where the results are, by which a node shows that it sees the same place as the driver."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from grid.launch.provenance import versions
from grid.store.objects import Objects, error_line, is_url

FOLDER = ".marks"

REINSTALL = "install the same there: the same constraints.txt, the same commit (see clusters/README.md)"


@dataclass(frozen=True)
class Mark:
    """What a launch expects of each node.

    Attributes:
        place: where the results are, by the driver's path, or a URL.
        name: name of the folder with the mark.
        text: what it says.
        versions: what the driver has, see `grid.launch.provenance.versions`.
    """

    place: str
    name: str
    text: str
    versions: dict[str, str]

    @property
    def shown(self) -> str:
        """The place for people."""
        return Objects(self.place).shown

    def share_problem(self, answer: str) -> str:
        """Reads the mark on this node and writes it back; returns what is wrong, for people.

        Args:
            answer: name of the file for the answer.
        """
        objects = Objects(self.place)
        try:
            if objects.read(f"{FOLDER}/{self.name}/mark") != self.text.encode():
                return f"it has another folder at {objects.shown}: {_SHARE}"
            objects.write(f"{FOLDER}/{self.name}/{answer}", self.text.encode())
        except FileNotFoundError:
            if is_url(self.place):
                return f"it sees something else at {objects.shown}: give it the same endpoint and credentials"
            found = "has another folder at" if Path(self.place).is_dir() else "has no folder"
            return f"it {found} {objects.shown}: {_SHARE}"
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error_line(error)
            return f"it cannot write to {objects.shown} ({reason}): mend the permissions there"
        return ""

    def answered(self, answer: str) -> bool:
        """Whether the driver sees what a node wrote."""
        try:
            return Objects(self.place).read(f"{FOLDER}/{self.name}/{answer}") == self.text.encode()
        except OSError:
            return False

    def version_problem(self, found: dict[str, str]) -> str:
        """What differs between a node and the driver, for people."""
        differing = [
            f"{name} {found.get(name, 'none')} where the driver has {wanted}"
            for name, wanted in self.versions.items()
            if found.get(name) != wanted
        ]
        return f"it has {', '.join(differing)}: {REINSTALL}" if differing else ""

    def problem_here(self) -> str:
        """What is wrong with this node, for people; empty if nothing is."""
        return self.version_problem(versions()) or self.share_problem(f"worker-{secrets.token_hex(4)}")


_SHARE = "give --results on a file system that the driver and all nodes share, mounted at the same path"


@contextmanager
def put_mark(place: str | Path) -> Iterator[Mark]:
    """Writes a mark where the results are while the context lasts.

    Raises:
        OSError: if that cannot be written.
    """
    mark = Mark(str(place), secrets.token_hex(8), secrets.token_hex(16), versions())
    objects = Objects(mark.place)
    objects.write(f"{FOLDER}/{mark.name}/mark", mark.text.encode())
    try:
        yield mark
    finally:
        with suppress(OSError):
            objects.delete(f"{FOLDER}/{mark.name}")


def node_name() -> str:
    """This node, for people: host name and the address by which Ray knows it."""
    import ray

    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
