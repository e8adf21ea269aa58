"""`tta-grid data bench`: what it reads, what it says, what it refuses."""

import json

import pytest
from click.testing import CliRunner

from grid.commands.main import main
from tta_core.bench.data import write_photographs


def run(*words):
    return CliRunner().invoke(main, ["data", "bench", *words])


def test_generated_files_are_measured_both_ways():
    done = run("--images", "6", "--repeats", "1", "--batch-size", "4", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["images"] == 6
    assert found["ratio"] == pytest.approx(found["cached_per_second"] / found["decoded_per_second"])
    assert found["ratio"] > 10
    assert "ratio" in run("--images", "2", "--repeats", "1").stdout


def test_generated_files_are_photographs_and_all_different(tmp_path):
    images = write_photographs(tmp_path / "files", 4, 64)[:]
    assert images.shape == (4, 64, 64, 3)
    assert images.std(axis=(1, 2, 3)).min() > 20
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imagenet-x"], "imagenet"),
        (["digits-c"], "has no image files"),
        (["imagenet-c", "--domain", "fgo"], "fog"),
        (["imagenet-c", "--severity", "7"], "severity 7 is not one of"),
        (["imagenet-c", "--crop", "centre"], "center"),
        (["--images", "0"], "'--images': 0 is not in the range"),
        (["imagenet-c", "--root", "/nowhere"], "TTA_GRID_DATA = /nowhere is no folder"),
    ],
)
def test_what_is_wrong_is_one_message_and_status_2(words, message, monkeypatch):
    monkeypatch.setenv("TTA_GRID_DATA", "")
    done = run(*words)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_the_option_of_before_names_the_command():
    done = CliRunner().invoke(main, ["bench", "--data", "imagenet-c"])
    assert (done.exit_code, "tta-grid data bench [BENCHMARK]" in done.output) == (2, True)
