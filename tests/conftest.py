"""What all tests share."""

import gc
import os

import pytest
import torch

# Results and run times should not depend on how many cores happen to be free.
torch.set_num_threads(1)

# Ray puts its workers behind everything else: here they would wait for the tests that run beside them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray reads it in this case


MARKED = {
    "launch": """
        grid/launch/test_launch.py
        grid/launch/test_chaos.py
    """,
    "slow": """
        accelerator/test_gpu_report.py
        accelerator/test_methods.py
        accelerator/test_pixels.py
        accelerator/test_run.py
        analysis/report/
        analysis/results/test_damage.py
        analysis/results/test_fuzz.py
        analysis/results/test_needs.py
        analysis/results/test_query.py
        analysis/results/test_while_written.py
        grid/commands/test_main.py
        grid/launch/test_trial.py
        grid/search/test_keys.py
        grid/search/test_results.py
        grid/search/test_study.py
        grid/store/test_elsewhere.py
        grid/track/test_mlflow.py
        test_import_rules.py
        test_invariants.py
        test_readme.py
        tta_core/backbones/embedded/
        tta_core/backbones/test_hub.py
        tta_core/backbones/test_networks.py
        tta_core/backbones/test_zero_shot.py
        tta_core/bench/test_bench.py
        tta_core/bench/test_bench_pixels.py
        tta_core/bench/test_compilation.py
        tta_core/corruptions/test_corrupt.py
        tta_core/data/files/test_decoded.py
        tta_core/data/test_label_space.py
        tta_core/diagnostics/test_alignment.py
        tta_core/diagnostics/test_observer.py
        tta_core/methods/test_base.py
        tta_core/methods/test_contract.py
        tta_core/methods/test_golden_traces.py
        tta_core/methods/test_moetta_options.py
        tta_core/methods/test_pixel_methods.py
        tta_core/run/test_backbone_check.py
        tta_core/run/test_cell.py
        tta_core/run/test_checkpoint.py
        tta_core/run/test_pictures.py
        tta_core/run/test_segmentation.py
        tta_core/streams/test_batches.py
        tta_core/streams/test_choice.py
    """,
}
"""Marker -> files, or folders, of tests that `make check` leaves out as a whole."""


def pytest_collection_modifyitems(items):
    """Marks the tests of whole files."""
    for item in items:
        place = item.path.relative_to(item.config.rootpath / "tests").as_posix()
        for marker, places in MARKED.items():
            if place.startswith(tuple(places.split())):
                item.add_marker(getattr(pytest.mark, marker))


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
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
