"""Which code makes a result, and with which packages."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the three packages."""

PACKAGES = ("tta_core", "grid", "analysis")

MUST_AGREE = ("ray", "torch", "timm")
"""Libraries of which all nodes of a cluster have the same version."""


def git_commit() -> str:
    """Commit of the checkout that this package runs from, with `-dirty` if files were changed; empty if unknown."""
    here = Path(__file__).resolve().parent
    try:
        # An installed copy may lie inside some other project's checkout: that commit says nothing about this code.
        subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__], check=True, capture_output=True
        )
        commit = _git(here, "rev-parse", "HEAD")
        return f"{commit}-dirty" if _git(here, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def code_files() -> list[Path]:
    """The files of this project that are installed with it, in order."""
    found = (file for package in PACKAGES for file in (ROOT / package).rglob("*"))
    return sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)


@functools.cache
def versions() -> dict[str, str]:
    """What must agree on all nodes: Python, some libraries, and a hash of this project's own Python files."""
    code = hashlib.sha256()
    for file in code_files():
        if file.suffix == ".py":
            code.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    libraries = {name: _version(name) for name in MUST_AGREE}
    return {"python": platform.python_version(), **libraries, "code": code.hexdigest()[:12]}


def _version(name: str) -> str:
    try:
        # What follows a plus says how it was built: for a GPU or without.
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "none"
