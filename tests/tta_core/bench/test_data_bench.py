"""The benchmark of reading: what it reads, what it says, what it refuses."""

import json

import pytest

from tta_core.bench.command import bench_command
from tta_core.bench.data import write_photographs
from tta_core.errors import InputError


def run(*words):
    return bench_command(["--data", *words], program="bench", tell=lambda line: None)


def test_generated_files_are_measured_both_ways():
    text, failed = run("--images", "6", "--repeats", "1", "--batch-size", "4", "--json")
    found = json.loads(text)
    assert not failed
    assert found["images"] == 6
    assert found["ratio"] == pytest.approx(found["cached_per_second"] / found["decoded_per_second"])
    assert found["ratio"] > 10
    assert "ratio" in run("--images", "2", "--repeats", "1")[0]


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
        (["--images", "0"], "--images 0 is not allowed"),
        (["imagenet-c", "--root", "/nowhere"], "TTA_GRID_DATA = /nowhere is no folder"),
    ],
)
def test_what_is_wrong_is_one_message(words, message, monkeypatch):
    monkeypatch.setenv("TTA_GRID_DATA", "")
    with pytest.raises(InputError, match=message):
        run(*words)


def test_the_other_benchmark_has_the_option_in_its_help(capsys):
    with pytest.raises(SystemExit):
        bench_command(["--help"], program="bench", tell=print)
    assert "--data" in capsys.readouterr().out
