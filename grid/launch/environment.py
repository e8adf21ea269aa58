"""Environment switches of Ray, Tune and MLflow, to be set before these are imported.

Each is a default: what the user's own environment says goes first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A killed driver loses nothing: resuming goes by our own store, so Tune's snapshots need no care.
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # The default loggers import torch into the driver and cost more than a short cell.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Without it a trial that asks for no GPU sees all of them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Relative paths of the user mean the folder where the command was typed.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}

QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}
"""What to tell `ray.init`: Ray's own words go to its log files only."""


def set_switches() -> None:
    """Sets the switches that the user's environment leaves open."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)


def leave_job_folder() -> None:
    """Goes out of the folder that Ray unpacked a job in: nodes with one disk may replace it while the job runs."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        os.chdir("/")


def fresh_ray() -> Any:
    """Imports Ray, which forgets the token and the mode that an earlier launch of this process had."""
    import ray
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    logging.getLogger("ray").setLevel(logging.ERROR)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    return ray


@contextmanager
def silent(ray: Any) -> Iterator[None]:
    """Keeps the last page of a lost node's log out of ours: Ray prints it whatever `log_to_driver` says."""
    worker = ray._private.worker
    plain = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *given, **how: None
    try:
        yield
    finally:
        worker.print_to_stdstream = plain
