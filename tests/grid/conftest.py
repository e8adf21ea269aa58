"""Tiny sweeps, and the command run as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from grid.plan.sweep import read_sweep
from grid.store.store import ResultStore

TINY = """
sweep: tiny
base: {preset: digits-c, severity: 4, samples_per_domain: 8, domains: [fog, contrast], batch_size: 8}
grid:
  method: [source, tent, moetta]
  moetta.num_experts: [2, 3]
seeds: [0, 1]
"""

COMMAND = [sys.executable, "-u", "-c", "from grid.commands.main import main; main()"]


@pytest.fixture(scope="session")
def command_line() -> list[str]:
    """`tta-grid`, of this checkout and interpreter, with lines that come out at once."""
    return COMMAND


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    file.write_text(TINY)
    return file


@pytest.fixture
def tiny_sweep(tiny_file):
    return read_sweep(str(tiny_file))


@pytest.fixture
def store(tmp_path) -> ResultStore:
    """An empty store."""
    made = ResultStore(tmp_path / "results")
    made.create()
    return made


@pytest.fixture
def command(tmp_path):
    """Runs `tta-grid` in an empty folder; returns the finished process."""

    def run(*arguments: object, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, cwd=tmp_path, check=False
        )

    return run
