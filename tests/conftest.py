"""What all tests share."""

import gc
import os

import pytest
import torch

# Results and run times should not depend on how many cores happen to be free.
torch.set_num_threads(1)

# Ray puts its workers behind everything else: here they would wait for the tests that run beside them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray reads it in this case


def pytest_collection_finish():
    """Each run collects garbage before it starts: it need not look through all that was imported, every time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Libraries complain at exit of what was never freed."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Domains are built once for all tests, and not into the user's own cache."""
    os.environ["TTA_GRID_CACHE"] = str(tmp_path_factory.mktemp("cache"))
