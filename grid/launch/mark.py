"""A random text in the results folder, by which a node shows that it sees the same folder as the driver."""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grid.launch.provenance import versions

FOLDER = ".marks"

REINSTALL = "install the same there: the same constraints.txt, the same commit (see clusters/README.md)"


@dataclass(frozen=True)
class Mark:
    """What a launch expects of each node.

    Attributes:
        folder: the results folder, by the driver's path.
        name: name of the file with the mark.
        text: what it says.
        versions: what the driver has, see `grid.launch.provenance.versions`.
    """

    folder: str
    name: str
    text: str
    versions: dict[str, str]

    @property
    def _file(self) -> Path:
        return Path(self.folder) / FOLDER / self.name / "mark"

    def share_problem(self, answer: str) -> str:
        """Reads the mark on this node and writes it back; returns what is wrong, for people.

        Args:
            answer: name of the file for the answer.
        """
        try:
            if self._file.read_text() != self.text:
                return f"it has another folder at {self.folder}: {_SHARE}"
            (self._file.parent / answer).write_text(self.text)
        except FileNotFoundError:
            found = "has another folder at" if Path(self.folder).is_dir() else "has no folder"
            return f"it {found} {self.folder}: {_SHARE}"
        except OSError as error:
            return f"it cannot write to {self.folder} ({error.strerror}): mend the permissions there"
        return ""

    def answered(self, answer: str) -> bool:
        """Whether the driver sees what a node wrote."""
        try:
            return (self._file.parent / answer).read_text() == self.text
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
def put_mark(results: Path) -> Iterator[Mark]:
    """Writes a mark into a results folder while the context lasts.

    Raises:
        OSError: if that cannot be written.
    """
    name = secrets.token_hex(8)
    mark = Mark(str(results), name, secrets.token_hex(16), versions())
    folder = results / FOLDER / name
    folder.mkdir(parents=True)
    try:
        (folder / "mark").write_text(mark.text)
        yield mark
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def node_name() -> str:
    """This node, for people: host name and the address by which Ray knows it."""
    import ray

    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
