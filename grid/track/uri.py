"""Where MLflow keeps runs: which places there are, and what is beside them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

from grid.databases import check_driver, without_password
from tta_core.errors import InputError

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
"""Tracking stores that MLflow still writes to; its folder store (`file:`, `./mlruns`) is closed."""

DATABASES = ("postgresql", "mysql", "mssql")
"""Those of them that Python needs another package for."""


def check_tracking_uri(uri: str) -> None:
    """Raises `InputError` if MLflow cannot write to this kind of store, or a package is missing for it."""
    scheme = urlparse(uri).scheme.partition("+")[0]
    if scheme not in SCHEMES:
        raise InputError(
            f"tracking URI {without_password(uri)!r}: MLflow needs one of {', '.join(SCHEMES)}; for a file give "
            "sqlite:///PATH/mlflow.db"
        )
    if scheme in DATABASES:
        check_driver(uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of an sqlite store; None for others."""
    scheme, _, path = uri.partition(":///")
    return Path(path).absolute() if scheme == "sqlite" and path else None


def artifact_location(uri: str) -> str | None:
    """Artefacts go beside an sqlite file, where MLflow would take the current folder; a server has its own place."""
    file = sqlite_file(uri)
    return (file.parent / "mlartifacts").as_uri() if file else None


def ui_command(uri: str) -> str:
    """What a user types to browse the runs."""
    if uri.startswith("http"):
        return f"open {without_password(uri)} in a browser"
    # With one worker the server starts in seconds and takes a quarter of the memory.
    return f"MLFLOW_DISABLE_TELEMETRY=true mlflow ui --workers 1 --backend-store-uri {without_password(uri)}"
