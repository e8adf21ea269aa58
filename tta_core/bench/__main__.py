"""`python -m tta_core.bench`: the benchmark on a machine that has no Ray, MLflow, Optuna or DuckDB."""

from __future__ import annotations

import sys

from tta_core.bench.command import bench_command
from tta_core.errors import InputError

if __name__ == "__main__":
    try:
        text, failed = bench_command(
            sys.argv[1:], program="python -m tta_core.bench", tell=lambda line: sys.stderr.write(f"{line}\n")
        )
    except InputError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
    sys.stdout.write(f"{text}\n")
    raise SystemExit(1 if failed else 0)
