"""Which code made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path


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
